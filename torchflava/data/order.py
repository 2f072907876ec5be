"""The order of the data: a pure function of (seed, step), free of ranks, workers and history.

Sources: cycle-walking Feistel permutations (Black and Rogaway 2002, §3); counter-based generators (Salmon et al. 2011).
Letters: B samples in a global batch, g the number of a sample among all that a kind has had since step 0.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

_ROUNDS = 4
_ROUNDS_OF_TWO_BITS = 10
"""For halves of two bits (n of 5 to 16): after four rounds a number's place among five is off by up to a tenth."""
_LONGEST_BLOCK = 1000
_SHARDS_AT_ONCE = 4096
"""For 70,000 of them at once the memory would be four times that of their starts."""


def key(*parts: object) -> int:
    """A 64-bit number for `parts`, by their text: the same on every machine and in every process."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


def keyed_rng(*parts: object) -> np.random.Generator:
    """A generator that depends on `parts` alone, such as (seed, source, epoch, index)."""
    seed: Any = _Key(key(*parts))  # numpy's stubs know of no ISeedSequence but its own
    return np.random.Generator(np.random.Philox(seed))


class _Key(ISeedSequence):
    """A key for Philox, by the door of its seed: `Philox(key=...)` also asks the system for entropy, and is twice as slow."""

    def __init__(self, number: int) -> None:
        self.number = number

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        """The key's two words, of which `number` is the lower."""
        return np.array([self.number, 0], np.uint64)


def permute(n: int, of: int, index: NDArray[np.uint64] | int) -> NDArray[np.uint64]:
    """The images of `index` under the permutation of range(n) that the number `of` names, in constant memory.

    Args:
        n: the length, at least 1.
        of: names the permutation, as `key` makes it.
        index: numbers in [0, n).

    Raises:
        ValueError: if n is below 1 or an index lies outside [0, n).
    """
    x = np.atleast_1d(np.asarray(index, dtype=np.uint64)).copy()
    if n < 1 or (len(x) and int(x.max()) >= n):
        raise ValueError(f"permute: index {x.max() if len(x) else '-'} lies outside [0, {n})")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    rounds = _ROUNDS_OF_TWO_BITS if half == 2 else _ROUNDS
    keys = [np.uint64(key(of, half, round_number)) for round_number in range(rounds)]
    x = _feistel(x, half, keys)
    while len(outside := np.flatnonzero(x >= n)):
        x[outside] = _feistel(x[outside], half, keys)
    return x


def _feistel(x: NDArray[np.uint64], half: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    low = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    left, right = x >> shift, x & low
    for round_key in keys:
        left, right = right, left ^ (_mix(right ^ round_key) & low)
    return left << shift | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute_near(starts: NDArray[np.int64], of: int, numbers: NDArray[np.uint64], *, window: int) -> NDArray[np.uint64]:
    """As `permute`, under a permutation of the samples of all shards that has but `window` shards open at a time.

    The shards are permuted, and the samples of each `window` of them that follow one another are permuted among themselves:
    a run of numbers reads few shards, as an object store asks for. The first call takes time in the number of shards.

    Args:
        starts: (shards + 1,), the first index of each shard, from 0 on, and the number of all; never changed afterwards.
        of: names the permutation, as `key` makes it.
        numbers: in [0, starts[-1]).
        window: shards that are open together.

    Raises:
        ValueError: if the window is below 1 or a number lies outside.
    """
    if window < 1 or (len(numbers) and int(numbers.max()) >= starts[-1]):
        raise ValueError(
            f"permute_near: a window of {window} shards must be 1 or more, and numbers lie in [0, {starts[-1]})"
        )
    edges = _edges(_Same(starts), of, window)
    windows = np.searchsorted(edges, numbers, side="right") - 1
    found = np.empty_like(numbers)
    for w in sorted(set(windows.tolist())):
        here = windows == w
        begins, length = _shards(starts, of, w * window, (w + 1) * window)
        ends = np.cumsum(length)
        inside = permute(int(edges[w + 1] - edges[w]), key(of, w), numbers[here] - edges[w])
        shard = np.searchsorted(ends, inside, side="right")
        found[here] = begins[shard] + (inside - (ends[shard] - length[shard]))
    return found


def _shards(starts: NDArray[np.int64], of: int, first: int, stop: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Where the shards that stand at places first to stop - 1 begin, and their lengths."""
    num_shards = len(starts) - 1
    at = permute(num_shards, key(of, "shards"), np.arange(first, min(stop, num_shards), dtype=np.uint64))
    return starts[at].astype(np.uint64), (starts[at + np.uint64(1)] - starts[at]).astype(np.uint64)


class _Same:
    """An array that equals itself alone, so that a cache can know it, and keeps it."""

    def __init__(self, array: NDArray[np.int64]) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.array is other.array

    def __hash__(self) -> int:
        return id(self.array)


@lru_cache(maxsize=16)
def _edges(starts: _Same, of: int, window: int) -> NDArray[np.uint64]:
    """(windows + 1,): the first number of each window, and the number of all; some thousand shards at a time."""
    sums, step = [np.zeros(1, np.uint64)], window * -(-_SHARDS_AT_ONCE // window)
    for first in range(0, len(starts.array) - 1, step):
        length = _shards(starts.array, of, first, first + step)[1]
        sums.append(np.add.reduceat(length, np.arange(0, len(length), window)))
    return np.cumsum(np.concatenate(sums))


class Place(NamedTuple):
    """What a step of training is about."""

    kind: str
    """The kind of batch, the same on every rank."""
    turn: int
    """How many batches of this kind came before."""


class Order:
    """Which kind comes at which step: blocks of steps in which every kind has its share exactly, each shuffled by its key.

    Args:
        shares: the share of each kind, above 0, adding up to 1; .70, .15 and .15 make blocks of 14 + 3 + 3 steps. Shares
            that need blocks longer than `longest` are rounded to whole steps of such a block.
        seed: of the run.
        name: tells orders of one run apart.
        longest: the most steps of a block.

    Raises:
        ValueError: for a share that is not above 0, shares that do not add up to 1, and one that rounds to no step at all.
    """

    def __init__(
        self, shares: Mapping[str, float], seed: int, *, name: str = "kinds", longest: int = _LONGEST_BLOCK
    ) -> None:
        wrong = {kind: share for kind, share in shares.items() if not share > 0}
        if wrong or abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares {dict(shares)} must each be above 0 (leave a kind out instead) and add up to 1")
        self.seed = seed
        self.name = name
        self.counts = dict(_counts(tuple(shares.items()), longest))
        self.kinds = sorted(shares)
        """The kinds, in the order of their numbers."""
        self._counts = tuple(self.counts[kind] for kind in self.kinds)

    def __call__(self, step: int) -> Place:
        """The place of `step`, 0 or more."""
        if step < 0:
            raise ValueError(f"step {step} is below 0")
        kinds, turns = self.places(np.array([step], dtype=np.uint64))
        return Place(self.kinds[int(kinds[0])], int(turns[0]))

    def places(self, steps: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The number of each step's kind (among `kinds`), and how many steps of this kind came before it."""
        length = sum(self._counts)
        kinds, turns = np.empty(len(steps), np.int64), np.empty(len(steps), np.uint64)
        blocks, within = steps // np.uint64(length), (steps % np.uint64(length)).astype(np.int64)
        counts = np.array(self._counts, dtype=np.uint64)
        for block in sorted(set(blocks.tolist())):
            here = blocks == np.uint64(block)
            kind_at, before = _shuffled(self._counts, key(self.seed, self.name, block))
            kinds[here] = kind_at[within[here]]
            turns[here] = np.uint64(block) * counts[kinds[here]] + before[within[here]]
        return kinds, turns


@lru_cache(maxsize=32)
def _counts(items: tuple[tuple[str, float], ...], longest: int) -> dict[str, int]:
    """The smallest block of at most `longest` steps in which every share is a whole number; else the longest, rounded."""
    shares = dict(items)
    kinds = list(shares)
    exact = np.arange(1, longest + 1)[:, None] * np.array([shares[kind] for kind in kinds])
    near = abs(exact.round() - exact) < 1e-6 * np.arange(1, longest + 1)[:, None]
    whole = np.flatnonzero((near & (exact > 0.5)).all(1))
    if len(whole):
        return {kind: int(count) for kind, count in zip(kinds, exact[whole[0]].round(), strict=True)}
    counts = {kind: int(share * longest) for kind, share in shares.items()}
    by_remainder = sorted(shares, key=lambda kind: (counts[kind] - shares[kind] * longest, kind))
    for kind in by_remainder[: longest - sum(counts.values())]:
        counts[kind] += 1
    if lost := [kind for kind in kinds if counts[kind] == 0]:
        raise ValueError(
            f"the share of {', '.join(lost)} is less than one in {longest}, the longest block; raise it or leave it out"
        )
    return counts


@lru_cache(maxsize=8)
def _shuffled(counts: tuple[int, ...], of: int) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """A block: the number of the kind that stands at each place, and how many of this kind stand before it."""
    in_order = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    kinds = in_order[permute(len(in_order), of, np.arange(len(in_order), dtype=np.uint64))]
    before = np.empty(len(kinds), np.uint32)
    for kind, count in enumerate(counts):
        before[kinds == kind] = np.arange(count, dtype=np.uint32)
    return kinds, before


class Drawn(NamedTuple):
    """A sample's place in its source."""

    epoch: int
    at: int


def draw(n: int, source: str, seed: int, *, numbers: NDArray[np.uint64]) -> list[Drawn]:
    """Samples number `numbers` of a source of n: epoch g // n, at a place shuffled anew in every epoch."""
    return _epochs(n, source, seed, numbers=numbers, within=lambda of, number: permute(n, of, number))


def draw_near(
    starts: NDArray[np.int64], source: str, seed: int, *, numbers: NDArray[np.uint64], window: int
) -> list[Drawn]:
    """As `draw`, from shards that start at `starts`, `window` of them open at a time (see `permute_near`)."""

    def within(of: int, number: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return permute_near(starts, of, number, window=window)

    return _epochs(int(starts[-1]), source, seed, numbers=numbers, within=within)


def _epochs(
    n: int,
    source: str,
    seed: int,
    *,
    numbers: NDArray[np.uint64],
    within: Callable[[int, NDArray[np.uint64]], NDArray[np.uint64]],
) -> list[Drawn]:
    epochs, places = numbers // np.uint64(n), np.empty_like(numbers)
    for epoch in sorted(set(epochs.tolist())):  # np.unique imports numpy.ma first, for longer than all the rest takes
        here = epochs == np.uint64(epoch)
        places[here] = within(key(seed, source, epoch), numbers[here] % np.uint64(n))
    # Arrays give Python's numbers one by one as memory views; as lists these would take a third of the megabyte for 8,192.
    return list(map(Drawn, epochs.data, places.data))


def numbers_of(turn: int, batch_size: int, *, rank: int, world_size: int) -> NDArray[np.uint64]:
    """The numbers g of this rank's samples in batch `turn` of a kind: those with g = rank modulo world_size.

    Raises:
        ValueError: if the ranks cannot share the batch evenly.
    """
    if batch_size % world_size:
        raise ValueError(f"a global batch of {batch_size} cannot be shared evenly by {world_size} ranks; change one")
    return np.arange(turn * batch_size + rank, (turn + 1) * batch_size, world_size, dtype=np.uint64)
