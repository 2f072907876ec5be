"""Labelled images, wherever they lie, and splits of them by a key that only the sample decides.

Letters: N images, H, W height and width.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from torchflava.transforms.image import CorruptSample, decode_image

Numbers = Sequence[int] | Tensor
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""Of files that are images, in folders of classes."""


class LabelledImages:
    """A split of a task: `images[i]` is (3, H, W) uint8 with its class; nothing is decoded before it is asked for.

    Args:
        images: N files, or pixels (H, W) or (3, H, W) uint8; grey becomes three equal channels.
        labels: N numbers of classes, from 0.
        classes: what each class is called, by number.
        keys: N names that tell the samples apart, wherever the data lie.

    Raises:
        ValueError: if these do not go together.
    """

    def __init__(
        self,
        images: Sequence[Path | Tensor] | Tensor,
        labels: Numbers,
        classes: Sequence[str],
        *,
        keys: Sequence[str],
    ) -> None:
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.classes = tuple(classes)
        self.keys = list(keys)
        self._images = images
        if not len(images) == len(self.labels) == len(self.keys):
            raise ValueError(
                f"{len(images)} images, {len(self.labels)} labels and {len(self.keys)} keys; give one of each"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"labels reach from {int(self.labels.min())} to {int(self.labels.max())} and there are {len(self.classes)} "
                "classes; number them from 0"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image, (3, H, W) uint8, and its class.

        Raises:
            ValueError: if its file is missing or damaged.
        """
        return self.image(index), int(self.labels[index])

    def image(self, index: int) -> Tensor:
        """The image alone, (3, H, W) uint8.

        Raises:
            ValueError: if its file is missing or damaged.
        """
        image = self._images[index]
        return read_image(image) if isinstance(image, Path) else _rgb(image)

    def take(self, positions: Iterable[int]) -> "LabelledImages":
        """Those at `positions`, in that order."""
        at = list(positions)
        images = _Taken(self._images, at)
        return LabelledImages(images, self.labels[at], self.classes, keys=[self.keys[i] for i in at])

    def fingerprint(self) -> str:
        """A number of the keys, the labels and the classes: equal for equal splits."""
        told = sha256(repr(self.classes).encode())
        told.update("\n".join(self.keys).encode())
        told.update(self.labels.numpy().tobytes())
        return told.hexdigest()


class _Taken(Sequence[Path | Tensor]):
    """Some of the images, still undecoded."""

    def __init__(self, images: Sequence[Path | Tensor] | Tensor, positions: Sequence[int]) -> None:
        self._images, self._positions = images, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's, of which slices are never asked
        return self._images[self._positions[index]]


def read_image(path: Path) -> Tensor:
    """A file -> (3, H, W) uint8, upright.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        return decode_image(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}); unpack the archive again") from error
    except CorruptSample as error:
        raise ValueError(f"{path} is damaged; unpack the archive again: {error}") from error


def _rgb(pixels: Tensor) -> Tensor:
    return pixels.expand(3, *pixels.shape).contiguous() if pixels.ndim == 2 else pixels


def numbered(split: str, num: int) -> list[str]:
    """Keys of a split's samples that have no names of their own."""
    return [f"{split}/{at}" for at in range(num)]


def of_files(root: Path, files: Sequence[tuple[Path, int]], classes: Sequence[str]) -> LabelledImages:
    """Files below `root` with their classes; their keys are the paths from there."""
    paths = [path for path, _ in files]
    return LabelledImages(
        paths, [label for _, label in files], classes, keys=[path.relative_to(root).as_posix() for path in paths]
    )


def folder_of_classes(folder: Path, endings: Sequence[str] = ENDINGS) -> LabelledImages:
    """A folder for each class, numbered by the names in order; images lie in it at any depth. What begins with a dot is hidden.

    Raises:
        ValueError: if there is no folder of a class, or no image.
    """
    there = folder.iterdir() if folder.is_dir() else ()
    names = sorted(path.name for path in there if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} holds no folder for each class; give one that does")
    found = [
        (path, number)
        for number, name in enumerate(names)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in endings and not path.name.startswith(".")
    ]
    if not found:
        raise ValueError(f"the folders in {folder} hold no image ({', '.join(endings)}); give one whose do")
    return of_files(folder, found, names)


def in_key_order(images: LabelledImages, name: str) -> list[int]:
    """Positions in an order that is random, and the same wherever the data lie: by a hash of `name` and the sample's key."""
    digests = [sha256(f"{name}/{key}".encode()).digest() for key in images.keys]
    return sorted(range(len(images)), key=digests.__getitem__)


def of_each_class(images: LabelledImages, name: str) -> list[list[int]]:
    """Positions of each class that occurs, in the order by key."""
    found: dict[int, list[int]] = {}
    labels = images.labels.tolist()
    for at in in_key_order(images, name):
        found.setdefault(labels[at], []).append(at)
    return list(found.values())


def hold_out(images: LabelledImages, name: str) -> tuple[LabelledImages, LabelledImages]:
    """What is left, and a fifth of each class held out to choose λ on; one of each class at least is left.

    CLIP's appendix A.3 holds out a part of the training data where no validation split is given, and does not say which.
    """
    held = {at for order in of_each_class(images, name) for at in order[: _num_held(len(order))]}
    return images.take(at for at in range(len(images)) if at not in held), images.take(sorted(held))


def hold_out_groups(images: LabelledImages, name: str) -> tuple[LabelledImages, LabelledImages]:
    """As `hold_out`, of whole groups: a key without its last part, such as `_00012` or `_c03`, names the sample's group."""
    members: dict[str, list[int]] = {}
    for at, key in enumerate(images.keys):
        members.setdefault(key.rpartition("_")[0], []).append(at)
    firsts = LabelledImages(
        [Path(group) for group in members],
        [int(images.labels[group[0]]) for group in members.values()],
        images.classes,
        keys=list(members),
    )
    left, held = hold_out(firsts, name)
    return tuple(images.take(sorted(at for group in part.keys for at in members[group])) for part in (left, held))  # type: ignore[return-value]


def _num_held(num: int) -> int:
    return min(max(1, round(num / 5)), num - 1)
