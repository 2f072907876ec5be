"""Weights by seed and name: whatever else the model holds, however it was built, and without a trace in the generators."""

import math

import pytest
import tiny
import torch
from torch import nn

from torchflava.encoders import flava_image_encoder
from torchflava.training import initialise


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first, second, other = tiny.pretraining(), tiny.pretraining(), tiny.pretraining()
    before = torch.get_rng_state()
    initialise(first, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    initialise(second, 3)
    initialise(other, 4)
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())
    drawn = [name for name, value in weights(first).items() if value.numel() > 1 and value.std() > 0]
    assert len(drawn) > 20
    assert not any(torch.equal(weights(first)[name], weights(other)[name]) for name in drawn)


def test_every_part_draws_for_itself() -> None:
    """No two of one shape are equal, and a model with other heads or another tower has the same weights elsewhere."""
    whole, without = tiny.pretraining(), tiny.pretraining()
    without.mim = None
    without.flava.text_encoder = tiny.text_encoder(depth=1)
    initialise(whole, 0), initialise(without, 0)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(without).items())
    drawn = [value for value in weights(whole).values() if value.numel() > 1 and value.std() > 0]
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_the_values_are_those_of_the_parts_own_rule() -> None:
    """A parent's rule wins over its children's: torch's Linear would draw uniform weights and biases."""
    model = flava_image_encoder(width=96, depth=2, num_heads=2, image_size=32, patch_size=8)
    initialise(model, 0)
    fresh = flava_image_encoder(width=96, depth=2, num_heads=2, image_size=32, patch_size=8)
    for (name, value), due in zip(weights(model).items(), weights(fresh).values(), strict=True):
        error = (
            4 * float(due.std()) / math.sqrt(due.numel())
        )  # four standard errors of a mean, nearly six of a deviation
        assert abs(float(value.std()) - float(due.std())) <= error, name
        assert abs(float(value.mean()) - float(due.mean())) <= 2 * error, name


def test_on_the_meta_device_a_model_gets_memory_and_the_same_weights() -> None:
    plain = tiny.pretraining()
    initialise(plain, 7)
    with torch.device("meta"):
        model = tiny.pretraining()
    initialise(model, 7)
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(model).items())
    with torch.device("meta"):
        block = tiny.image_encoder().trunk.blocks[1]
    initialise(block, 7, prefix="flava.image_encoder.trunk.blocks.1")
    due = plain.flava.image_encoder.trunk.blocks[1]
    assert all(torch.equal(value, weights(due)[name]) for name, value in weights(block).items())


def test_what_no_part_draws_is_an_error_on_the_meta_device_alone() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    model = Bare()
    initialise(model, 0)
    assert torch.equal(model.weight, torch.ones(2))
    with pytest.raises(ValueError, match=r"part\.weight have no reset_parameters; build the model on the CPU instead"):
        initialise(Bare().to("meta"), 0, prefix="part")
    with torch.device("meta"):
        normed = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="buffer running_mean of a BatchNorm1d is on the meta device"):
        initialise(normed, 0)
