"""Which rows of a batch the losses are of.

Letters: B batch, K rows asked for.
"""

import torch
from torch import Tensor

from torchflava.batch import IGNORE, Batch, CachedPairBatch, ImageBatch, PairBatch, TextBatch


def labelled_rows(batch: Batch) -> dict[str, Tensor]:
    """A batch -> () float32 by loss: the rows that its losses are sums over, without running the model."""
    match batch:
        case ImageBatch():
            return {"mim": _count(batch.labels)}
        case TextBatch():
            return {"mlm": _count(batch.labels)}
        case CachedPairBatch():
            return labelled_rows(batch.pair)
    image, text = (_count(of_matched(labels, batch)) for labels in (batch.patch_labels, batch.token_labels))
    rows = torch.full_like(image, len(batch.matched))
    return {"mmm_image": image, "mmm_text": text, "itm": rows, "contrastive": batch.contrast.sum().float()}


def of_matched(labels: Tensor, batch: PairBatch) -> Tensor:
    """(B, K) labels of pairs -> the same, and `IGNORE` in the rows whose text does not belong."""
    if batch.matched.shape != labels.shape[:1] or batch.matched.dtype != torch.bool:
        raise ValueError(
            f"matched is {tuple(batch.matched.shape)} {batch.matched.dtype}; one bool for each of {len(labels)} rows is due"
        )
    return torch.where(batch.matched[:, None], labels, IGNORE)


def _count(labels: Tensor) -> Tensor:
    return (labels != IGNORE).sum().float()
