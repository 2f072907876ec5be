"""Retrieval: the share of queries with a right answer among the first K (recall@K as in Karpathy and Fei-Fei 2015, §4.2).

Letters: Q queries, G gallery items, E embedding width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


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
        (Q,) int64; G for a query without a right answer in the gallery.
    """
    if len(queries) != len(query_owner) or len(gallery) != len(gallery_owner):
        raise ValueError(
            f"{len(queries)} queries with {len(query_owner)} owners, {len(gallery)} items with {len(gallery_owner)} owners: "
            "give each its owner"
        )
    gallery = F.normalize(gallery.float(), dim=-1)
    at = torch.arange(len(gallery), device=gallery.device)
    ranks = []
    for part, owner in zip(torch.split(queries.float(), chunk), torch.split(query_owner, chunk), strict=True):
        scores = F.normalize(part, dim=-1) @ gallery.T
        right = owner[:, None] == gallery_owner[None]
        best = scores.masked_fill(~right, -torch.inf).max(1)
        ahead = (scores > best.values[:, None]) | ((scores == best.values[:, None]) & (at < best.indices[:, None]))
        ranks.append(torch.where(right.any(1), (ahead & ~right).sum(1), len(gallery)))
    return torch.cat(ranks)


def recall(ranks: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """(Q,) ranks from 0 -> the share of queries answered within the first K, for each K."""
    if len(ranks) == 0:
        raise ValueError("recall of no queries")
    return {k: float((ranks < k).float().mean()) for k in ks}
