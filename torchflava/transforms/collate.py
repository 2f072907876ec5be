"""Rows into raw batches: labels as positions, texts trimmed to the longest, ids checked (paper §3.2).

Letters: B batch, N patches, T tokens, K rows asked for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchflava.batch import IGNORE, RawImageBatch, RawPairBatch, RawTextBatch

TEXT_BUCKET = 4
"""The number of asked-for tokens is rounded up to a multiple of this, so that few shapes occur."""


class ImageRow(NamedTuple):
    """An image, ready to be stacked."""

    pixels: Tensor
    """(3, S, S) uint8."""
    target: Tensor
    """(3, s, s) uint8 for the codebook, or (N,) int64 codes."""
    masked: NDArray[np.bool_]
    """(N,) or (rows, columns): True where hidden."""


class TextRow(NamedTuple):
    """A masked text, ready to be padded."""

    masked_ids: Sequence[int]
    positions: Sequence[int]
    """Of the tokens to predict."""
    labels: Sequence[int]
    """Their true ids."""


class PairRow(NamedTuple):
    """A captioned image, ready to be stacked."""

    image: ImageRow
    ids: Sequence[int]
    """The clean caption."""
    text: TextRow
    """The masked text: the caption's, or another image's."""
    matched: bool
    """Whether the masked text is the image's own."""


class Collate:
    """Stacks rows of one kind.

    Args:
        vocab_size: ids at or above it are an error.
        num_masked: K for patches: the most that a mask may hide (75 of 196 in the paper).
        pad_id: fills texts up to the batch's longest.
    """

    def __init__(self, vocab_size: int, num_masked: int, *, pad_id: int = 0) -> None:
        self.vocab_size = vocab_size
        self.num_masked = num_masked
        self.pad_id = pad_id

    def images(self, rows: Sequence[ImageRow]) -> RawImageBatch:
        """B rows -> a batch.

        Raises:
            ValueError: for no rows, or a mask that hides more than `num_masked` patches.
        """
        _not_empty(rows)
        for name, shapes in (
            ("pixels", {(tuple(row.pixels.shape), row.pixels.dtype) for row in rows}),
            ("targets", {(tuple(row.target.shape), row.target.dtype) for row in rows}),
            ("masks", {row.masked.size for row in rows}),
        ):
            if len(shapes) > 1:
                raise ValueError(
                    f"{name} of one batch differ: {sorted(map(str, shapes))}; make all rows by one transform"
                )
        if rows[0].pixels.dtype != torch.uint8:
            raise ValueError(f"pixels are {rows[0].pixels.dtype}; uint8 is due, they are normalised on the device")
        masked = torch.from_numpy(np.stack([row.masked.reshape(-1) for row in rows]))
        most = int(masked.sum(1).max())
        if most > self.num_masked:
            raise ValueError(f"a mask hides {most} patches, num_masked is {self.num_masked}; mask fewer or raise it")
        return RawImageBatch(
            pixels=torch.stack([row.pixels for row in rows]),
            targets=torch.stack([row.target for row in rows]),
            masked=masked,
            positions=_positions(masked, self.num_masked),
        )

    def texts(self, rows: Sequence[TextRow]) -> RawTextBatch:
        """B rows -> a batch."""
        _not_empty(rows)
        for row in rows:
            if len(row.positions) != len(row.labels) or any(not 0 <= p < len(row.masked_ids) for p in row.positions):
                raise ValueError(
                    f"positions {list(row.positions)} with {len(row.labels)} labels do not fit a text of "
                    f"{len(row.masked_ids)} tokens; give each position within the text one label"
                )
        masked_ids, keep = self.pad([row.masked_ids for row in rows])
        most = -(-max(1, *(len(row.positions) for row in rows)) // TEXT_BUCKET) * TEXT_BUCKET
        return RawTextBatch(
            masked_ids=masked_ids,
            keep=keep,
            positions=_padded([row.positions for row in rows], most, 0),
            labels=self.checked(_padded([row.labels for row in rows], most, IGNORE)),
        )

    def pairs(self, rows: Sequence[PairRow]) -> RawPairBatch:
        """B rows -> a batch."""
        image, text = self.images([row.image for row in rows]), self.texts([row.text for row in rows])
        ids, keep = self.pad([row.ids for row in rows])
        return RawPairBatch(
            pixels=image.pixels,
            targets=image.targets,
            masked=image.masked,
            patch_positions=image.positions,
            ids=ids,
            keep=keep,
            masked_ids=text.masked_ids,
            masked_keep=text.keep,
            token_positions=text.positions,
            token_labels=text.labels,
            matched=torch.tensor([row.matched for row in rows]),
            contrast=torch.ones(len(rows), dtype=torch.bool),
        )

    def pad(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """B lists of ids -> (B, T) int64 and (B, T) bool, True for a token; T is the longest text's length.

        Raises:
            ValueError: for an empty text, and for an id beyond the vocabulary.
        """
        lengths = [len(ids) for ids in texts]
        if not lengths or min(lengths) == 0:
            raise ValueError("a text without tokens; [CLS] and [SEP] are the least, tokenise with them")
        ids = self.checked(_padded(texts, max(lengths), self.pad_id), ignore=False)
        return ids, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]

    def checked(self, ids: Tensor, *, ignore: bool = True) -> Tensor:
        """The same ids; `IGNORE` passes among labels only.

        Raises:
            ValueError: for an id beyond the vocabulary.
        """
        wrong = ids[(ids >= self.vocab_size) | ((ids < 0) & ~((ids == IGNORE) & ignore))]
        if len(wrong):
            raise ValueError(
                f"id {int(wrong[0])} is beyond the vocabulary of {self.vocab_size}; "
                "tokenise with the vocabulary that the model is built for"
            )
        return ids


def _not_empty(rows: Sequence[object]) -> None:
    if not rows:
        raise ValueError("a batch of no rows; give at least one sample")


def _padded(lists: Sequence[Sequence[int]], length: int, fill: int) -> Tensor:
    out = np.full((len(lists), length), fill, dtype=np.int64)  # a row of a tensor takes a list five times as slowly
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)


def _positions(masked: Tensor, most: int) -> Tensor:
    """(B, N) bool -> (B, most) int64: the masked positions, ascending, padded with -1."""
    first = torch.where(masked, torch.arange(masked.shape[1]), masked.shape[1]).sort(dim=1).values[:, :most]
    first = torch.where(first == masked.shape[1], -1, first)
    return torch.nn.functional.pad(first, (0, most - first.shape[1]), value=-1)
