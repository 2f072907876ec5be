"""Batches of one kind a step, in an order that depends on seed and step alone (paper §4.1: .70 pairs, .15 images, .15 texts).

torchdata's nodes do the threads and the prefetching behind `batches`; the order is `data.order`'s.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torchdata.nodes import BaseNode, Loader, ParallelMapper, Prefetcher

from torchflava.batch import RawBatch
from torchflava.data.order import Order, draw, keyed_rng, numbers_of, permute
from torchflava.distributed import rank, world_size
from torchflava.transforms.image import CorruptSample

log = logging.getLogger(__name__)

_TRIES = 10


class Kind(NamedTuple):
    """One kind of batch."""

    source: Any
    """Samples by index, of whatever type `row` takes."""
    row: Callable[..., Any]
    """(source, index, rng) -> row."""
    collate: Callable[[Sequence[Any]], RawBatch]
    """rows -> batch."""
    share: float
    """Of the steps."""


class Planned(NamedTuple):
    """A batch and its place."""

    step: int
    kind: str
    batch: RawBatch


class Mixture:
    """The batches of a run, by step.

    Args:
        kinds: by name, such as image, text, pair.
        batch_size: of all ranks together, a multiple of their number.
        seed: of the run.
    """

    def __init__(self, kinds: Mapping[str, Kind], batch_size: int, seed: int) -> None:
        for name, kind in kinds.items():
            if len(kind.source) < 1:
                raise ValueError(f"the source of {name} batches, {kind.source.name}, is empty")
        self.kinds = dict(kinds)
        self.batch_size = batch_size
        self.seed = seed
        self.order = Order({name: kind.share for name, kind in kinds.items()}, seed)
        self.num_replaced = 0
        numbers_of(0, batch_size, rank=rank(), world_size=world_size())

    def __getitem__(self, step: int) -> Planned:
        """This rank's part of the batch of `step`."""
        place = self.order(step)
        kind = self.kinds[place.kind]
        numbers = numbers_of(place.turn, self.batch_size, rank=rank(), world_size=world_size())
        drawn = draw(len(kind.source), kind.source.name, self.seed, numbers=numbers)
        rows = [self._row(kind, epoch, at) for epoch, at in drawn]
        return Planned(step, place.kind, kind.collate(rows))

    def _row(self, kind: Kind, epoch: int, index: int) -> Any:
        """The row of a sample; one that is corrupt is logged and replaced by another that its key names."""
        name, n = kind.source.name, len(kind.source)
        for attempt in range(_TRIES):
            at = index if attempt == 0 else int(permute(n, self.seed + attempt, index)[0])
            try:
                return kind.row(kind.source, at, keyed_rng(self.seed, name, epoch, at))
            except CorruptSample as error:
                self.num_replaced += 1
                log.warning("%s, sample %d is replaced: %s", name, at, error)
        raise CorruptSample(f"{_TRIES} samples of {name} in a row are corrupt, the last at {at}; check the data")

    def batches(self, start: int, stop: int, *, num_threads: int = 1, prefetch: int = 4) -> Iterator[Planned]:
        """The batches of steps start to stop - 1, made by threads ahead of their use."""
        node = ParallelMapper(_Steps(start, stop), self.__getitem__, num_workers=num_threads, method="thread")
        prefetcher = Prefetcher(node, prefetch_factor=prefetch)
        try:
            yield from Loader(prefetcher)
        finally:
            _end_threads(prefetcher)


def _end_threads(node: object) -> None:
    """End the threads of a node and of those below it, here and now.

    torchdata 0.11 ends them when a node is collected, which may happen in one of these very threads, and a thread cannot
    wait for itself; nodes have a `shutdown` of their own from 0.12 on.
    """
    below = [node]
    while below:
        part = below.pop()
        if hasattr(part, "_shutdown"):
            part._shutdown()
        below += [v for v in vars(part).values() if type(v).__module__.startswith("torchdata.nodes")]


class _Steps(BaseNode[int]):  # type: ignore[misc]  # torchdata has no types
    """The numbers start to stop - 1; its state is the next one."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        """Begin at the start, or where the state says."""
        super().reset(initial_state)
        self.at = self.start if initial_state is None else int(initial_state["at"])

    def next(self) -> int:
        """The next number."""
        if self.at >= self.stop:
            raise StopIteration
        self.at += 1
        return self.at - 1

    def get_state(self) -> dict[str, Any]:
        """The next number, by name."""
        return {"at": self.at}
