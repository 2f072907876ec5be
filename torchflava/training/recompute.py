"""Computing a unit's inner states again in backward, all of them or those that are cheap, to have memory for more rows.

Source: torch.utils.checkpoint (torch 2.14); named as torchtitan names the two ways. Measured in docs/decisions/0073.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from torchflava.training.allocator import give_back_freed_memory

Recompute = Literal["none", "selective", "full"]
"""What is computed again: nothing; all but the results of dear products; or all."""

_TRIM_EVERY = 10  # units: more often costs time, for what the next unit takes is given back too (docs/decisions/0073)
_aten = torch.ops.aten
_DEAR = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""Linear layers, convolutions and torch's attention in one kernel; attention by plain products is none of them, for its backward
needs the table of shares anyway."""


def recompute(units: Iterable[nn.Module], how: Recompute = "full") -> None:
    """Keep less of the units' inner states for backward, and compute the rest again there; before `compile_units` and `shard`.

    With `selective`, backward can go through a graph once, and no result of a linear layer may be changed in place. With `full`,
    memory comes before time: on the CPU, what backward frees is given back to the system too.

    Args:
        units: the parts, each of which is computed again by itself.
        how: see `Recompute`.

    Raises:
        ValueError: for another way.
    """
    if how not in ("none", "selective", "full"):
        raise ValueError(f"recompute must be none, selective or full, got {how!r}")
    heap = _Heap()
    for unit in units if how != "none" else ():
        unit.forward = partial(_again, how, unit.forward)
        if how == "full":
            unit.register_forward_hook(heap.after)


def is_recomputed(unit: nn.Module) -> bool:
    """Whether `recompute` was called on it."""
    return isinstance(unit.forward, partial) and unit.forward.func is _again


def _again(how: Recompute, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward`, in a function of this project's, for torch compiles none that begins within torch."""
    options: dict[str, Any] = {"use_reentrant": False, "respect_saved_tensors_hooks": True}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _DEAR)
    return checkpoint(forward, *args, **options, **kwargs)


def learning(output: Any) -> Iterator[Tensor]:
    """The tensors in what a call gave back that a backward may begin at."""
    if isinstance(output, Tensor):
        if output.requires_grad:
            yield output
    elif isinstance(output, dict | list | tuple):
        for value in output.values() if isinstance(output, dict) else output:
            yield from learning(value)


class _Heap:
    """Memory of the CPU that backward has freed: glibc keeps what lies among the rest, a quarter of what a step takes and more,
    until it is told to give it back."""

    def __init__(self) -> None:
        self.passed = 0

    def after(self, unit: nn.Module, _: Any, output: Any) -> None:
        """A unit's forward hook."""
        if not torch.compiler.is_compiling():
            for tensor in learning(output):
                if tensor.is_cpu:
                    tensor.register_hook(self.trim)  # type: ignore[no-untyped-call]
                    return

    def trim(self, _: Tensor) -> None:
        """Backward is at another unit."""
        self.passed += 1
        if self.passed % _TRIM_EVERY == 0:
            give_back_freed_memory()
