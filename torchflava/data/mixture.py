"""Batches of one kind a step, in an order that depends on seed and step alone (paper §4.1: .70 pairs, .15 images, .15 texts).

torchdata's nodes do the threads and the prefetching behind `batches`; the order is `data.order`'s.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torchdata.nodes import BaseNode, Loader, ParallelMapper, PinMemory, Prefetcher

from torchflava.batch import RawBatch
from torchflava.data.agreement import agree, same
from torchflava.data.blend import Chosen, choose, told
from torchflava.data.order import Order, key, numbers_of
from torchflava.data.replacing import Replaced, Replacements, Row, read_row
from torchflava.distributed import rank, world_size

_AGREED = 20
"""Steps after each start at which ranks compare their places."""


class Kind(NamedTuple):
    """One kind of batch."""

    source: Any
    """Samples by index, of whatever type `row` takes; a `Blend` of several, or one drawn `Nearby`."""
    row: Row
    """(source, index, rng) -> row; of a blend's sources it is given the one that holds the sample."""
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
        max_corrupt_fraction: of a source's samples that may be unreadable, hence replaced, before the run stops. One in a
            hundred: what passed a download and its checks fails far more rarely than that, so more than this is a broken
            disk or shard, while less does not move what is learnt.

    Raises:
        ValueError: for an empty source, shares that do not add up to 1, and a batch that the ranks cannot share evenly.
    """

    def __init__(
        self, kinds: Mapping[str, Kind], batch_size: int, seed: int, *, max_corrupt_fraction: float = 0.01
    ) -> None:
        for name, kind in kinds.items():
            if len(kind.source) < 1:
                raise ValueError(f"the source of {name} batches, {kind.source.name}, is empty")
        self.kinds = dict(kinds)
        self.batch_size = batch_size
        self.seed = seed
        self.order = Order({name: kind.share for name, kind in kinds.items()}, seed)
        self.replacements = Replacements(max_corrupt_fraction)
        self._tries = 10 if max_corrupt_fraction < 1 else 1000  # who bears with any share bears with any row of them
        numbers_of(0, batch_size, rank=rank(), world_size=world_size())

    @property
    def replaced(self) -> list[Replaced]:
        """The samples replaced so far on this rank; the first 10,000, `replacements` counts all."""
        return list(self.replacements.listed)

    @property
    def num_replaced(self) -> int:
        """Of all sources, on this rank."""
        return sum(self.replacements.num_replaced.values())

    def __getitem__(self, step: int) -> Planned:
        """This rank's part of the batch of `step`."""
        return self.part(step, rank=rank(), world_size=world_size())

    def part(self, step: int, *, rank: int, world_size: int) -> Planned:
        """What `rank` of `world_size` has of the batch of `step`."""
        kind = self.order(step).kind
        return Planned(step, kind, self._batch(self.kinds[kind], self.chosen(step, rank=rank, world_size=world_size)))

    def chosen(self, step: int, *, rank: int, world_size: int) -> list[Chosen]:
        """The samples that `rank` of `world_size` has in the batch of `step`, without reading them; one that cannot be read is
        replaced by another when it is read."""
        place = self.order(step)
        numbers = numbers_of(place.turn, self.batch_size, rank=rank, world_size=world_size)
        return choose(self.kinds[place.kind].source, self.seed, numbers=numbers)

    def _batch(self, kind: Kind, chosen: Sequence[Chosen]) -> RawBatch:
        made = [read_row(kind.row, sample, self.seed, tries=self._tries) for sample in chosen]
        replaced = [failed for _, all_failed in made for failed in all_failed]
        self.replacements.add(Counter(sample.source.name for sample in chosen), replaced)
        return kind.collate([row for row, _ in made])

    def state(self, step: int) -> dict[str, Any]:
        """What the data needs to go on at `step`: numbers and names for JSON, the same on every rank and at any number of
        ranks, threads and batches made ahead."""
        sources = {name: told(kind.source) for name, kind in self.kinds.items()}
        fixed = {"seed": self.seed, "batch_size": self.batch_size, "kinds": self.order.counts, "sources": sources}
        return {"step": step} | fixed

    def check_state(self, saved: Mapping[str, Any]) -> int:
        """The step to go on at, if a saved state is of this very order.

        Raises:
            ValueError: naming what differs.
        """
        step = int(saved["step"])
        same(dict(saved), self.state(step))
        return step

    def batches(
        self, start: int, stop: int, *, num_threads: int = 1, prefetch: int = 4, debug: bool = False
    ) -> Iterator[Planned]:
        """The batches of steps start to stop - 1, made by threads ahead of their use; in pinned memory where CUDA is in use.

        Args:
            start: the first step.
            stop: the step after the last.
            num_threads: that make batches.
            prefetch: batches made ahead.
            debug: have the ranks compare their places at every step, not just at the first 20.

        Raises:
            ValueError: on all ranks, if they follow different orders.
            CorruptSample: if too many samples cannot be read.
        """
        state = f"{key(json.dumps(self.state(0), sort_keys=True)):016x}"
        for planned in _in_threads(self.__getitem__, start, stop, num_threads=num_threads, prefetch=prefetch):
            if debug or planned.step < start + _AGREED:
                first = self.order(planned.step).turn * self.batch_size
                agree(f"step {planned.step}, {planned.kind} from sample {first}, order {state}")
            yield planned


class _Failed(NamedTuple):
    """An error on its way out of a thread: raised inside, torchdata's nodes would end the stream, or hang."""

    error: BaseException


def _in_threads(
    make: Callable[[int], Planned], start: int, stop: int, *, num_threads: int, prefetch: int
) -> Iterator[Planned]:
    """The only place that knows torchdata: what `make` returns for start to stop - 1, in order; its errors are raised here."""

    def made(step: int) -> Planned | _Failed:
        try:
            return make(step)
        except BaseException as error:
            return _Failed(error)

    node: Any = ParallelMapper(_Steps(start, stop), made, num_workers=num_threads, method="thread")
    node = Prefetcher(node, prefetch_factor=prefetch)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        node = PinMemory(node)
    try:
        for planned in Loader(node):
            if isinstance(planned, _Failed):
                raise planned.error
            yield planned
    finally:
        _end_threads(node)


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
