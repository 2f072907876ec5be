"""Embedding a fixed set on all ranks together: each its part, and every rank has all of them afterwards.

Letters: N items, W ranks.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor

from torchflava.distributed import gather, rank, world_size

Item = TypeVar("Item")


def embed_over_ranks(items: Sequence[Item], embed: Callable[[Sequence[Item]], Tensor]) -> Tensor:
    """N items -> (N, ...), in their order, on every rank; `embed` sees ceil(N / W) of them on each, so that every rank calls a
    sharded model equally often: where the items do not go round, the first one fills up and is thrown away.

    Args:
        items: the same on every rank.
        embed: items -> a row for each, on the device that ranks talk through.

    Raises:
        ValueError: if there is no item, or not a row for each.
    """
    if not len(items):
        raise ValueError("there is nothing to embed; give an item at least")
    share = -(-len(items) // world_size())
    own = items[rank() * share : (rank() + 1) * share]
    rows = embed([*own, *[items[0]] * (share - len(own))])
    if len(rows) != share:
        raise ValueError(f"{len(rows)} rows were made of {share} items; one for each is due")
    return gather(rows, "none")[: len(items)]
