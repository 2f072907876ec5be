"""Whitening of embeddings before they are compared, fitted without labels (Jégou and Chum 2012, "Negative evidences and
co-occurrences in image retrieval: the benefit of PCA and whitening").

Letters: N, Q rows, E embedding width.
"""

from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Whitening(NamedTuple):
    """Maps embeddings so that no direction in which those it was fitted to vary most decides alone; made by `fit_whitening`."""

    mean: Tensor
    """(E,)."""
    matrix: Tensor
    """(E, E)."""

    def __call__(self, embeddings: Tensor) -> Tensor:
        """(Q, E) -> (Q, E) of length 1."""
        return F.normalize((embeddings.float() - self.mean) @ self.matrix, dim=-1)


def fit_whitening(embeddings: Tensor, *, shrink: float = 0.1) -> Whitening:
    """Principal axes of (N, E) embeddings, each divided by its standard deviation plus `shrink` times the largest.

    Raises:
        ValueError: for fewer than two rows, rows that are all equal or not finite, or a `shrink` that is not above 0 and finite:
            directions that never vary would be divided by 0.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}; give (N, E) of two rows or more")
    if not 0 < shrink < inf:
        raise ValueError(f"shrink {shrink} must be above 0 and finite")
    if not torch.isfinite(embeddings).all():
        raise ValueError("embeddings hold numbers that are not finite; look at the model that made them")
    centred = embeddings.double() - embeddings.double().mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred / (len(embeddings) - 1))
    deviation = values.clamp(min=0).sqrt()
    if deviation[-1] <= 1e-6 * embeddings.double().abs().max():
        raise ValueError(f"the {len(embeddings)} embeddings are all equal; there is nothing to fit to")
    return Whitening(embeddings.float().mean(0), (axes / (deviation + shrink * deviation[-1])).float())
