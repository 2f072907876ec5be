"""All that a module may know of other ranks. Without a process group there is one rank and gathering is the identity."""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_single, wait_tensor  # the public ones are deprecated

Gather = Literal["global", "local", "none"]
"""Whose gradients flow back through a gather: every rank's, this rank's only, or no one's (paper §4.2, table 3)."""


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(x: Tensor, gradients: Gather = "global") -> Tensor:
    """(B, ...) -> (world * B, ...), in the order of the ranks; every rank must bring the same shape.

    Args:
        x: this rank's rows.
        gradients: `global` is differentiable through all ranks, so that after averaging gradients over ranks (DDP, FSDP)
            the gradient is that of one process on the whole batch; `local` keeps this rank's own rows in the graph;
            `none` gathers constants.
    """
    if gradients not in ("global", "local", "none"):
        raise ValueError(f"gather: gradients must be 'global', 'local' or 'none', got {gradients!r}")
    if world_size() == 1:
        return x if gradients != "none" else x.detach()
    if gradients == "global":
        return wait_tensor(all_gather_single(x.contiguous(), 0, dist.group.WORLD))  # type: ignore[no-untyped-call, arg-type]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    if gradients == "local":
        parts[rank()] = x
    return torch.cat(parts)


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks, without gradient; `x` itself is left alone."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x
