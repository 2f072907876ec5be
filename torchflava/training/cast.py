"""Weights that one rank casts for a call, and lets go as its backward passes them.

What FSDP2 (torch 2.14) does with the weights that it gathers is done with those that are cast: what a tensor holds is given back
while the tensor stays, so that all that ask for it have one place in the graph.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter


class Made(dict[tuple[int, bool], Any]):
    """What a call cast, each once, until backward is done with it."""

    def of(self, own: Any, cast: Callable[[Any], Any]) -> Any:
        """A module's own weight, cast."""
        key = id(own), torch.is_grad_enabled()  # what was cast without gradient serves no call that has one
        if key not in self:
            self[key] = made = cast(own)
            if isinstance(made, Tensor) and made.requires_grad and made is not own:
                # It is called when all uses have given their gradients. The graph must not hold what holds the graph.
                made.register_hook(partial(_let_go, ref(self), key))  # type: ignore[no-untyped-call]
        elif isinstance(self[key], Tensor):
            _fill(self[key], own)
        return self[key]

    def empty(self, own: Iterable[Tensor]) -> None:
        """Give back what the casts of these weights hold, until they are asked for once more."""
        for made, _ in self._learning(own):
            made.untyped_storage().resize_(0)

    def fill(self, own: Iterable[Tensor]) -> None:
        """Cast again what `empty` gave back."""
        for made, weight in self._learning(own):
            _fill(made, weight)

    def _learning(self, own: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for weight in own:
            made = self.get((id(weight), True))
            if made is not None and made is not weight and made.requires_grad:
                yield made, weight


def _fill(made: Tensor, own: Tensor) -> None:
    if made.untyped_storage().nbytes() == 0 and own.numel():
        with torch.no_grad(), _unsafe_preserve_version_counter(made):
            made.untyped_storage().resize_(made.numel() * made.itemsize)
            made.copy_(own)


def _let_go(made: "ref[Made]", key: tuple[int, bool], _: Tensor) -> None:
    if (found := made()) is not None:
        found.pop(key, None)
