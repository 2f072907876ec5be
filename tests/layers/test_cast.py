"""Weights cast once beside autocast, which casts them at each call."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from torchflava.layers import beit_transformer, cast_products, causal_transformer, transformer

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "flava": lambda: transformer(64, 2, 4),
    "clip": lambda: causal_transformer(64, 2, 4),
    "beit": lambda: beit_transformer(64, 2, 4, side=4),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_under_autocast_outputs_are_the_same_to_the_bit(name: str) -> None:
    torch.manual_seed(0)
    plain = BUILDERS[name]().eval()
    once, x = deepcopy(plain), torch.randn(3, 17, 64)
    cast_products(once, torch.bfloat16)
    with torch.no_grad():
        exact = plain(x)
        with torch.autocast("cpu", torch.bfloat16):
            of_plain, of_once = plain(x), once(x)
    assert torch.equal(of_plain, of_once)
    assert not torch.equal(of_plain.float(), exact)  # else autocast did nothing


def test_linear_layers_of_blocks_alone_are_cast() -> None:
    model = nn.ModuleDict({"trunk": transformer(32, 1, 2), "head": nn.Linear(32, 5)})
    cast_products(model, torch.bfloat16)
    low = {name.rpartition(".")[0] for name, weight in model.named_parameters() if weight.dtype == torch.bfloat16}
    block = "trunk.blocks.0"
    assert low == {f"{block}.attention.qkv", f"{block}.attention.out", f"{block}.mlp.up", f"{block}.mlp.down"}
