"""Re-ranking against a loop that sorts, and both ways against scores known beforehand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchflava.evaluation import ranks_in, recall, rerank, reranked_retrieval, retrieval, top_k


@given(seed=st.integers(0, 200), batch=st.integers(1, 40))
def test_equals_a_loop_with_ties_in_the_first_order(seed: int, batch: int) -> None:
    g = torch.Generator().manual_seed(seed)
    worth = torch.randint(4, (7, 11), generator=g).float()
    candidates = torch.stack([torch.randperm(11, generator=g)[:5] for _ in range(7)])
    found = rerank(candidates, lambda query, item: worth[query, item], batch=batch)
    for query, row in enumerate(candidates.tolist()):
        want = sorted(row, key=lambda item, query=query: -float(worth[query, item]))
        assert found[query].tolist() == want


def test_ranks_are_of_the_first_right_one() -> None:
    candidates = torch.tensor([[4, 0, 2], [1, 3, 0], [2, 4, 3]])
    owner_of_item = torch.tensor([7, 8, 9, 8, 9])
    ranks = ranks_in(candidates, torch.tensor([9, 7, 7]), gallery_owner=owner_of_item)
    assert ranks[:2].tolist() == [0, 2]
    assert recall(ranks, (1, 3, 1000)) == pytest.approx({1: 1 / 3, 3: 2 / 3, 1000: 2 / 3})


def embedded() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    images = torch.randn(30, 8, generator=g)
    owner = torch.arange(30).repeat_interleave(2)
    return images, images[owner] + 1.5 * torch.randn(60, 8, generator=g), owner


def test_a_score_by_embedding_changes_nothing() -> None:
    images, texts, owner = embedded()
    cosines = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    found = reranked_retrieval(images, texts, owner, score=lambda i, t: cosines[i, t], k=10)
    assert found == retrieval(images, texts, owner)


def test_a_perfect_score_lifts_every_answer_among_the_candidates_to_the_top() -> None:
    images, texts, owner = embedded()
    found = reranked_retrieval(images, texts, owner, score=lambda i, t: (owner[t] == i).float(), k=10, batch=7)
    first = retrieval(images, texts, owner, ks=(10,))
    assert found.image_to_text[1] == found.image_to_text[10] == first.image_to_text[10]
    assert found.text_to_image[1] == found.text_to_image[10] == first.text_to_image[10]
    assert first.text_to_image[10] < 1


def test_the_score_sees_images_and_texts_in_both_directions() -> None:
    images, texts, owner = embedded()
    seen: set[tuple[int, int]] = set()

    def score(image: Tensor, text: Tensor) -> Tensor:
        seen.update(zip(image.tolist(), text.tolist(), strict=True))
        return torch.zeros(len(image))

    reranked_retrieval(images, texts, owner, score=score, k=10)
    want = {(i, t) for i, row in enumerate(top_k(images, texts, 10).tolist()) for t in row}
    want |= {(i, t) for t, row in enumerate(top_k(texts, images, 10).tolist()) for i in row}
    assert seen == want


def test_names_what_is_wrong() -> None:
    images, texts, owner = embedded()
    with pytest.raises(ValueError, match="k 5 is below recall@10"):
        reranked_retrieval(images, texts, owner, score=lambda i, t: torch.zeros(len(i)), k=5)
    with pytest.raises(ValueError, match=r"scores of 6 pairs are \(6, 2\)"):
        rerank(torch.zeros(2, 3, dtype=torch.int64), lambda i, t: torch.zeros(len(i), 2))
    with pytest.raises(ValueError, match="hold NaN"):
        rerank(torch.zeros(2, 3, dtype=torch.int64), lambda i, t: torch.full((len(i),), torch.nan))
