"""Masks against a twin written the slow way, the published statistics, and chance."""

import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchflava.transforms.masking import block_mask, mask_tokens, mask_whole_words, pad_positions


def slow_block_mask(grid, rng, num_masked, min_block, min_aspect=0.3):
    """The same algorithm with sets of cells and one draw at a time."""
    hidden: set[tuple[int, int]] = set()
    while len(hidden) < num_masked:
        for _ in range(10):
            area = rng.uniform(0, 1) * (num_masked - len(hidden) - min_block) + min_block
            aspect = math.exp(rng.uniform(0, 1) * 2 * math.log(1 / min_aspect) + math.log(min_aspect))
            h, w = int(np.rint((area * aspect) ** 0.5)), int(np.rint((area / aspect) ** 0.5))
            if not (h < grid[0] and w < grid[1]):
                continue
            top, left = math.floor(rng.random() * (grid[0] - h + 1)), math.floor(rng.random() * (grid[1] - w + 1))
            new = {(top + i, left + j) for i in range(h) for j in range(w)} - hidden
            if 1 <= len(new) <= num_masked - len(hidden):
                break
        else:
            break
        hidden |= new
    return np.array([[(i, j) in hidden for j in range(grid[1])] for i in range(grid[0])])


@pytest.mark.parametrize(("grid", "num_masked", "min_block"), [((14, 14), 75, 16), ((5, 11), 23, 4), ((7, 3), 9, 2)])
def test_equals_the_slow_twin(grid, num_masked, min_block):
    for seed in range(60):
        fast = block_mask(grid, np.random.default_rng(seed), num_masked=num_masked, min_block=min_block)
        assert (fast == slow_block_mask(grid, np.random.default_rng(seed), num_masked, min_block)).all()


def test_has_the_published_statistics():
    rng = np.random.default_rng(0)
    masks = np.stack([block_mask((14, 14), rng) for _ in range(2000)])
    counts = masks.sum((1, 2))
    assert counts.mean() == pytest.approx(74.5, abs=0.1)
    assert counts.max() == 75
    assert 60 <= counts.min() <= 68
    assert (counts == 75).mean() == pytest.approx(0.686, abs=0.035)  # 3.4 standard errors
    corners = masks[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean()
    assert corners == pytest.approx(0.04, abs=0.01)
    assert masks[:, 6:8, 6:8].mean() == pytest.approx(0.72, abs=0.03)


@pytest.mark.parametrize(("grid", "expected"), [((6, 6), 14), ((30, 30), 344), ((12, 9), 41), ((2, 2), 2)])
def test_hides_the_same_share_of_other_grids(grid, expected):
    rng = np.random.default_rng(1)
    counts = [int(block_mask(grid, rng).sum()) for _ in range(200)]
    assert max(counts) == expected
    assert np.mean(counts) > 0.9 * expected


@given(st.integers(2, 19), st.integers(2, 19), st.integers(0, 40), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_never_hides_more_than_asked(height, width, num_masked, seed):
    num_masked = min(num_masked, height * width)
    mask = block_mask((height, width), np.random.default_rng(seed), num_masked=num_masked)
    assert mask.shape == (height, width)
    assert mask.dtype == np.bool_
    assert mask.sum() <= num_masked


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (1, 9)}, "1 x 9"),
        ({"num_masked": 197}, "num_masked 197"),
        ({"num_masked": -1}, "num_masked -1"),
        ({"num_masked": 10, "min_block": 16}, "min_block 16"),
        ({"min_aspect": 0.0}, "min_aspect 0.0"),
    ],
)
def test_block_mask_names_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        block_mask(**{"grid": (14, 14), "rng": np.random.default_rng(0), **change})


SPECIAL = (0, 1, 2, 3, 4)
VOCABULARY = {"vocab_size": 41, "mask_id": 4, "special_ids": SPECIAL}
IDS = [2, *range(5, 36), 3]


def test_chooses_fifteen_percent_and_corrupts_eighty_ten_ten():
    rng = np.random.default_rng(2)
    outcomes: Counter[str] = Counter()
    new_ids: Counter[int] = Counter()
    positions_seen: Counter[int] = Counter()
    for _ in range(4000):
        masked, positions = mask_tokens(IDS, rng, **VOCABULARY)
        assert [m for at, m in enumerate(masked) if at not in positions] == [
            i for at, i in enumerate(IDS) if at not in positions
        ]
        positions_seen.update(positions)
        for at in positions:
            kind = "mask" if masked[at] == 4 else "same" if masked[at] == IDS[at] else "random"
            outcomes[kind] += 1
            new_ids[masked[at]] += kind == "random"
    total = outcomes.total()
    assert total / 4000 / 31 == pytest.approx(0.15, abs=0.005)
    assert outcomes["mask"] / total == pytest.approx(0.8, abs=0.01)
    assert outcomes["random"] / total == pytest.approx(0.1 * 35 / 36, abs=0.01)  # a random token may be the same one
    assert set(positions_seen) == set(range(1, 32))
    assert set(new_ids) - {4, *IDS} <= set(range(5, 41))
    assert all(new_ids[token] > 0 for token in range(5, 41))
    assert not any(new_ids[token] for token in SPECIAL)


def test_random_tokens_are_ordinary_wherever_the_special_ones_stand():
    special = {0, 3, 8, 9, 20}
    rng = np.random.default_rng(3)
    put_in = Counter(
        token
        for _ in range(600)
        for token in mask_tokens([7] * 50, rng, vocab_size=21, mask_id=3, special_ids=special, rate=1.0)[0]
    )
    assert set(put_in) == set(range(21)) - special | {3}
    counts = [put_in[token] for token in range(21) if token not in special and token != 7]
    assert max(counts) / min(counts) < 1.6


@pytest.mark.parametrize("mask", [mask_tokens, partial(mask_whole_words, word_ids=[None, None])])
def test_nothing_to_mask_masks_nothing(mask):
    ids = [2, 3]
    assert mask(ids, np.random.default_rng(0), rate=1.0, **VOCABULARY) == ([2, 3], [])
    assert ids == [2, 3]


def test_whole_words_stand_and_fall_together():
    words = [None, *(at // 3 for at in range(31)), None]
    rng = np.random.default_rng(4)
    share = []
    for _ in range(2000):
        masked, positions = mask_whole_words(IDS, rng, word_ids=words, **VOCABULARY)
        chosen = {words[at] for at in positions}
        assert positions == [at for at, word in enumerate(words) if word in chosen]
        assert len(masked) == len(IDS)
        share.append(len(positions) / 31)
    assert np.mean(share) == pytest.approx(0.15, abs=0.01)


def test_a_special_token_within_a_word_is_left_alone():
    ids, words = [2, 10, 1, 11, 3], [None, 0, 0, 0, None]
    masked, positions = mask_whole_words(ids, np.random.default_rng(0), word_ids=words, rate=1.0, **VOCABULARY)
    assert positions == [1, 3]
    assert masked[2] == 1


def test_token_masks_name_what_is_wrong():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"rate 1\.5"):
        mask_tokens(IDS, rng, rate=1.5, **VOCABULARY)
    with pytest.raises(ValueError, match="no ordinary"):
        mask_tokens([0], rng, vocab_size=2, mask_id=1, special_ids=[0, 1])
    with pytest.raises(ValueError, match="2 word_ids for 33 ids"):
        mask_whole_words(IDS, rng, word_ids=[None, 1], **VOCABULARY)


def test_the_same_generator_gives_the_same_masks():
    for mask in (
        lambda rng: block_mask((14, 14), rng).tolist(),
        lambda rng: mask_tokens(IDS, rng, **VOCABULARY),
    ):
        assert mask(np.random.default_rng(5)) == mask(np.random.default_rng(5))
        assert mask(np.random.default_rng(5)) != mask(np.random.default_rng(6))


def test_pads_positions():
    masked = np.array([[False, True, False], [True, False, True]])
    assert pad_positions(masked, 5) == [1, 3, 5, -1, -1]
    assert pad_positions(masked, 3) == [1, 3, 5]
    with pytest.raises(ValueError, match="3 places are masked, room is for 2"):
        pad_positions(masked, 2)
