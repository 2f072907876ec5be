"""What a module knows of other ranks where there are none; with ranks, see tests/distributed."""

import pytest
import torch

from torchflava.distributed import gather, rank, sum_over_ranks, world_size


def test_there_is_one_rank() -> None:
    assert (rank(), world_size()) == (0, 1)


@pytest.mark.parametrize("gradients", ["global", "local"])
def test_gathering_is_the_identity(gradients: str) -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert gather(x, gradients) is x


def test_gathering_constants_cuts_the_graph() -> None:
    x = torch.ones(3, 5, requires_grad=True)
    gathered = gather(x, "none")
    assert torch.equal(gathered, x)
    assert not gathered.requires_grad


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="gradients must be 'global', 'local' or 'none', got 'some'"):
        gather(torch.ones(2), "some")


def test_a_sum_over_ranks_is_a_copy_without_gradient() -> None:
    x = torch.ones(3, requires_grad=True)
    total = sum_over_ranks(x)
    assert torch.equal(total, x)
    assert not total.requires_grad
    total.add_(1)
    assert x.sum() == 3
