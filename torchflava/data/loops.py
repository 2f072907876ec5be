"""Loops over a finite source: every sample once, for an evaluation, and shuffled epochs, for fine-tuning (paper §4.2).

What a batch holds is a function of its number; `data.ahead` makes them in worker processes.
Letters: B rows of a batch on this rank.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchflava import distributed
from torchflava.data.agreement import same
from torchflava.data.ahead import State, read_ahead
from torchflava.data.blend import Blend, choose, locate, told
from torchflava.data.order import keyed_rng, permute
from torchflava.data.replacing import Failure, Replaced, Replacements, Row, read_row, try_row
from torchflava.transforms.image import CorruptSample

log = logging.getLogger(__name__)

_FILLERS = 100
"""Samples of all the source that are tried where a batch of an evaluation has none of its own to fill its shape with."""


class Samples(NamedTuple):
    """What a loop reads. With worker processes, all three have to be defined at the top of a module, so that they pickle."""

    source: Any
    """Samples by index, of whatever type `row` takes; or a `Blend` of several."""
    row: Row
    """(source, index, rng) -> row, with a label if it has one; of a blend's sources it is given the one that holds the sample."""
    collate: Callable[[Sequence[Any]], Any]
    """B rows -> batch."""


class EvaluationBatch(NamedTuple):
    """Samples of a fixed set."""

    indices: Tensor
    """(B,) int64: the samples, ascending; -1 where the batch is padded."""
    read: Tensor
    """(B,) bool: True where the row is the sample's. False where padded, and where the sample cannot be read: another's row
    stands there then, and what the model says of it is to be thrown away."""
    batch: Any
    """What `collate` makes."""


class EpochBatch(NamedTuple):
    """Samples of an epoch."""

    epoch: int
    step: int
    """Batches before this one, in all epochs."""
    real: Tensor
    """(B,) bool: False where the batch is padded with other rows, which get `IGNORE` for a label, or weight 0."""
    batch: Any
    """What `collate` makes."""


class Evaluation:
    """Every sample once, over all ranks, in order; every rank has equally many batches, all of one size.

    A global batch holds samples that follow one another, rank 0's first: gathered in the order of the ranks, the batches are
    the source in order. The last is padded. So every rank calls a sharded model equally often.

    A sample that cannot be read keeps its place and is listed in `unread`; it does not stop the loop, and no other counts in
    its stead. What it counts for is the caller's choice. As a wrong answer, (right & read).sum() / (indices >= 0).sum() over
    all batches and ranks: the set stays the same for every model and machine, and a bad disk makes no model look better; this
    is what a number beside published ones needs. Left out, (right & read).sum() / read.sum(): say then of how many.

    Args:
        samples: the set; a row's generator depends on its sample alone, so that every pass is the same.
        batch_size: of all ranks together, a multiple of their number.
        num_workers: processes that read ahead, started for each pass and ended with it; 0 reads in this one.
        rank: this process's among those that share the set; of its process group, unless given.
        world_size: how many share it; of the process group, unless given. 1, with rank 0, is all of it on every rank.

    Raises:
        ValueError: for an empty source, a batch that the ranks cannot share evenly, a rank or a number of workers out of range.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        num_workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.samples = samples
        self.share = _share(samples, batch_size, num_workers, rank=rank, world_size=world_size)
        self.num_workers = num_workers
        self.unread: list[Replaced] = []
        """This rank's samples that could not be read, in the pass under way or the last one."""

    def __len__(self) -> int:
        """Batches on each rank."""
        return -(-len(self.samples.source) // self.share.batch_size)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        """One pass.

        Raises:
            CorruptSample: if a batch has no sample that can be read, nor have a hundred from elsewhere.
            ValueError: if the samples cannot be sent to worker processes.
            Exception: whatever else the source, `row` or `collate` raises, with a note of the sample.
        """
        self.unread = []
        make = partial(_evaluated, self.samples, self.share)
        for (batch, failed), _ in read_ahead(make, len(self), num_workers=self.num_workers):
            for failure in failed:
                log.warning("%s, sample %d cannot be read: %s", *failure.sample)
                self.unread.append(failure.sample)
            yield batch


class Epochs:
    """Shuffled epochs over a labelled source, which go on in the middle of one exactly as they would have.

    Which samples a batch holds and with which randomness follows from seed, epoch and index. The state is StatefulDataLoader's;
    its sampler here counts steps, so that going on takes no longer late in an epoch. A plain sampler is gone through again
    from the start, and torchdata 0.11's StatefulDistributedSampler forgets the epoch: it goes on in epoch 0's order.

    A sample that cannot be read is replaced by another that its key names, with that one's label, and counted.

    Args:
        samples: what is learnt from; of a `Blend` only one by size has epochs.
        batch_size: of all ranks together, a multiple of their number.
        seed: of the run.
        num_workers: processes that read ahead, ended with the loop; 0 reads in this one.
        drop_last: leave out what is too little for a batch at the end of each epoch, other samples in each; else it is padded.
        max_corrupt_fraction: as for `Mixture`.
        rank: this process's among those that share an epoch; of its process group, unless given.
        world_size: how many share it; of the process group, unless given.

    Raises:
        ValueError: as for `Evaluation`, and for fewer samples than a batch has if the last is dropped.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        seed: int,
        *,
        num_workers: int = 0,
        drop_last: bool = True,
        max_corrupt_fraction: float = 0.01,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.samples, self.seed, self.num_workers, self.drop_last = samples, seed, num_workers, drop_last
        self.share = _share(samples, batch_size, num_workers, rank=rank, world_size=world_size)
        self.replacements = Replacements(max_corrupt_fraction)
        self.step = 0
        """Batches handed out, in all epochs."""
        self._loader: State | None = None
        name, length = samples.source.name, len(samples.source)
        if isinstance(samples.source, Blend) and samples.source.weights is not None:
            raise ValueError(f"blend {name} has weights, hence no epochs of the whole; blend by size, or use a Mixture")
        if drop_last and length < batch_size:
            raise ValueError(f"{name} has {length} samples, too few for a batch of {batch_size}; use drop_last=False")

    def __len__(self) -> int:
        """Batches of an epoch, on each rank."""
        whole, rest = divmod(len(self.samples.source), self.share.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def batches(self, num_epochs: int) -> Iterator[EpochBatch]:
        """The batches from where the loop stands to the end of epoch `num_epochs` - 1; worker processes serve all epochs.

        Raises:
            CorruptSample: if too many samples cannot be read.
            ValueError: if the samples cannot be sent to worker processes.
            Exception: whatever else the source, `row` or `collate` raises, with a note of the sample.
        """
        if self.step >= (stop := num_epochs * len(self)):
            return
        make = partial(_of_epoch, self.samples, self.share, self.seed, length=len(self))
        for (batch, seen, failed), state in read_ahead(make, stop, num_workers=self.num_workers, state=self._loader):
            if batch.step != self.step:
                raise ValueError(
                    f"a batch of step {batch.step} came where {self.step} is due: use one iterator of a loop at a time, "
                    "and a state as it was saved"
                )
            self.replacements.add(seen, failed)
            self.step, self._loader = batch.step + 1, state
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on after the batch that was handed out last, in numbers and names that JSON can hold; the same on
        every rank."""
        return {"step": self.step, "loader": self._loader} | self._fixed()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a loop of the same samples and settings stood.

        Raises:
            ValueError: naming what differs, such as another number of workers, ranks or samples.
        """
        if not {"step", "loader"} <= state_dict.keys():
            raise ValueError(f"a state of {', '.join(state_dict) or 'nothing'} is not of `Epochs`; load one of its own")
        position = {name: state_dict[name] for name in ("step", "loader")}
        same(dict(state_dict), position | self._fixed())
        self.step, self._loader = position["step"], position["loader"]

    def _fixed(self) -> dict[str, Any]:
        settings = {"seed": self.seed, "num_workers": self.num_workers, "drop_last": self.drop_last}
        shared = {"batch_size": self.share.batch_size, "world_size": self.share.world_size}
        return settings | shared | {"source": told(self.samples.source)}


class _Share(NamedTuple):
    """What a rank has of batches of `batch_size`."""

    batch_size: int
    rank: int
    world_size: int

    def places(self, batch: int, length: int) -> NDArray[np.uint64]:
        """This rank's part of range(length) in batch number `batch`, without padding."""
        size = self.batch_size // self.world_size
        begin = batch * self.batch_size + self.rank * size
        return np.arange(begin, min(begin + size, length), dtype=np.uint64)

    def filled(self, num_rows: int) -> Tensor:
        """(B,) bool: True for the first `num_rows`, False for padding."""
        return torch.arange(self.batch_size // self.world_size) < num_rows


def _share(samples: Samples, batch_size: int, num_workers: int, *, rank: int | None, world_size: int | None) -> _Share:
    """The checked part of a rank."""
    rank = distributed.rank() if rank is None else rank
    world_size = distributed.world_size() if world_size is None else world_size
    if not len(samples.source):
        raise ValueError(f"{samples.source.name} is empty; give a source with a sample at least")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} lies outside [0, {world_size}), the ranks that share the source; give both")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(f"a global batch of {batch_size} cannot be shared evenly by {world_size} ranks; change one")
    if num_workers < 0:
        raise ValueError(f"num_workers {num_workers} must be 0, which reads in this process, or more")
    return _Share(batch_size, rank, world_size)


def _evaluated(samples: Samples, share: _Share, number: int) -> tuple[EvaluationBatch, list[Failure]]:
    """Batch `number` of an evaluation, and the samples of it that cannot be read."""
    places = share.places(number, len(samples.source)).astype(np.int64)
    rows = [_try(samples, int(at)) for at in places]
    could = [not isinstance(row, Failure) for row in rows]
    filler = rows[could.index(True)] if any(could) else _filler(samples)
    real = share.filled(len(rows))
    indices, read = torch.full(real.shape, -1), real.clone()
    indices[real], read[real] = torch.from_numpy(places), torch.tensor(could, dtype=torch.bool)
    whole = [row if fine else filler for row, fine in zip(rows, could, strict=True)]
    batch = samples.collate(whole + [filler] * (len(real) - len(rows)))
    return EvaluationBatch(indices, read, batch), [row for row in rows if isinstance(row, Failure)]


def _try(samples: Samples, at: int) -> Any | Failure:
    sample = locate(samples.source, at)
    return try_row(samples.row, sample, keyed_rng("evaluation", sample.source.name, sample.at))


def _filler(samples: Samples) -> Any:
    """A row of any sample that can be read, tried in an order in which a broken shard's do not follow one another."""
    tries = np.arange(min(_FILLERS, len(samples.source)), dtype=np.uint64)
    for at in permute(len(samples.source), 0, tries):
        if not isinstance(row := _try(samples, int(at)), Failure):
            return row
    raise CorruptSample(
        f"none of {len(tries)} samples from all over {samples.source.name} can be read, the last for this: "
        f"{row.sample.reason}; check the data"
    )


def _of_epoch(
    samples: Samples, share: _Share, seed: int, step: int, *, length: int
) -> tuple[EpochBatch, dict[str, int], list[Failure]]:
    """The batch of a step, the samples looked at, by source, and those that had to be replaced."""
    epoch, batch = divmod(step, length)
    num_samples = len(samples.source)
    places = share.places(batch, num_samples)
    real = share.filled(len(places))
    if not len(places):  # all of this rank's part is padding; its batch begins with a sample of another rank's
        places = np.array([batch * share.batch_size], dtype=np.uint64)
    chosen = choose(samples.source, seed, numbers=np.uint64(epoch * num_samples) + places)
    made = [read_row(samples.row, sample, seed) for sample in chosen]
    rows = [row for row, _ in made]
    made_batch = samples.collate(rows + rows[:1] * (len(real) - len(rows)))
    seen = dict(Counter(sample.source.name for sample in chosen))  # pinning memory would copy a Counter by adding
    return EpochBatch(epoch, step, real, made_batch), seen, [one for _, failed in made for one in failed]
