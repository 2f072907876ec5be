"""From sums and counts to one number, on one rank; many ranks stand in tests/distributed."""

import pytest
import torch

from torchflava.losses import LOSSES, Loss, mean_losses, weighted_sum


def loss(total: float, rows: float) -> Loss:
    return Loss(torch.tensor(total, requires_grad=True), torch.tensor(rows))


@pytest.mark.parametrize("over", ["global", "rank"])
def test_means_are_totals_over_counts_and_zero_without_rows(over: str) -> None:
    losses = {"mim": loss(6.0, 4.0), "itm": loss(5.0, 2.0), "mlm": loss(0.0, 0.0)}
    means = mean_losses(losses, over)
    assert {name: mean.item() for name, mean in means.items()} == {"mim": 1.5, "itm": 2.5, "mlm": 0.0}
    grads = torch.autograd.grad(sum(means.values()), [part.total for part in losses.values()])
    assert [grad.item() for grad in grads] == [0.25, 0.5, 1.0]


def test_micro_batches_add_up() -> None:
    parts = [loss(6.0, 4.0), loss(1.0, 3.0)]
    whole = Loss(parts[0].total + parts[1].total, parts[0].num_rows + parts[1].num_rows)
    assert whole.mean.item() == 1.0


def test_weights_multiply_and_those_of_other_kinds_wait() -> None:
    means = {"mim": torch.tensor(2.0), "itm": torch.tensor(3.0)}
    assert weighted_sum(means, {"mim": 0.5, "itm": 7.0, "mlm": 11.0}).item() == 22.0
    assert weighted_sum(means, dict.fromkeys(LOSSES, 1.0)).item() == 5.0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no weight for itm, mim; give one, 1.0"):
        weighted_sum({"mim": torch.tensor(2.0), "itm": torch.tensor(3.0)}, {"mlm": 1.0})
    with pytest.raises(ValueError, match="no loss to sum"):
        weighted_sum({}, {"mlm": 1.0})
    with pytest.raises(ValueError, match="'global' or 'rank', got 'mean'"):
        mean_losses({"mim": loss(1.0, 1.0)}, "mean")


def test_the_names_of_the_losses() -> None:
    assert LOSSES == ("mim", "mlm", "mmm_image", "mmm_text", "itm", "contrastive")


def test_a_loss_whose_rows_were_not_counted_is_named() -> None:
    losses = {name: Loss(torch.tensor(3.0), torch.tensor(2.0)) for name in ("mim", "mine")}
    with pytest.raises(ValueError, match="num_rows lacks mine; count its rows in the whole batch too"):
        mean_losses(losses, num_rows={"mim": torch.tensor(4.0)})
