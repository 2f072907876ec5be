"""Rows into batches, against loops written out; and the errors that a bad row gets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchflava.batch import IGNORE
from torchflava.transforms.collate import Collate, ImageRow, PairRow, TextRow


def image_row(masked: list[bool]) -> ImageRow:
    return ImageRow(torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, 1, 1, dtype=torch.uint8), np.array(masked))


masks = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=5)
)


@given(masks)
def test_positions_are_the_masked_patches_padded_with_minus_one(rows: list[list[bool]]) -> None:
    batch = Collate(10, 12).images([image_row(row) for row in rows])
    for row, positions in zip(rows, batch.positions.tolist(), strict=True):
        want = [i for i, hidden in enumerate(row) if hidden]
        assert positions == want + [-1] * (12 - len(want))


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=5))
def test_texts_are_padded_to_the_longest_and_no_further(texts: list[list[int]]) -> None:
    ids, keep = Collate(10, 1).pad(texts)
    assert ids.shape[1] == max(map(len, texts))
    assert [row[k].tolist() for row, k in zip(ids, keep, strict=True)] == texts
    assert int(ids[~keep].sum()) == 0


def test_text_labels_stand_at_their_positions_and_the_width_is_a_bucket() -> None:
    rows = [TextRow([1, 5, 2], [1], [7]), TextRow([1, 5, 5, 5, 5, 5, 2], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7])]
    batch = Collate(10, 1).texts(rows)
    assert batch.positions.shape == batch.labels.shape == (2, 8)
    assert batch.labels[0].tolist() == [7] + [IGNORE] * 7
    assert batch.positions[1, :5].tolist() == [1, 2, 3, 4, 5]


def test_nothing_masked_keeps_a_width() -> None:
    batch = Collate(10, 1).texts([TextRow([1, 2], [], [])])
    assert batch.labels.unique().tolist() == [IGNORE]
    assert batch.labels.shape[1] > 0


def test_a_pair_keeps_its_clean_text_where_the_masked_one_is_anothers() -> None:
    row = PairRow(image_row([True, False]), [1, 3, 2], TextRow([1, 4, 4, 2], [1], [5]), matched=False)
    batch = Collate(10, 2).pairs([row, row._replace(matched=True)])
    assert batch.ids.tolist()[0] == [1, 3, 2]
    assert batch.masked_ids.tolist()[0] == [1, 4, 4, 2]
    assert batch.matched.tolist() == [False, True]
    assert batch.contrast.tolist() == [True, True]


@pytest.mark.parametrize("bad", [10, 99, -1])
def test_an_id_beyond_the_vocabulary_is_named(bad: int) -> None:
    with pytest.raises(ValueError, match=f"id {bad} is beyond the vocabulary of 10"):
        Collate(10, 1).pad([[1, bad]])


def test_other_bad_rows() -> None:
    collate = Collate(10, 1)
    with pytest.raises(ValueError, match="a batch of no rows"):
        collate.images([])
    with pytest.raises(ValueError, match="a batch of no rows"):
        collate.texts([])
    with pytest.raises(ValueError, match="text without tokens"):
        collate.pad([[1], []])
    with pytest.raises(ValueError, match="hides 2 patches, num_masked is 1"):
        collate.images([image_row([True, True])])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (TextRow([2, -100, 3], [], []), "id -100 is beyond"),
        (TextRow([2, 5, 3], [7], [5]), r"positions \[7\] with 1 labels do not fit a text of 3"),
        (TextRow([2, 5, 3], [1], [5, 6]), r"positions \[1\] with 2 labels"),
    ],
)
def test_a_text_row_that_does_not_fit_is_named(row: TextRow, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Collate(10, 3).texts([row])


def test_rows_of_unequal_sizes_or_types_are_named() -> None:
    row = image_row([True, False])
    with pytest.raises(ValueError, match="pixels of one batch differ"):
        Collate(10, 3).images([row, row._replace(pixels=torch.zeros(3, 4, 4, dtype=torch.uint8))])
    with pytest.raises(ValueError, match="masks of one batch differ"):
        Collate(10, 3).images([row, image_row([True])])
    with pytest.raises(ValueError, match=r"pixels are torch\.float32; uint8 is due"):
        Collate(10, 3).images([row._replace(pixels=row.pixels.float())])
