"""Recall and zero-shot accuracy against loops written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchflava.evaluation import class_embeddings, ranks_of_answers, recall, retrieval, top_k, top_k_accuracy


def slow_rank(query: torch.Tensor, gallery: torch.Tensor, right: list[bool]) -> int:
    scores = [float(query @ item / query.norm() / item.norm()) for item in gallery]
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return next((place for place, i in enumerate(order) if right[i]), torch.iinfo(torch.int64).max)


@given(seed=st.integers(0, 200), chunk=st.integers(1, 9))
def test_ranks_equal_a_sorted_loop(seed: int, chunk: int) -> None:
    g = torch.Generator().manual_seed(seed)
    queries, gallery = torch.randn(7, 5, generator=g), torch.randn(11, 5, generator=g)
    query_owner, gallery_owner = torch.randint(4, (7,), generator=g), torch.randint(5, (11,), generator=g)
    ranks = ranks_of_answers(queries, gallery, query_owner, gallery_owner=gallery_owner, chunk=chunk)
    want = [slow_rank(q, gallery, (gallery_owner == o).tolist()) for q, o in zip(queries, query_owner, strict=True)]
    assert ranks.tolist() == want


def test_a_constant_model_scores_chance_not_one() -> None:
    same, owners = torch.ones(10, 3), torch.arange(10)
    ranks = ranks_of_answers(same, same, owners, gallery_owner=owners)
    assert recall(ranks, (1, 5)) == pytest.approx({1: 0.1, 5: 0.5})


def test_a_perfect_model_scores_one_with_any_of_several_answers() -> None:
    eye = torch.eye(4)
    gallery = eye.repeat_interleave(5, 0)
    owners = torch.arange(4)
    ranks = ranks_of_answers(eye, gallery, owners, gallery_owner=owners.repeat_interleave(5))
    assert recall(ranks, (1,)) == {1: 1.0}


@given(seed=st.integers(0, 200), chunk=st.integers(1, 9), k=st.integers(1, 13))
def test_top_k_is_a_sorted_loop_with_ties_by_place(seed: int, chunk: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    # Few directions, so that many scores are equal.
    queries, gallery = (
        torch.eye(3)[torch.randint(3, (7,), generator=g)],
        torch.eye(3)[torch.randint(3, (11,), generator=g)],
    )
    scores = queries @ gallery.T
    want = [sorted(range(11), key=lambda i, row=row: (-float(row[i]), i))[:k] for row in scores]
    assert top_k(queries, gallery, k, chunk=chunk).tolist() == want


def test_both_ways_with_uneven_numbers_of_texts() -> None:
    """Image 0 has texts 0 and 3, image 1 has 1, image 2 has 2."""
    owner = torch.tensor([0, 1, 2, 0])
    images = torch.eye(3)
    texts = torch.tensor([[0.0, 1, 0.1], [0, 1, 0], [1, 0, 0.5], [1, 0.2, 0]])
    found = retrieval(images, texts, owner, ks=(1, 2, 3))
    # By the dot products, after the texts are made length 1: image 0 finds text 3, image 1 finds text 1, image 2 finds text 2.
    assert found.image_to_text == pytest.approx({1: 1.0, 2: 1.0, 3: 1.0})
    # Text 0 finds images 1, 2, 0; text 1 image 1; text 2 images 0, 2; text 3 image 0.
    assert found.text_to_image == pytest.approx({1: 0.5, 2: 0.75, 3: 1.0})


@pytest.mark.parametrize("captions", [1, 5])
def test_a_constant_model_scores_chance_both_ways(captions: int) -> None:
    num = 20
    owner = torch.arange(num).repeat_interleave(captions)
    found = retrieval(torch.ones(num, 4), torch.ones(num * captions, 4), owner, ks=(1, 5))
    assert found.image_to_text == pytest.approx({1: 1 / num, 5: 5 / captions / num})
    assert found.text_to_image == pytest.approx({1: 1 / num, 5: 5 / num})


def test_embeddings_that_are_not_finite_are_no_perfect_score() -> None:
    bad, owners = torch.ones(4, 3), torch.arange(4)
    bad[2, 1] = torch.nan
    for queries, gallery, name in ((bad, torch.ones(4, 3), "queries"), (torch.ones(4, 3), bad, "gallery")):
        with pytest.raises(ValueError, match=f"row 2 of {name} is not finite"):
            ranks_of_answers(queries, gallery, owners, gallery_owner=owners)
        with pytest.raises(ValueError, match=f"row 2 of {name} is not finite"):
            top_k(queries, gallery, 2)


def test_owners_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match="owners of texts reach from 0 to 3, and there are 3 images"):
        retrieval(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="owners of texts are none"):
        retrieval(torch.eye(3), torch.ones(0, 3), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="the gallery is empty"):
        top_k(torch.eye(3), torch.ones(0, 3), 1)
    with pytest.raises(ValueError, match="k 0 must be 1"):
        top_k(torch.eye(3), torch.eye(3), 0)


def test_an_image_without_a_text_is_missed_at_any_k() -> None:
    found = retrieval(torch.eye(4), torch.eye(4)[:3], torch.tensor([0, 1, 2]), ks=(1, 3, 10))
    assert found.image_to_text == {1: 0.75, 3: 0.75, 10: 0.75}  # there are three texts, and 10 is beyond them
    assert found.text_to_image == {1: 1.0, 3: 1.0, 10: 1.0}


def test_class_embeddings_average_unit_vectors() -> None:
    table = {"a": [3.0, 0.0], "b": [0.0, 4.0], "c": [0.0, -2.0]}
    classes = class_embeddings(lambda texts: torch.tensor([table[t] for t in texts]), [["a", "b"], ["c"]])
    torch.testing.assert_close(classes, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))


def test_accuracy_counts_and_breaks_ties_by_class() -> None:
    classes = torch.eye(3)
    images = torch.tensor([[1.0, 0.2, 0.1], [0.1, 0.2, 1.0], [1.0, 1.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    assert top_k_accuracy(images, classes, labels) == pytest.approx(1 / 3)
    assert top_k_accuracy(images, classes, labels, k=2) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="there are 3 classes"):
        top_k_accuracy(images, classes, labels + 2)
    with pytest.raises(ValueError, match="not finite"):
        top_k_accuracy(images * torch.nan, classes, labels)
    with pytest.raises(ValueError, match="prompts hold numbers that are not finite"):
        class_embeddings(lambda texts: torch.full((len(texts), 2), torch.nan), [["a"], ["b"]])
    with pytest.raises(ValueError, match="needs a prompt"):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), [["a"], []])
