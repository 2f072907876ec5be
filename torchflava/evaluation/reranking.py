"""Retrieval in two steps: the nearest K by embedding, put in order by a score that sees both, such as the ITM head's (Li et al.
2021, "Align before Fuse", §3.4). The paper reports the first step alone.

Letters: Q queries, G gallery items, K candidates of each query, E embedding width, I images, T texts, B pairs.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchflava.evaluation.retrieval import NOWHERE, Recalls, check_owner, recall, top_k

Score = Callable[[Tensor, Tensor], Tensor]
"""(B,) and (B,) int64 places of what is to be compared -> (B,) scores, the higher the better."""


def rerank(candidates: Tensor, score: Score, *, batch: int = 256) -> Tensor:
    """(Q, K) places in the gallery -> the same, those with the highest score first; equal ones stay in their order.

    Args:
        candidates: as `top_k` makes them.
        score: asked for (places of queries, places in the gallery), `batch` pairs at a time.
        batch: pairs scored at once.

    Raises:
        ValueError: if a score is missing or is NaN.
    """
    num, width = candidates.shape
    query = torch.arange(num, device=candidates.device).repeat_interleave(width)
    parts = zip(torch.split(query, batch), torch.split(candidates.reshape(-1), batch), strict=True)
    scores = torch.cat([_scored(score, *part) for part in parts]).view(num, width)
    return candidates.gather(1, scores.sort(dim=1, descending=True, stable=True).indices)


def ranks_in(candidates: Tensor, query_owner: Tensor, *, gallery_owner: Tensor) -> Tensor:
    """(Q, K) places in the gallery, best first -> (Q,) int64: the rank, from 0, of the first right one.

    A query without one has a rank that no K reaches: ask `recall` for no more than the K of the candidates.
    """
    right = gallery_owner[candidates] == query_owner[:, None]
    return torch.where(right.any(1), right.int().argmax(1), NOWHERE)


def reranked_retrieval(
    images: Tensor,
    texts: Tensor,
    owner: Tensor,
    *,
    score: Score,
    k: int = 128,
    ks: Sequence[int] = (1, 5, 10),
    batch: int = 256,
) -> Recalls:
    """(I, E), (T, E), (T,) int64 numbers of each text's image -> recalls after the k nearest of each query are scored again.

    Args:
        images: embeddings, by which candidates are found.
        texts: the same.
        owner: of each text.
        score: asked for (places of images, places of texts), in both directions.
        k: candidates of each query, as many as `ks` reaches at least.
        ks: of recall@K.
        batch: pairs scored at once.

    Raises:
        ValueError: if k is below one of `ks`, a text's image is not there, or numbers are not finite.
    """
    if k < max(ks):
        raise ValueError(f"k {k} is below recall@{max(ks)}; score as many candidates at least")
    check_owner(owner, len(images))
    at = torch.arange(len(images), device=owner.device)
    to_texts = rerank(top_k(images, texts, k), score, batch=batch)
    to_images = rerank(top_k(texts, images, k), lambda text, image: score(image, text), batch=batch)
    return Recalls(
        recall(ranks_in(to_texts, at, gallery_owner=owner), ks),
        recall(ranks_in(to_images, owner, gallery_owner=at), ks),
    )


def _scored(score: Score, query: Tensor, item: Tensor) -> Tensor:
    scores = score(query, item)
    if scores.shape != query.shape or scores.isnan().any():
        raise ValueError(
            f"scores of {len(query)} pairs are {tuple(scores.shape)} or hold NaN; one number for each is due"
        )
    return scores.float()
