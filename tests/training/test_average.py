"""The running average of weights, against a loop written out; and a learning rate by depth, against its formula."""

import pytest
import torch
from torch import nn

from torchflava.training import adamw, adamw_by_depth, averaged, set_learning_rate, update_average


def trained(steps: int, decay: float) -> tuple[nn.Linear, torch.optim.Optimizer, list[torch.Tensor]]:
    """A layer that learns, its optimizer with the average, and its weight after each step."""
    torch.manual_seed(0)
    model, seen = nn.Linear(3, 2), []
    optimizer = adamw(model, 0.1, 0.1)
    for step in range(steps):
        model(torch.full((5, 3), float(step))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        update_average(optimizer, decay)
        seen.append(model.weight.detach().clone())
    return model, optimizer, seen


def test_the_average_is_the_loop_written_out() -> None:
    model, optimizer, seen = trained(5, 0.7)
    due = seen[0]
    for weight in seen[1:]:
        due = 0.7 * due + 0.3 * weight
    with averaged(optimizer):
        assert torch.allclose(model.weight, due)
        assert not torch.equal(model.weight, seen[-1])
    assert torch.equal(model.weight, seen[-1])  # to the bit
    with averaged(optimizer):
        assert torch.allclose(model.weight, due)


def test_an_average_changes_no_step() -> None:
    assert torch.equal(trained(4, 0.9)[2][-1], trained(4, 0.0)[2][-1])


def test_without_a_step_there_is_none() -> None:
    model = nn.Linear(3, 2)
    optimizer = adamw(model, 0.1, 0.1)
    before = model.weight.detach().clone()
    with averaged(optimizer):
        assert torch.equal(model.weight, before)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_cannot_be_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay is {decay}"):
        update_average(adamw(nn.Linear(3, 2), 0.1, 0.1), decay)


def test_rates_fall_by_depth() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    levels = {name: int(name[0]) * 2 for name, _ in model.named_parameters()}
    optimizer = adamw_by_depth(model, 0.5, 0.1, depths=levels, layer_decay=0.8)
    names = {id(p): name for name, p in model.named_parameters()}
    for lr in (0.5, 0.25):
        set_learning_rate(optimizer, lr)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                assert group["lr"] == pytest.approx(lr * 0.8 ** (4 - levels[name]))
                assert group["weight_decay"] == (0.1 if name.endswith("weight") else 0.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_a_factor_that_cannot_be_is_refused() -> None:
    model = nn.Linear(3, 2)
    levels = {"weight": 0, "bias": 0}
    with pytest.raises(ValueError, match=r"layer_decay is 1.2"):
        adamw_by_depth(model, 0.5, 0.1, depths=levels, layer_decay=1.2)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        adamw_by_depth(model, 0.5, 0.1, depths=levels, layer_decay=0.9)
