"""The order of the data: a pure function of (seed, step), free of ranks, workers and history.

Sources: cycle-walking Feistel permutations (Black and Rogaway 2002, §3); counter-based generators (Salmon et al. 2011).
Letters: B samples in a global batch, g the number of a sample among all that a kind has had since step 0.
"""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 4


def key(*parts: object) -> int:
    """A 64-bit number for `parts`, by their text: the same on every machine and in every process."""
    return int.from_bytes(blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


def keyed_rng(*parts: object) -> np.random.Generator:
    """A generator that depends on `parts` alone, such as (seed, source, epoch, index)."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


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
    keys = [np.uint64(key(of, half, round_number)) for round_number in range(_ROUNDS)]
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


class Place(NamedTuple):
    """What a step of training is about."""

    kind: str
    """The kind of batch, the same on every rank."""
    turn: int
    """How many batches of this kind came before."""


class Order:
    """Which kind of batch comes at which step: blocks of steps in which every kind has its share, each shuffled by its key.

    Args:
        shares: the share of each kind, above 0, adding up to 1; .70, .15 and .15 make blocks of 14 + 3 + 3 steps.
        seed: of the run.

    Raises:
        ValueError: for a share that is not above 0 or shares that do not add up to 1.
    """

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        wrong = {kind: share for kind, share in shares.items() if not share > 0}
        if wrong or abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares {dict(shares)} must each be above 0 (leave a kind out instead) and add up to 1")
        counts = _block(shares)
        self.seed = seed
        self.counts = counts
        self._kinds = [kind for kind in sorted(counts) for _ in range(counts[kind])]

    def __call__(self, step: int) -> Place:
        """The place of `step`, 0 or more."""
        if step < 0:
            raise ValueError(f"step {step} is below 0")
        block, within = divmod(step, len(self._kinds))
        before = [self._kinds[i] for i in _shuffled(len(self._kinds), key(self.seed, "kinds", block))[: within + 1]]
        kind = before[-1]
        return Place(kind, block * self.counts[kind] + before.count(kind) - 1)


def _block(shares: Mapping[str, float]) -> dict[str, int]:
    """The smallest block of at most 1,000 steps in which every share is a whole number; else 1,000, rounded."""
    for length in range(1, 1001):
        counts = {kind: round(share * length) for kind, share in shares.items()}
        if all(abs(counts[kind] - share * length) < 1e-6 * length for kind, share in shares.items()):
            return counts
    counts = {kind: max(1, int(share * 1000)) for kind, share in shares.items()}
    by_remainder = sorted(shares, key=lambda kind: (counts[kind] - shares[kind] * 1000, kind))
    for kind in by_remainder[: 1000 - sum(counts.values())]:
        counts[kind] += 1
    return counts


@lru_cache(maxsize=8)
def _shuffled(n: int, of: int) -> tuple[int, ...]:
    return tuple(int(i) for i in permute(n, of, np.arange(n, dtype=np.uint64)))


class Drawn(NamedTuple):
    """A sample's place in its source."""

    epoch: int
    at: int


def draw(n: int, source: str, seed: int, *, numbers: NDArray[np.uint64]) -> list[Drawn]:
    """Samples number `numbers` of a source of n: epoch g // n, at a place shuffled anew in every epoch."""
    drawn = []
    for epoch in np.unique(numbers // np.uint64(n)):
        of = key(seed, source, int(epoch))
        here = numbers[numbers // np.uint64(n) == epoch]
        drawn += [Drawn(int(epoch), int(i)) for i in permute(n, of, here % np.uint64(n))]
    return drawn


def numbers_of(turn: int, batch_size: int, *, rank: int, world_size: int) -> NDArray[np.uint64]:
    """The numbers g of this rank's samples in batch `turn` of a kind: those with g = rank modulo world_size.

    Raises:
        ValueError: if the ranks cannot share the batch evenly.
    """
    if batch_size % world_size:
        raise ValueError(f"a global batch of {batch_size} cannot be shared evenly by {world_size} ranks; change one")
    return np.arange(turn * batch_size + rank, (turn + 1) * batch_size, world_size, dtype=np.uint64)
