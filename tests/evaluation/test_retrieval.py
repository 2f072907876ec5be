"""Recall and zero-shot accuracy against loops written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchflava.evaluation import class_embeddings, ranks_of_answers, recall, top_k_accuracy


def slow_rank(query: torch.Tensor, gallery: torch.Tensor, right: list[bool]) -> int:
    scores = [float(query @ item / query.norm() / item.norm()) for item in gallery]
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return next((place for place, i in enumerate(order) if right[i]), len(scores))


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
    with pytest.raises(ValueError, match="needs a prompt"):
        class_embeddings(lambda texts: torch.ones(len(texts), 2), [["a"], []])
