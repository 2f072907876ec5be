"""Samples that cannot be read: while training, another takes the place of each, and too many of them stop the run.

None is left out, for a batch that is smaller on one rank does not fit the others'.
"""

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from torchflava.data.blend import Chosen
from torchflava.data.order import keyed_rng, permute
from torchflava.transforms.image import CorruptSample

log = logging.getLogger(__name__)

_TRIES = 10
_ENOUGH = 500
"""Samples of a source that are looked at before its share of corrupt ones is judged."""
_LISTED = 10_000
"""Replaced samples that are kept by name; all are counted."""
_SHOWN = 20  # of them, in an error

Row = Callable[..., Any]
"""(source, index, rng) -> row; raises CorruptSample where the sample cannot be read."""


class Replaced(NamedTuple):
    """A sample that could not be read."""

    source: str
    at: int
    """Its index there."""
    reason: str


class Failure(NamedTuple):
    """A sample that could not be read, on its way to those who count."""

    sample: Replaced
    sort: str
    """What errors of its sort have in common."""


class Replacements:
    """Which samples could not be read, and whether they are too many. Threads may write at once.

    Args:
        max_corrupt_fraction: of the samples of a source, once 500 of it were looked at.
    """

    def __init__(self, max_corrupt_fraction: float) -> None:
        if not 0 <= max_corrupt_fraction <= 1:
            raise ValueError(f"max_corrupt_fraction {max_corrupt_fraction} must lie between 0 and 1")
        self.max_corrupt_fraction = max_corrupt_fraction
        self.listed: list[Replaced] = []
        """The first 10,000."""
        self.num_seen: Counter[str] = Counter()
        """Samples looked at, by source."""
        self.num_replaced: Counter[str] = Counter()
        """Samples replaced, by source."""
        self.reasons: Counter[tuple[str, str]] = Counter()
        """How often, by source and sort of error."""
        self._lock = threading.Lock()

    def add(self, seen: Mapping[str, int], replaced: Sequence[Failure]) -> None:
        """Count the samples looked at, by source, and those replaced; say which in the log.

        Raises:
            CorruptSample: if a source has too many, with what was replaced and why.
        """
        for (name, at, reason), _ in replaced:
            log.warning("%s, sample %d is replaced: %s", name, at, reason)
        with self._lock:
            self.num_seen.update(seen)
            for sample, sort in replaced:
                self.num_seen[sample.source] += 1  # each that failed had another looked at in its place
                self.num_replaced[sample.source] += 1
                self.reasons[sample.source, sort] += 1
                if len(self.listed) < _LISTED:
                    self.listed.append(sample)
            for name in {sample.source for sample, _ in replaced}:
                most = self.max_corrupt_fraction * self.num_seen[name]
                if self.num_seen[name] >= _ENOUGH and self.num_replaced[name] > most:
                    raise CorruptSample(self._list(name))

    def _list(self, name: str) -> str:
        seen, replaced = self.num_seen[name], self.num_replaced[name]
        reasons = [f"{n} x {sort}" for (source, sort), n in self.reasons.most_common() if source == name]
        first = [f"  {name} {at}: {reason}" for source, at, reason in self.listed if source == name][:_SHOWN]
        begin = f"{replaced} of {seen} samples of {name} could not be read, more than max_corrupt_fraction "
        begin += f"{self.max_corrupt_fraction}; check its shards, or raise it"
        return "\n".join([begin, f"by reason: {', '.join(reasons)}", f"the first {len(first)}:", *first])


def read_row(row: Row, sample: Chosen, seed: int, *, tries: int = _TRIES) -> tuple[Any, list[Failure]]:
    """The row of a sample, or of another that its key names if it is corrupt; and those that were.

    Raises:
        CorruptSample: if so many samples in a row are corrupt, ten unless given.
        Exception: whatever else `row` raises, with a note of the sample.
    """
    source, epoch, index = sample
    failed: list[Failure] = []
    at = index
    for attempt in range(1, tries + 1):
        made = try_row(row, Chosen(source, epoch, at), keyed_rng(seed, source.name, epoch, at))
        if not isinstance(made, Failure):
            return made, failed
        failed.append(made)
        at = int(permute(len(source), seed + attempt, index)[0])
    last = failed[-1].sample
    raise CorruptSample(
        f"{tries} samples of {source.name} in a row are corrupt, the last at {last.at} ({last.reason}); check the data"
    )


def try_row(row: Row, sample: Chosen, rng: np.random.Generator) -> Any | Failure:
    """The row of a sample, or why it cannot be read.

    Raises:
        Exception: whatever `row` raises but CorruptSample, with a note of the sample.
    """
    source, epoch, at = sample
    try:
        return row(source, at, rng)
    except CorruptSample as error:
        return Failure(Replaced(source.name, at, str(error)), _sort(error))
    except Exception as error:
        error.add_note(f"at sample {at} of {source.name}, epoch {epoch}")
        raise


def _sort(error: CorruptSample) -> str:
    """What errors of a sort have in common: the type of the cause, or their text less its numbers."""
    return type(error.__cause__).__name__ if error.__cause__ else re.sub(r"\d+", "#", str(error))[:80]
