"""Retrieval: the share of queries with a right answer among the first K (recall@K as in Karpathy and Fei-Fei 2015, §4.2).

Items of equal score are ranked by their place in the gallery, so that a model that embeds everything alike scores what guessing
does, and not 1.

Letters: Q queries, G gallery items, E embedding width, I images, T texts.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOWHERE = torch.iinfo(torch.int64).max
"""The rank of what is not there: recall at any K counts it as missed."""


def ranks_of_answers(
    queries: Tensor, gallery: Tensor, query_owner: Tensor, *, gallery_owner: Tensor, chunk: int = 1024
) -> Tensor:
    """The rank, from 0, of each query's first right answer; equal scores rank by their place in the gallery.

    Args:
        queries: (Q, E).
        gallery: (G, E).
        query_owner: (Q,) int64: what the query belongs to, such as the number of its image.
        gallery_owner: (G,) int64: an item is a right answer where its owner is the query's.
        chunk: queries scored at once, which bounds memory at chunk * G.

    Returns:
        (Q,) int64; NOWHERE for a query without a right answer in the gallery, which no K reaches.

    Raises:
        ValueError: if not everything has its owner, or embeddings are not finite.
    """
    if len(queries) != len(query_owner) or len(gallery) != len(gallery_owner):
        raise ValueError(
            f"{len(queries)} queries with {len(query_owner)} owners, {len(gallery)} items with {len(gallery_owner)} owners: "
            "give each its owner"
        )
    at = torch.arange(len(gallery), device=gallery.device)
    ranks = []
    for scores, owner in zip(_cosines(queries, gallery, chunk), torch.split(query_owner, chunk), strict=True):
        right = owner[:, None] == gallery_owner[None]
        best = scores.masked_fill(~right, -torch.inf).max(1)
        ahead = (scores > best.values[:, None]) | ((scores == best.values[:, None]) & (at < best.indices[:, None]))
        ranks.append(torch.where(right.any(1), (ahead & ~right).sum(1), NOWHERE))
    return torch.cat(ranks)


class Recalls(NamedTuple):
    """Recall@K both ways."""

    image_to_text: dict[int, float]
    """The paper's TR: an image is answered by any of its texts."""
    text_to_image: dict[int, float]
    """The paper's IR."""


def retrieval(
    images: Tensor, texts: Tensor, owner: Tensor, *, ks: Sequence[int] = (1, 5, 10), chunk: int = 1024
) -> Recalls:
    """(I, E), (T, E), (T,) int64 numbers of each text's image -> the recalls; several texts may have one image.

    Raises:
        ValueError: as `ranks_of_answers`, and if a text's image is not there.
    """
    check_owner(owner, len(images))
    at = torch.arange(len(images), device=owner.device)
    return Recalls(
        recall(ranks_of_answers(images, texts, at, gallery_owner=owner, chunk=chunk), ks),
        recall(ranks_of_answers(texts, images, owner, gallery_owner=at, chunk=chunk), ks),
    )


def top_k(queries: Tensor, gallery: Tensor, k: int, *, chunk: int = 1024) -> Tensor:
    """(Q, E), (G, E) -> (Q, k) int64: the places in the gallery of the k nearest, best first; all where k is above G.

    Raises:
        ValueError: for k below 1, an empty gallery, or embeddings that are not finite.
    """
    if k < 1:
        raise ValueError(f"k {k} must be 1 or more")
    if not len(gallery):
        raise ValueError("the gallery is empty; give an item at least")
    return torch.cat([_first(scores, min(k, len(gallery))) for scores in _cosines(queries, gallery, chunk)])


def recall(ranks: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """(Q,) ranks from 0 -> the share of queries answered within the first K, for each K."""
    if len(ranks) == 0:
        raise ValueError("recall of no queries")
    return {k: float((ranks < k).double().mean()) for k in ks}


def check_owner(owner: Tensor, num_images: int) -> None:
    """Raise ValueError unless every text's image is among them."""
    if not len(owner) or int(owner.min()) < 0 or int(owner.max()) >= num_images:
        told = f"reach from {int(owner.min())} to {int(owner.max())}" if len(owner) else "are none"
        raise ValueError(f"owners of texts {told}, and there are {num_images} images; number the images from 0")


def _first(scores: Tensor, k: int) -> Tensor:
    """(Q, G) -> (Q, k) places of the highest, equal ones by place; `torch.topk` leaves open which of equal ones it takes."""
    last = scores.topk(k, dim=1).values[:, -1:]
    above, level = scores > last, scores == last
    taken = above | (level & (level.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
    places = taken.nonzero()[:, 1].view(-1, k)
    return places.gather(1, scores.gather(1, places).sort(dim=1, descending=True, stable=True).indices)


def _cosines(queries: Tensor, gallery: Tensor, chunk: int) -> Iterator[Tensor]:
    """(chunk, G) at a time."""
    for name, embeddings in (("queries", queries), ("gallery", gallery)):
        if not torch.isfinite(embeddings).all():
            wrong = int((~torch.isfinite(embeddings).all(1)).int().argmax())
            raise ValueError(f"row {wrong} of {name} is not finite; look at the model that embedded it")
    gallery = F.normalize(gallery.float(), dim=-1)
    for part in torch.split(queries.float(), chunk):
        yield F.normalize(part, dim=-1) @ gallery.T
