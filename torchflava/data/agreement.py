"""That all ranks, and a run that goes on, follow the same order: told by name where they do not (house style 27).

A rank with another order would run other modules in the same step, and the collectives would wait for ever or mix up.
"""

import json
from collections.abc import Iterator
from typing import Any

import torch

from torchflava.data.order import key
from torchflava.distributed import gather, world_size

_LONGEST = 512
"""Bytes of a rank's text that are shown to the others."""


def agree(what: str) -> None:
    """Return if `what` is the same on every rank. Called by every rank, in the same place, from one thread.

    Eight bytes a rank are compared; only where they differ are the texts themselves gathered.

    Args:
        what: such as the step, the kind of its batch and the position in its source.

    Raises:
        ValueError: on every rank, saying which rank has what.
    """
    if world_size() == 1:
        return
    hashes = gather(torch.tensor([key(what) >> 1]), "none")
    if bool((hashes == hashes[0]).all()):
        return
    line = what.encode()[:_LONGEST]
    texts = gather(torch.tensor([list(line) + [0] * (_LONGEST - len(line))], dtype=torch.uint8), "none")
    ranks_of: dict[str, list[int]] = {}
    for rank, text in enumerate(texts.tolist()):
        ranks_of.setdefault(bytes(text).rstrip(b"\0").decode(errors="replace"), []).append(rank)
    told = "; ".join(f"{_ranks(ranks)} at {text}" for text, ranks in ranks_of.items())
    raise ValueError(f"ranks follow different orders: {told}; start them all with the same settings and data")


def same(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Return if two descriptions of an order, made of what JSON can hold, are equal.

    Raises:
        ValueError: naming everything that differs, as it was and as it is.
    """
    was, is_now = dict(_flat(json.loads(json.dumps(saved)))), dict(_flat(json.loads(json.dumps(now))))
    missing = "missing"
    differing = [name for name in (was | is_now) if was.get(name, missing) != is_now.get(name, missing)]
    if differing:
        told = "; ".join(
            f"{name} was {was.get(name, missing)!r}, is {is_now.get(name, missing)!r}" for name in differing
        )
        raise ValueError(f"the data would not go on as it began: {told}; use the same settings and data, or start anew")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and words of a nested description, with their paths."""
    if not isinstance(value, dict | list):
        yield name, value
        return
    for at, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _flat(inner, f"{name}.{at}" if name else str(at))


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
