"""What a source holds: images, texts, captioned images (paper §4.1: unimodal and paired data)."""

from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor


class ImageSample(NamedTuple):
    """An image without a caption."""

    image: Tensor | bytes
    """(3, H, W) uint8, or the bytes of an image file."""
    key: str
    """Names the sample in logs."""


class TextSample(NamedTuple):
    """A text without an image."""

    text: str
    key: str
    """Names the sample in logs."""


class PairSample(NamedTuple):
    """A captioned image."""

    image: Tensor | bytes
    """(3, H, W) uint8, or the bytes of an image file."""
    caption: str
    key: str
    """Names the sample in logs."""


SampleT = TypeVar("SampleT", bound=ImageSample | TextSample | PairSample, covariant=True)


class Source(Protocol[SampleT]):
    """Samples by index: pure (the same index, the same sample) and safe to read from several threads."""

    name: str
    """Enters the key of every sample's randomness."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, index: int) -> SampleT:
        """The sample at `index`, 0 <= index < len."""


class PairSource(Source[PairSample], Protocol):
    """Captioned images, whose captions can be had without decoding or drawing their images."""

    def caption(self, index: int) -> str:
        """The caption at `index`."""
