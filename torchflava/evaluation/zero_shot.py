"""Zero-shot classification: an image's class is the one whose prompts lie nearest (Radford et al. 2021, §3.1.4; paper §4.2).

Letters: Q images, C classes, P prompts a class, E embedding width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EmbedTexts = Callable[[Sequence[str]], Tensor]
"""P texts -> (P, E)."""


def class_embeddings(embed_texts: EmbedTexts, prompts: Sequence[Sequence[str]]) -> Tensor:
    """C classes, each with its prompts -> (C, E): embeddings of length 1, averaged over prompts, made length 1 again.

    Raises:
        ValueError: for a class without a prompt, or embeddings that are not finite.
    """
    if not prompts or not all(prompts):
        raise ValueError("every class needs a prompt at least, and there must be a class")
    embedded = F.normalize(embed_texts([text for texts in prompts for text in texts]).float(), dim=-1)
    if not torch.isfinite(embedded).all():
        raise ValueError("embeddings of prompts hold numbers that are not finite; look at the model that made them")
    means = [part.mean(0) for part in torch.split(embedded, [len(texts) for texts in prompts])]
    return F.normalize(torch.stack(means), dim=-1)


def top_k_accuracy(images: Tensor, classes: Tensor, labels: Tensor, *, k: int = 1) -> float:
    """(Q, E), (C, E), (Q,) int64 -> the share of images whose class is among the k nearest; ties go to the lower class.

    Raises:
        ValueError: if the labels do not fit, or embeddings are not finite.
    """
    if labels.shape != images.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"labels are {tuple(labels.shape)}; one for each of {len(images)} images is due, and one at least"
        )
    if int(labels.max()) >= len(classes) or int(labels.min()) < 0:
        raise ValueError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}; there are {len(classes)} classes"
        )
    if not (torch.isfinite(images).all() and torch.isfinite(classes).all()):
        raise ValueError("embeddings hold numbers that are not finite; look at the model that made them")
    scores = F.normalize(images.float(), dim=-1) @ F.normalize(classes.float(), dim=-1).T
    nearest = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return float((nearest == labels[:, None]).any(1).float().mean())
