"""torchvision's datasets as sources of images, with their labels, and of captioned images (torchvision 0.29, `VisionDataset`).

torchvision opens its files itself: CIFAR's are unpickled by it, after their checksums were compared.
"""

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from torchflava.data.folders import check_index
from torchflava.data.samples import ImageSample, PairSample
from torchflava.transforms.image import MAX_PIXELS, CorruptSample, from_pillow


class _Torchvision:
    """A dataset behind a lock, because not all of torchvision's can be read from several threads.

    FakeData, for one, sets the global generator and puts it back; LSUN and PCAM share a file. Pillow's decoding would hardly
    gain from threads: `FolderImages` does, where the images are files in a folder.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise ValueError(f"{name}: a {type(dataset).__name__} has no length or no positions")
        transform = getattr(dataset, "transform", None)
        joint = getattr(dataset, "transforms", None) if getattr(dataset, "target_transform", None) is None else None
        if (used := transform or joint) is not None:
            raise ValueError(
                f"{name}: the dataset has the transform {used!r}; make it without one: the rows crop by key"
            )
        if not len(dataset):
            raise ValueError(f"{name}: the dataset is empty")
        self.dataset, self.name = dataset, name
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def _read(self, index: int) -> tuple[Any, ...]:
        try:
            with self._lock:
                return tuple(self.dataset[index])
        except Exception as error:  # readers and decoders raise whatever they like
            raise CorruptSample(f"{self.name}/{index} cannot be read ({type(error).__name__}: {error})") from error

    def _image(self, index: int) -> Tensor | bytes:
        return _pixels(self._read(index)[0], f"{self.name}/{index}")


class TorchvisionImages(_Torchvision):
    """The images of a torchvision dataset such as CIFAR10, Food101 or ImageFolder; the class of each by `label`.

    Args:
        dataset: returns (image, target), the image from Pillow, as (C, H, W) uint8 with 1 or 3 channels, or as a file's
            bytes; it has no transform.
        name: enters the key of every sample's randomness.

    Raises:
        ValueError: if it has a transform or no sample.
    """

    resume: Literal["exact"] = "exact"
    """The same index, the same sample: a run goes on exactly where it stopped."""

    def __init__(self, dataset: Any, name: str = "images") -> None:
        super().__init__(dataset, name)
        plain = getattr(dataset, "target_transform", None) is None
        self._labels = next((found for field in ("targets", "labels") if (found := _labels(dataset, field))), None)
        self._labels = self._labels if plain else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> ImageSample:
        """The sample at `index`: (3, H, W) uint8, or the bytes that the dataset returns.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the dataset cannot read or decode it.
            ValueError: if it is of another kind, such as floating-point numbers.
        """
        check_index(index, len(self), self.name)
        return ImageSample(self._image(index), f"{self.name}/{index}")

    def label(self, index: int) -> int:
        """The class at `index`; without reading the image, where the dataset lists its `targets` or `labels`.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the sample has to be read, and cannot be.
            ValueError: if the target is no number of a class.
        """
        check_index(index, len(self), self.name)
        found = self._read(index)[1] if self._labels is None else self._labels[index]
        label = _whole(found)
        if label is None:
            raise ValueError(f"{self.name}/{index}: the target {found!r} is no number of a class")
        return label


class TorchvisionPairs(_Torchvision):
    """Captioned images: every caption makes a sample; `num_rejected` counts blank ones, which are left out.

    CocoCaptions, Flickr8k, Flickr30k and SBU tell their captions without reading an image. CocoCaptions needs pycocotools;
    `FolderPairs` reads the same files without it.

    Args:
        dataset: returns (image, captions), the image as for `TorchvisionImages`.
        name: enters the key of every sample's randomness.
        captions: those of each image, in the dataset's order; the dataset's own unless given.

    Raises:
        ValueError: if the dataset has a transform or does not tell its captions, or no caption is left.
    """

    resume: Literal["exact"] = "exact"
    """The same index, the same sample: a run goes on exactly where it stopped."""

    def __init__(
        self, dataset: Any, name: str = "pairs", *, captions: Sequence[str | Sequence[str]] | None = None
    ) -> None:
        super().__init__(dataset, name)
        found = _captions(dataset, name) if captions is None else captions
        if len(found) != len(dataset):
            raise ValueError(f"{name}: captions of {len(found)} images for {len(dataset)} images")
        listed = [[one] if isinstance(one, str) else one for one in found]
        self._told = [(at, text.strip()) for at, texts in enumerate(listed) for text in texts if text.strip()]
        self.num_rejected = sum(map(len, listed)) - len(self._told)
        if not self._told:
            raise ValueError(f"{name}: none of the dataset's {len(dataset)} images has a caption")

    def __len__(self) -> int:
        return len(self._told)

    def __getitem__(self, index: int) -> PairSample:
        """The sample at `index`: (3, H, W) uint8 (or the bytes that the dataset returns) and one of the image's captions.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the dataset cannot read or decode it.
            ValueError: if the image is of another kind, such as floating-point numbers.
        """
        check_index(index, len(self), self.name)
        at, caption = self._told[index]
        return PairSample(self._image(at), caption, f"{self.name}/{at}#{index}")

    def caption(self, index: int) -> str:
        """The caption at `index`, without reading its image."""
        check_index(index, len(self), self.name)
        return self._told[index][1]


def _pixels(image: Any, key: str) -> Tensor | bytes:
    """What a dataset returns -> (3, H, W) uint8, or bytes."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        if image.width * image.height > MAX_PIXELS:
            raise CorruptSample(f"{key}: {image.width} x {image.height} pixels are more than {MAX_PIXELS}")
        try:
            return from_pillow(image)
        except Exception as error:  # a file that was opened lazily is decoded here
            raise CorruptSample(f"{key} cannot be decoded ({type(error).__name__}: {error})") from error
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] in (1, 3):
        return image.as_subclass(Tensor).expand(3, -1, -1).contiguous()
    kind = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise ValueError(f"{key} is {kind}; Pillow's images, uint8 with 1 or 3 channels, or a file's bytes are due")


def _labels(dataset: Any, field: str) -> Any:
    """The labels that the dataset lists, if they are one number a sample."""
    found = getattr(dataset, field, None)
    if not isinstance(found, list | tuple | np.ndarray | Tensor) or len(found) != len(dataset):
        return None
    numbers = [_whole(one) for one in found]
    return None if None in numbers else numbers


def _whole(value: Any) -> int | None:
    """The whole number that a label is."""
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point():
        return int(value)
    return int(value) if isinstance(value, int | np.integer) else None


def _captions(dataset: Any, name: str) -> Sequence[str | Sequence[str]]:
    """What the dataset tells of its captions without reading an image."""
    ids, listed = getattr(dataset, "ids", None), getattr(dataset, "annotations", None)
    if ids is not None and hasattr(dataset, "coco"):  # CocoCaptions
        return [[told["caption"] for told in dataset.coco.loadAnns(dataset.coco.getAnnIds(one))] for one in ids]
    if ids is not None and isinstance(listed, Mapping):  # Flickr8k, Flickr30k
        return [listed[one] for one in ids]
    if isinstance(captions := getattr(dataset, "captions", None), list):  # SBU
        return captions
    raise ValueError(
        f"{name}: a {type(dataset).__name__} does not tell its captions; give those of each image as captions="
    )
