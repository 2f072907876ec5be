"""From a sample to the row of a batch: crop, masks, ids and, for a tenth of the pairs, another image's text (paper §3.2)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from torchflava.data.samples import ImageSample, PairSource, Source, TextSample
from torchflava.transforms.collate import ImageRow, PairRow, TextRow
from torchflava.transforms.image import decoded

Rng = np.random.Generator
Views = Callable[[Tensor, Rng], tuple[Tensor, Tensor]]
"""(3, H, W) uint8 -> the encoder's and the codebook's view of one crop, both uint8."""
Vary = Callable[[str, Rng], str]
"""A caption -> one way to tell it."""
PatchMask = Callable[[Rng], NDArray[np.bool_]]
"""-> (rows, columns) bool, True where hidden."""


class Tokens(Protocol):
    """A tokenised text."""

    ids: list[int]
    word_ids: list[int | None]


class Tokenizer(Protocol):
    """What a text row asks of a tokenizer."""

    def encode(self, text: str, max_length: int) -> Tokens:
        """Ids with [CLS] and [SEP], at most `max_length`."""


TokenMask = Callable[[Tokens, Rng], tuple[Sequence[int], Sequence[int]]]
"""Tokens -> the masked ids and the positions to predict."""


class ImageRows:
    """Rows for masked image modelling."""

    def __init__(self, views: Views, mask: PatchMask) -> None:
        self.views = views
        self.mask = mask

    def __call__(self, source: Source[ImageSample], index: int, rng: Rng) -> ImageRow:
        """The row of sample `index`.

        Raises:
            CorruptSample: if the image cannot be decoded.
        """
        return self.of(source, index, source[index].image, rng=rng)

    def of(self, source: Source[Any], index: int, image: Tensor | bytes, *, rng: Rng) -> ImageRow:
        """The row of an image, which is sample `index` of `source`."""
        pixels, target = self.views(decoded(image), rng)
        return ImageRow(pixels, target, self.mask(rng))


class ImagePart(Protocol):
    """What makes the image's part of a row: `ImageRows`, or `CodedRows` where codes are read from a cache."""

    def of(self, source: Any, index: int, image: Tensor | bytes, *, rng: Rng) -> ImageRow:
        """The row of an image, which is sample `index` of `source`."""


class TextRows:
    """Rows for masked language modelling."""

    def __init__(self, tokenizer: Tokenizer, mask: TokenMask, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.mask = mask
        self.max_length = max_length

    def __call__(self, source: Source[TextSample], index: int, rng: Rng) -> TextRow:
        """The row of sample `index`."""
        return self.of(source[index].text, rng)

    def of(self, text: str, rng: Rng) -> TextRow:
        """The row of a text."""
        return self.masked(self.tokenizer.encode(text, self.max_length), rng)

    def masked(self, tokens: Tokens, rng: Rng) -> TextRow:
        """The row of a tokenised text."""
        masked_ids, positions = self.mask(tokens, rng)
        return TextRow(masked_ids, positions, [tokens.ids[at] for at in positions])


class PairRows:
    """Rows of captioned images. For a share of them the masked text is another caption of the source, never an equal one.

    Args:
        images: makes the image's part.
        texts: makes the text's part.
        mismatch_rate: the share of rows whose masked text is another's (0.1 in facebookresearch/multimodal@3c2a85a).
        vary: how a caption is told this time, such as its name with some of its keywords; as it stands, unless given.
        other: (source, index, rng) -> where another caption is looked for; `same_shard` where shards are fetched.
    """

    def __init__(
        self,
        images: ImagePart,
        texts: TextRows,
        mismatch_rate: float = 0.1,
        *,
        vary: Vary | None = None,
        other: Callable[[Any, int, Rng], int] | None = None,
    ) -> None:
        if not 0 <= mismatch_rate < 1:
            raise ValueError(f"mismatch_rate {mismatch_rate} must be at least 0 and below 1")
        self.images = images
        self.texts = texts
        self.mismatch_rate = mismatch_rate
        self.vary = vary
        self.other = anywhere if other is None else other

    def __call__(self, source: PairSource, index: int, rng: Rng) -> PairRow:
        """The row of sample `index`."""
        sample = source[index]
        other = self._other(source, index, sample.caption, rng=rng) if rng.random() < self.mismatch_rate else None
        told = sample.caption if self.vary is None else self.vary(sample.caption, rng)
        tokens = self.texts.tokenizer.encode(told, self.texts.max_length)
        image = self.images.of(source, index, sample.image, rng=rng)
        text = self.texts.masked(tokens, rng) if other is None else self.texts.of(other, rng)
        return PairRow(image, tokens.ids, text, matched=other is None)

    def _other(self, source: PairSource, index: int, caption: str, *, rng: Rng) -> str | None:
        for turn in range(8):
            # A shard may hold one sample, or equal captions; the whole source is asked then, though it costs a fetch.
            look = self.other if turn < 4 else anywhere
            other = source.caption(look(source, index, rng))
            if other.strip().lower() != caption.strip().lower():
                return other if self.vary is None else self.vary(other, rng)
        return None


def anywhere(source: PairSource, index: int, rng: Rng) -> int:
    """A sample of the whole source."""
    return int(rng.integers(len(source)))


def same_shard(source: Any, index: int, rng: Rng) -> int:
    """A sample of the shard in which sample `index` lies, which is at hand where shards are fetched; else as `anywhere`."""
    if not hasattr(source, "starts"):
        return anywhere(source, index, rng)
    shard = int(np.searchsorted(source.starts, index, side="right")) - 1
    return int(rng.integers(source.starts[shard], source.starts[shard + 1]))
