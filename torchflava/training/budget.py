"""What weights, moments and gradients take on a rank while FSDP trains a model, in bytes, as `shard` shards it.

Source: torch.distributed.fsdp (torch 2.14), `_fsdp_param.py`, for what is in shards and what is gathered; AdamW has two moments.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

_FP32 = 4  # bytes
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


class Budget(NamedTuple):
    """Bytes on one rank."""

    weights: int
    """The shard of the weights in float32, with AdamW's two moments of each."""
    gradients: int
    """The shard of the gradients in float32; whole gradients, where they are added up over parts of a batch."""
    gathered: int
    """Weights to compute with, the root's and two units', with the buffers in which a unit's come and its gradients go; on one
    rank, which computes with its own, those that are cast."""
    update: int
    """What comes after backward, when its states are gone: the root's gradients on their way, or the optimizer's roots."""
    in_main_memory: int
    """Offloaded: the shards of weights, moments and gradients."""


def fsdp_budget(
    model: nn.Module,
    units: Sequence[nn.Module],
    *,
    shards: int,
    precision: str = "fp32",
    accumulates: bool = False,
    offload: bool = False,
    alone: bool = False,
    recomputed: bool = False,
) -> Budget:
    """What a rank has beside the states of forward and backward.

    Args:
        model: of any device; only sizes are looked at.
        units: the parts gathered one by one.
        shards: ranks that a weight is spread over; 1 where each has a copy.
        precision: of the gathered weights, fp32, bf16 or fp16.
        accumulates: whether a batch comes in parts; until the last one, FSDP keeps the whole gradients in float32 on each rank.
        offload: weights, moments and gradients in shards are in main memory.
        alone: one rank trains, which shards and gathers nothing unless weights are in main memory.
        recomputed: units, not compiled, are computed again in backward, for which one rank casts their weights again too.

    Raises:
        ValueError: for an unknown precision, less than one shard, or shards of one rank.
    """
    if precision not in _BYTES:
        raise ValueError(f"precision must be one of {', '.join(_BYTES)}, got {precision!r}")
    if shards < 1:
        raise ValueError(f"shards is {shards}; a weight lies on 1 rank or more")
    if alone and shards > 1:
        raise ValueError(f"shards is {shards}; one rank has 1")
    sizes, size = [num_weights(unit) for unit in units], _BYTES[precision]
    whole, unit = num_weights(model), max(sizes, default=0)
    root = whole - sum(sizes)
    shard = -(-whole // shards)
    lying = 3 * _FP32 * shard
    gathered, on_their_way = size * (root + 2 * unit) + (size + size + _FP32) * unit, _FP32 * root
    if alone and not offload:
        cast = size * (root + 2 * unit if recomputed else whole + unit)
        gathered, on_their_way = 0 if size == _FP32 else cast, 0
    return Budget(
        weights=0 if offload else lying,
        gradients=_FP32 * whole if accumulates else 0 if offload else _FP32 * shard,
        gathered=gathered,
        update=max(on_their_way, 0 if offload else _FP32 * shard),
        in_main_memory=lying + _FP32 * shard if offload else 0,
    )


def num_weights(part: nn.Module) -> int:
    """Of a part, each once."""
    return sum(parameter.numel() for parameter in part.parameters())
