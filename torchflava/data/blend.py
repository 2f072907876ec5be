"""Several sources as one kind of batch: the nine of the paper's PMD by their sizes or by weights (paper §3.3, table 1), and
shards drawn a few at a time.

A sample's key, and so its randomness, is that of (seed, its own source's name, epoch, index), inside a blend and alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchflava.data.order import Order, draw, draw_near, key

_LONGEST_BLOCK = 10_000
"""Draws: the precision of weights that no smaller block gives exactly."""


class Chosen(NamedTuple):
    """A sample, as its own source knows it."""

    source: Any
    """The source that holds it: never a `Blend` or a `Nearby`."""
    epoch: int
    at: int
    """Its index there."""


def choose(source: Any, seed: int, *, numbers: NDArray[np.uint64]) -> list[Chosen]:
    """The samples number `numbers` of a source, a `Blend` or a `Nearby`, of all that it gives since step 0."""
    if isinstance(source, Blend | Nearby):
        return source.choose(seed, numbers)
    return [Chosen(source, epoch, at) for epoch, at in draw(len(source), source.name, seed, numbers=numbers)]


def told(source: Any) -> dict[str, Any]:
    """What an order depends on, in numbers and names that JSON can hold: lengths, weights, windows."""
    if hasattr(source, "told"):  # a Blend, a Nearby, CodedShards
        told: dict[str, Any] = source.told()
        return told
    return {"name": source.name, "length": len(source)}


class Blend:
    """Several sources as one, with one length and with indices that run through them in the order given.

    Without weights they are drawn by their sizes: one epoch of the whole sees each sample once. With weights, blocks of draws
    hold exactly each source's share, shuffled by a key; each source then goes through epochs of its own.

    Args:
        name: of the whole.
        sources: each with a name of its own; if there are weights, a source may be a `Nearby`.
        weights: by the names of the sources, above 0, of any sum; precise to one in 10,000 at least.

    Raises:
        ValueError: for no sources, an empty one, a name that occurs twice, and weights that do not fit.
    """

    def __init__(self, name: str, sources: Sequence[Any], weights: Mapping[str, float] | None = None) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"blend {name} is of {names or 'no sources'}; give one or more, each with its own name")
        if empty := [source.name for source in sources if not len(source)]:
            raise ValueError(f"blend {name}: {', '.join(empty)} is empty; leave it out")
        if any(isinstance(getattr(source, "source", source), Blend) for source in sources):
            raise ValueError(f"blend {name} holds another blend; give that one's sources instead")
        if weights is None and any(isinstance(source, Nearby) for source in sources):
            raise ValueError(
                f"blend {name} by size draws from the shards of all sources; wrap the blend in Nearby instead"
            )
        self.name = name
        self.sources = list(sources)
        self.weights = None if weights is None else _checked(name, names, weights)
        self._ends = np.cumsum([len(source) for source in sources], dtype=np.uint64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        """The sample at `index` of all."""
        chosen = self.locate(index)
        return chosen.source[chosen.at]

    def caption(self, index: int) -> str:
        """The caption at `index` of all."""
        chosen = self.locate(index)
        return chosen.source.caption(chosen.at)

    def locate(self, index: int, epoch: int = 0) -> Chosen:
        """The source that holds sample `index` of all, and its index there.

        Raises:
            IndexError: if `index` lies outside.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} lies outside [0, {len(self)})")
        which = int(np.searchsorted(self._ends, np.uint64(index), side="right"))
        begin = int(self._ends[which - 1]) if which else 0
        return locate(self.sources[which], index - begin, epoch)

    @property
    def starts(self) -> NDArray[np.int64]:
        """(shards + 1,): the first sample of each shard of all sources, and the number of all."""
        begins = np.concatenate([[0], self._ends[:-1]]).astype(np.int64)
        parts = [_starts(source) + begin for source, begin in zip(self.sources, begins, strict=True)]
        return np.concatenate([*(part[:-1] for part in parts), parts[-1][-1:]])

    def choose(self, seed: int, numbers: NDArray[np.uint64]) -> list[Chosen]:
        """The samples number `numbers`."""
        if self.weights is None:
            return [self.locate(at, epoch) for epoch, at in draw(len(self), self.name, seed, numbers=numbers)]
        order = Order(self.weights, seed, name=f"blend/{self.name}", longest=_LONGEST_BLOCK)
        which, turns = order.places(numbers)
        by_name = {source.name: source for source in self.sources}
        chosen: list[Any] = [None] * len(numbers)
        for kind in np.unique(which):
            places = np.flatnonzero(which == kind)
            drawn = choose(by_name[order.kinds[kind]], seed, numbers=turns[places])
            for place, sample in zip(places, drawn, strict=True):
                chosen[place] = sample
        return chosen

    def told(self) -> dict[str, Any]:
        """Name, sources in their order, and weights."""
        return {"name": self.name, "sources": [told(source) for source in self.sources], "weights": self.weights}


class Nearby:
    """A source in shards, drawn from a few of them at a time, for object stores; each epoch in another order.

    Args:
        source: with `starts`, as `ShardPairs` and its like have it, or a `Blend` by size of such, drawn together then.
        window: shards that are open together.

    Raises:
        ValueError: for a source without shards, or with an order of its own, and for a window below 1.
    """

    def __init__(self, source: Any, window: int) -> None:
        if isinstance(source, Nearby) or (isinstance(source, Blend) and source.weights is not None):
            raise ValueError(f"{source.name} draws in its own order; wrap its sources in Nearby instead")
        if window < 1:
            raise ValueError(f"{source.name}: a window of {window} shards must be 1 or more")
        self.starts = _starts(source)
        self.source = source
        self.name: str = source.name
        self.window = window

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        """The sample at `index`, as the source has it."""
        return self.source[index]

    def caption(self, index: int) -> str:
        """The caption at `index`, as the source has it."""
        return self.source.caption(index)

    def locate(self, index: int, epoch: int = 0) -> Chosen:
        """The source that holds sample `index`, and its index there."""
        return locate(self.source, index, epoch)

    def choose(self, seed: int, numbers: NDArray[np.uint64]) -> list[Chosen]:
        """The samples number `numbers`."""
        drawn = draw_near(self.starts, self.name, seed, numbers=numbers, window=self.window)
        return [self.locate(at, epoch) for epoch, at in drawn]

    def told(self) -> dict[str, Any]:
        """The source, the window and a number for the sizes of the shards."""
        shards = f"{key(*self.starts.tolist()):016x}"
        return told(self.source) | {"window": self.window, "starts": shards}


def locate(source: Any, index: int, epoch: int = 0) -> Chosen:
    """Sample `index` of a source, a `Blend` or a `Nearby`, as its own source knows it."""
    return source.locate(index, epoch) if isinstance(source, Blend | Nearby) else Chosen(source, epoch, index)


def _starts(source: Any) -> NDArray[np.int64]:
    if not hasattr(source, "starts"):
        raise ValueError(
            f"{source.name} does not say where its shards start; only sources in shards can be drawn nearby"
        )
    return np.asarray(source.starts, dtype=np.int64)


def _checked(name: str, names: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    """The shares of the sources."""
    if set(weights) != set(names):
        raise ValueError(f"blend {name} has weights for {sorted(weights)} and sources {sorted(names)}; give each one")
    if wrong := {source: weight for source, weight in weights.items() if not 0 < weight < float("inf")}:
        raise ValueError(f"blend {name}: weights {wrong} must be above 0; leave a source of weight 0 out")
    total = sum(weights.values())
    shares = {source: weights[source] / total for source in names}
    Order(shares, 0, longest=_LONGEST_BLOCK)  # refuses a weight that its block cannot hold
    return shares
