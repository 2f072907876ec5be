"""What all ranks do together: what fails on one of them, fails on all."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from torchflava.distributed import rank, world_size

WAIT = timedelta(hours=2)
"""Ranks wait so long for each other's files to travel, before they take one for lost."""

T = TypeVar("T")


def together(act: Callable[[], T], group: Any = None) -> list[T]:
    """What `act` returns on each rank, in their order, once every rank has done it. Called by every rank.

    Args:
        act: its answer goes to all ranks.
        group: of all ranks, to talk over; the default one unless given.

    Raises:
        OSError, ValueError: on every rank, if one of them raised it.
        RuntimeError: on all others, if one of them raised anything else.
    """
    try:
        mine: Any = act()
        error: Exception | None = None
    except Exception as raised:  # whatever it is, the others must not wait for this rank
        mine, error = None, raised
    told = None if error is None else _told(error)
    found: list[Any] = [(mine, told)]
    if dist.is_available() and dist.is_initialized():
        found = [None] * world_size()
        dist.all_gather_object(found, (mine, told), group=group)
    if error is not None:
        raise error
    for number, (_, other) in enumerate(found):
        if other is not None:
            raise other[0](f"on rank {number}: {other[1]}")
    return [answer for answer, _ in found]


def _told(error: Exception) -> tuple[type[Exception], str]:
    """What the other ranks raise: only what every process can make."""
    for kind in (OSError, ValueError):
        if isinstance(error, kind):
            return kind, f"{error}"
    return RuntimeError, f"{type(error).__name__}: {error}"


def local_rank() -> int:
    """This process's place among those of its machine, as torchrun counts them; 0 if it was not started by torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def first_of_machine() -> int:
    """The rank of the process that does what is done once a machine; torchrun numbers a machine's ranks in a row."""
    return rank() - local_rank()
