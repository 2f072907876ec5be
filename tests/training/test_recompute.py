"""What is computed again in backward: which operations, how memory is given back, and what is refused."""

import sys
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchflava.training import recompute

training = sys.modules["torchflava.training.recompute"]  # the package's name for it is the function's


class Counted(TorchDispatchMode):
    """How often each operation runs."""

    def __init__(self) -> None:
        super().__init__()
        self.times: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times[func.name()] = self.times.get(func.name(), 0) + 1
        return func(*args, **(kwargs or {}))


class Net(nn.Module):
    """A block that ends with a norm, as foreign ones do, so that the last product is asked for too."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(5, 7), nn.Linear(7, 5), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(torch.nn.functional.gelu(self.up(x))))


@pytest.mark.parametrize(("how", "products", "cheap"), [("none", 2, 1), ("selective", 2, 2), ("full", 4, 2)])
def test_products_run_once_and_what_is_cheap_twice(how: Any, products: int, cheap: int) -> None:
    unit = Net()
    recompute([unit], how)
    with Counted() as counted:
        unit(torch.randn(3, 5)).sum().backward()
    assert counted.times["aten::addmm"] == products
    assert counted.times["aten::gelu"] == cheap


@pytest.mark.parametrize(("how", "times"), [("none", 0), ("selective", 0), ("full", 2)])
def test_memory_is_given_back_at_every_tenth_unit_of_backward(how: Any, times: int, monkeypatch: Any) -> None:
    given: list[int] = []
    monkeypatch.setattr(training, "give_back_freed_memory", lambda: given.append(0))
    units = nn.Sequential(*(Net() for _ in range(23)))
    recompute(units, how)
    loss = units(torch.randn(3, 5)).sum()
    assert given == []
    loss.backward()
    assert given == [0] * times


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_the_c_library_has_what_gives_memory_back() -> None:
    assert training.give_back_freed_memory() in (False, True)


def test_a_pairs_texts_come_before_its_images() -> None:
    model, order = tiny.pretraining(), []
    for name in ("image", "text"):
        block = model.flava.get_submodule(f"{name}_encoder").trunk.blocks[0]
        block.register_forward_hook(lambda *_, name=name: order.append(name))
    batch = tiny.batch_of("pair")
    for encode in (model, model.fuse_masked, model.fuse_clean, model.embed_pair):
        encode(batch)
        assert order == ["text", "image"]
        order.clear()


def test_what_cannot_be_computed_again_is_told() -> None:
    with pytest.raises(ValueError, match="recompute must be none, selective or full, got 'half'"):
        recompute([], "half")  # type: ignore[arg-type]
    unit = Net()
    recompute([unit], "selective")
    loss = unit(torch.randn(3, 5)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward an extra time"):
        loss.backward()
