"""What is hidden: blocks of patches (Bao et al. 2021, Algorithm 1), tokens and whole words (Devlin et al. 2018, §3.1).

Letters: H, W rows and columns of patches, T tokens, K predictions asked for.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray

_ATTEMPTS = 10
_DRAWN_AT_ONCE = 64


def block_mask(
    grid: tuple[int, int],
    rng: np.random.Generator,
    *,
    num_masked: int | None = None,
    min_block: int | None = None,
    min_aspect: float = 0.3,
) -> NDArray[np.bool_]:
    """A mask (H, W) of rectangles, True where hidden. They are put down until `num_masked` patches are hidden or none fits.

    Args:
        grid: (H, W), each at least 2.
        rng: the sample's generator.
        num_masked: the most patches to hide; 75 of 196 as in FLAVA, or the same share of another grid.
        min_block: the smallest area aimed at, in patches; 16 of 196 as in BEiT, or the same share of another grid.
        min_aspect: rectangles are between `min_aspect` and 1 / `min_aspect` times as high as wide.

    Raises:
        ValueError: for a grid in which no rectangle fits, or numbers that no mask can satisfy.
    """
    height, width = grid
    patches = height * width
    num_masked = round(patches * 75 / 196) if num_masked is None else num_masked
    min_block = max(1, min(round(patches * 16 / 196), num_masked)) if min_block is None else min_block
    _check_block(grid, num_masked, min_block, min_aspect)
    uniform = _uniforms(rng)
    hidden = 0  # one bit a patch
    remaining = num_masked
    while remaining > 0 and (block := _block(grid, uniform, hidden, remaining, (min_block, min_aspect))):
        hidden |= block
        remaining = num_masked - hidden.bit_count()
    packed = np.frombuffer(hidden.to_bytes(-(-patches // 8), "little"), dtype=np.uint8)
    return np.unpackbits(packed, count=patches, bitorder="little").view(np.bool_).reshape(grid)


def _check_block(grid: tuple[int, int], num_masked: int, min_block: int, min_aspect: float) -> None:
    if min(grid) < 2:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} patches has no room for blocks; it needs 2 x 2 or more")
    if not 0 <= num_masked <= grid[0] * grid[1]:
        raise ValueError(f"num_masked {num_masked} must lie between 0 and the {grid[0] * grid[1]} patches of the grid")
    if not 1 <= min_block <= max(1, num_masked):
        raise ValueError(f"min_block {min_block} must lie between 1 and num_masked, {num_masked}")
    if not 0 < min_aspect <= 1:
        raise ValueError(f"min_aspect {min_aspect} must be above 0 and at most 1")


def _uniforms(rng: np.random.Generator) -> Callable[[], float]:
    """Numbers in [0, 1), one a call: drawn in handfuls, because a draw of one costs as much as a draw of 64."""

    def stream() -> Iterator[float]:
        while True:
            yield from rng.random(_DRAWN_AT_ONCE).tolist()

    return stream().__next__


def _block(
    grid: tuple[int, int],
    uniform: Callable[[], float],
    hidden: int,
    remaining: int,
    limits: tuple[int, float],
) -> int:
    """The bits that a rectangle adds to `hidden`: at most `remaining`, 0 if none was found in ten attempts."""
    height, width = grid
    min_block, min_aspect = limits
    for _ in range(_ATTEMPTS):
        # With fewer than min_block patches remaining the interval is reversed, as in BEiT's code.
        area = min_block + (remaining - min_block) * uniform()
        aspect = exp(log(min_aspect) * (1 - 2 * uniform()))
        h, w = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if h >= height or w >= width:
            continue
        top, left = int(uniform() * (height - h + 1)), int(uniform() * (width - w + 1))
        new = (_rectangle(h, w, width) << (top * width + left)) & ~hidden
        if 0 < new.bit_count() <= remaining:
            return new
    return 0


@lru_cache(maxsize=4096)
def _rectangle(h: int, w: int, width: int) -> int:
    """The bits of a rectangle in the first corner of a grid that is `width` patches wide."""
    row = (1 << w) - 1
    return sum(row << (at * width) for at in range(h))


def mask_tokens(
    ids: Sequence[int],
    rng: np.random.Generator,
    *,
    vocab_size: int,
    mask_id: int,
    special_ids: Collection[int],
    rate: float = 0.15,
) -> tuple[list[int], list[int]]:
    """T ids -> T masked ids and the ascending positions to predict; the labels are `ids` at those positions.

    Each token but the special ones is chosen with probability `rate`. Of the chosen, 80 % become `mask_id`, 10 % a random
    ordinary token, 10 % stay as they are. A text of special tokens alone comes back as it is, with no positions.

    Raises:
        ValueError: for a rate outside [0, 1], or a vocabulary that holds nothing but special tokens.
    """
    ordinary = _ordinary(vocab_size, special_ids, rate)
    special = frozenset(special_ids)
    chosen = (rng.random(len(ids)) < rate).tolist()
    positions = [at for at, token in enumerate(ids) if chosen[at] and token not in special]
    return _corrupted(ids, positions, rng, mask_id, ordinary), positions


def mask_whole_words(
    ids: Sequence[int],
    rng: np.random.Generator,
    *,
    word_ids: Sequence[int | None],
    vocab_size: int,
    mask_id: int,
    special_ids: Collection[int],
    rate: float = 0.15,
) -> tuple[list[int], list[int]]:
    """Like `mask_tokens`, but a word's tokens are chosen together: each word with probability `rate`.

    Args:
        ids: T tokens.
        rng: the sample's generator.
        word_ids: T numbers, equal for the tokens of a word, None for tokens of no word.
        vocab_size: the number of ids.
        mask_id: the id of [MASK].
        special_ids: never chosen and never put in, such as [CLS], [SEP], [PAD], [UNK], [MASK].
        rate: of the words.

    Raises:
        ValueError: as `mask_tokens`, and if `word_ids` and `ids` differ in length.
    """
    if len(word_ids) != len(ids):
        raise ValueError(f"{len(word_ids)} word_ids for {len(ids)} ids; give one for each token")
    ordinary = _ordinary(vocab_size, special_ids, rate)
    special = frozenset(special_ids)
    words = sorted({word for word in word_ids if word is not None})
    chosen = {word for word, u in zip(words, rng.random(len(words)).tolist(), strict=True) if u < rate}
    positions = [at for at, word in enumerate(word_ids) if word in chosen and ids[at] not in special]
    return _corrupted(ids, positions, rng, mask_id, ordinary), positions


class _Ordinary:
    """The vocabulary without its special tokens, by number."""

    def __init__(self, vocab_size: int, special_ids: Collection[int]) -> None:
        self.special = sorted({token for token in special_ids if 0 <= token < vocab_size})
        self.count = vocab_size - len(self.special)

    def __getitem__(self, number: int) -> int:
        for token in self.special:
            number += token <= number
        return number


def _ordinary(vocab_size: int, special_ids: Collection[int], rate: float) -> _Ordinary:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate {rate} must lie between 0 and 1")
    ordinary = _Ordinary(vocab_size, special_ids)
    if ordinary.count < 1:
        raise ValueError(
            f"a vocabulary of {vocab_size} with {len(ordinary.special)} special tokens holds no ordinary one"
        )
    return ordinary


def _corrupted(
    ids: Sequence[int], positions: Sequence[int], rng: np.random.Generator, mask_id: int, ordinary: _Ordinary
) -> list[int]:
    masked = list(ids)
    for at, u in zip(positions, rng.random(len(positions)).tolist(), strict=True):
        if u < 0.8:
            masked[at] = mask_id
        elif u < 0.9:
            masked[at] = ordinary[int((u - 0.8) * 10 * ordinary.count)]
    return masked


def pad_positions(masked: NDArray[np.bool_], k: int) -> list[int]:
    """A mask of any shape -> its True places, flattened and ascending, filled up with -1 to K.

    Raises:
        ValueError: if more than `k` places are masked.
    """
    at: list[int] = np.flatnonzero(masked).tolist()
    if len(at) > k:
        raise ValueError(f"{len(at)} places are masked, room is for {k}; mask fewer or raise k")
    return at + [-1] * (k - len(at))
