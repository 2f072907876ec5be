"""Examples into the batches that a model is fine-tuned on: images resized, texts joined and padded, targets as tensors.

Letters: B batch, S side of an image, T tokens, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchflava.losses import Loss, answers_loss, class_loss, score_loss
from torchflava.tasks.examples import Example, TuningTask
from torchflava.tasks.images import read_image
from torchflava.transforms import Collate, TextTokenizer, TrainViews, WholeView, encode_joined, normalise


class TuningRow(NamedTuple):
    """An example, ready to be stacked."""

    pixels: Tensor | None
    """(3, S, S) uint8."""
    ids: list[int] | None
    example: Example


class TuningBatch(NamedTuple):
    """What a step looks at; parts that the task does not read are None."""

    pixels: Tensor | None
    """(B, 3, S, S) uint8."""
    ids: Tensor | None
    """(B, T) int64."""
    keep: Tensor | None
    """(B, T) bool, True for a token."""
    targets: Tensor
    """(B,) int64 classes, (B,) float scores or (B, C) float worths of answers."""

    def inputs(self, device: torch.device) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What the model takes, on the device, pixels normalised."""
        pixels = None if self.pixels is None else normalise(self.pixels.to(device, non_blocking=True))
        ids, keep = (None if part is None else part.to(device, non_blocking=True) for part in (self.ids, self.keep))
        return pixels, ids, keep

    def split(self, rows: int) -> list["TuningBatch"]:
        """Parts of at most so many rows; texts stay as long as the batch's longest."""
        parts = []
        for at in range(0, len(self.targets), rows):
            cut = slice(at, at + rows)
            parts.append(TuningBatch(*(None if part is None else part[cut] for part in self)))  # type: ignore[arg-type]
        return parts


class Feed:
    """Makes rows and batches of a task's examples. Threads may share it.

    Args:
        task: whose examples come.
        tokenizer: of the model's vocabulary; None for images.
        max_length: of a text, or two joined, in tokens.
        image_size: S; 0 for texts.
        crop: the least share of its area that a training view of an image shows; 1 shows all of it, as measuring does.

    Raises:
        ValueError: for texts without a tokenizer.
    """

    def __init__(
        self, task: TuningTask, tokenizer: TextTokenizer | None, *, max_length: int, image_size: int, crop: float = 1.0
    ) -> None:
        if task.reads != "image" and tokenizer is None:
            raise ValueError(f"{task.name} has texts, which need a vocabulary; name a vocab.txt by --vocab")
        self.task, self.tokenizer, self.max_length = task, tokenizer, max_length
        self._pad = Collate(tokenizer.vocab_size, 0, pad_id=tokenizer.pad_id).pad if tokenizer is not None else None
        self._whole = WholeView(image_size) if task.reads != "text" else None
        self._cropped = (
            TrainViews(image_size, image_size, scale=(crop, 1.0)) if task.reads != "text" and crop < 1 else None
        )

    def row(self, example: Example, rng: np.random.Generator | None = None) -> TuningRow:
        """An example; with a generator as training sees it.

        Raises:
            ValueError: naming the example, if its image is missing or damaged or its text cannot be read.
        """
        try:
            pixels = None if example.image is None else self._view(read_image(example.image), rng)
            ids = None
            if example.text is not None and self.tokenizer is not None:
                ids = encode_joined(self.tokenizer, example.text, example.second, max_length=self.max_length)
        except ValueError as error:
            raise ValueError(f"{example.key}: {error}") from error
        return TuningRow(pixels, ids, example)

    def batch(self, rows: Sequence[TuningRow]) -> TuningBatch:
        """B rows, each with a target, or all without."""
        pixels = None if rows[0].pixels is None else torch.stack([row.pixels for row in rows if row.pixels is not None])
        ids = keep = None
        if self._pad is not None and rows[0].ids is not None:
            ids, keep = self._pad([row.ids for row in rows if row.ids is not None])
        return TuningBatch(pixels, ids, keep, self._targets([row.example for row in rows]))

    def loss(self, logits: Tensor, targets: Tensor) -> Loss:
        """(B, C) logits -> the task's loss."""
        return {"class": class_loss, "score": score_loss, "answers": answers_loss}[self.task.kind](logits, targets)

    def _view(self, image: Tensor, rng: np.random.Generator | None) -> Tensor:
        assert self._whole is not None, "a task of texts has no images"
        if self._cropped is None or rng is None:
            return self._whole(image)
        return self._cropped.view(self._cropped.crop(image, rng), rng)

    def _targets(self, examples: Sequence[Example]) -> Tensor:
        """Zeros where nobody says."""
        if self.task.kind != "answers":
            dtype = torch.float32 if self.task.kind == "score" else torch.int64
            return torch.tensor([one.target or 0 for one in examples], dtype=dtype)
        worth = torch.zeros(len(examples), len(self.task.classes))
        for row, one in zip(worth, examples, strict=True):
            for answer, value in one.target or ():  # type: ignore[union-attr]
                row[answer] = value
        return worth
