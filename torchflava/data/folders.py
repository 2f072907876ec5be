"""Images in a folder, with or without captions: in a table, in JSON, or in a text file beside each image.

A file is read only if it lies inside the folder, links followed. Every sample is found by its position, so that a run
resumes exactly.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torchflava.data.caption_files import open_captions
from torchflava.data.caption_rows import Captions, Packed, Rejected
from torchflava.data.samples import ImageSample, PairSample
from torchflava.data.sorting import IMAGE_ENDINGS
from torchflava.transforms.image import CorruptSample

log = logging.getLogger(__name__)

LOOKED_FOR = 10_000
"""So many images of captions are looked for when a folder is opened, which takes less than a second on a local disk."""
_LARGEST = 1 << 28  # bytes of a file


class FolderPairs:
    """Captioned images in a folder; `rejected` counts the captions left out, by reason.

    A caption is left out if it is empty or not UTF-8, its row is malformed, its image lies outside the folder, or (of the
    first `LOOKED_FOR`) the image is missing. A later image that is missing is a `CorruptSample` when it is read. Several
    captions of an image are as many samples.

    Args:
        folder: where the images are, at any depth.
        captions: a file: .csv, .tsv, .jsonl, a .json list of objects (a caption may be a list) or COCO's captions .json;
            without one, a .txt beside each image, and images that have none are left out.
        name: enters the key of every sample's randomness.
        image: the column of the image's path, relative to the folder; found among the usual names unless given.
        caption: the column of the caption; likewise.

    Raises:
        ValueError: if folder or captions cannot be read, a column is not there, or no sample is left.
    """

    resume: Literal["exact"] = "exact"
    """The same index, the same sample: a run goes on exactly where it stopped."""

    def __init__(
        self,
        folder: str | Path,
        captions: str | Path | None = None,
        name: str = "pairs",
        *,
        image: str | None = None,
        caption: str | None = None,
    ) -> None:
        self.name = name
        self._folder = _Folder(folder)
        if captions is None and (image or caption):
            raise ValueError(f"image={image!r} and caption={caption!r} name columns of a captions file; give captions=")
        self._captions: Captions = (
            _TextsBeside(self._folder)
            if captions is None
            else open_captions(Path(captions), image, caption, refuse=_Refusal(self._folder))
        )
        self.rejected = self._captions.rejected.counts
        told = f"{name}: of the captions in {captions or folder} are left out: {str(self._captions.rejected) or 'none'}"
        if not len(self._captions) or self.rejected.get("missing") == LOOKED_FOR:
            raise ValueError(f"{told}; there are no captions of images that could be used")
        if self.rejected:
            log.warning("%s", told)

    def __len__(self) -> int:
        return len(self._captions)

    def __getitem__(self, index: int) -> PairSample:
        """The sample at `index`: the image file's bytes and its caption, stripped.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the image is missing, too large, no regular file, or leads out of the folder.
        """
        image, caption = self._at(index)
        return PairSample(self._folder.read(image), caption, f"{shown(image)}#{index}")

    def caption(self, index: int) -> str:
        """The caption at `index`, without reading its image.

        Raises:
            CorruptSample: if it stands in a text file of its own that is missing, empty or not UTF-8.
        """
        return self._at(index)[1]

    def _at(self, index: int) -> tuple[str, str]:
        check_index(index, len(self), self.name)
        return self._captions[index]


class FolderImages:
    """All images in a folder and the folders below it, in the order of their names; hidden files are passed over.

    Args:
        folder: where they are; links to files inside it are followed, links to folders are not.
        name: enters the key of every sample's randomness.

    Raises:
        ValueError: if the folder cannot be read or has no image.
    """

    resume: Literal["exact"] = "exact"
    """The same index, the same sample: a run goes on exactly where it stopped."""

    def __init__(self, folder: str | Path, name: str = "images") -> None:
        self.name = name
        self._folder = _Folder(folder)
        self._images = Packed(_images(self._folder))
        if not len(self._images):
            raise ValueError(f"{name}: folder {folder} has no image ({', '.join(IMAGE_ENDINGS)})")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageSample:
        """The sample at `index`: the image file's bytes.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the file can no longer be read.
        """
        check_index(index, len(self), self.name)
        image = os.fsdecode(self._images[index])
        return ImageSample(self._folder.read(image), shown(image))


def check_index(index: int, n: int, name: str) -> None:
    """Raises IndexError unless 0 <= index < n."""
    if not 0 <= index < n:
        raise IndexError(f"{name}: index {index} lies outside [0, {n})")


def shown(path: str) -> str:
    """A path fit for a log: bytes that are not UTF-8 are spelled out."""
    return path.encode(errors="backslashreplace").decode()


def read_file(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        CorruptSample: if there is no such regular file, it cannot be read, or it has more than 256 MiB.
    """
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            raise CorruptSample(f"{shown(path)} is missing or is no regular file")
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise CorruptSample(f"{shown(path)} cannot be read ({error.strerror})") from error
    if len(data) > _LARGEST:
        raise CorruptSample(f"{shown(path)} has more than {_LARGEST} bytes")
    return data


class _Folder:
    """The files of a folder, and of no other."""

    def __init__(self, folder: str | Path) -> None:
        if not os.path.isdir(folder):
            raise ValueError(f"there is no folder {folder}; give the one that the images are in")
        self._root = os.path.realpath(folder)
        self._given = os.path.abspath(folder)

    def names(self, path: str) -> str | None:
        """The path of a file in the folder that `path`, relative to the folder or absolute, names; links not looked at."""
        try:
            os.fsencode(path)
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        full = os.path.normpath(os.path.join(self._given, path))
        return full if "\0" not in full and _is_inside(full, self._given) else None

    def real(self, path: str) -> str | None:
        """As `names`, links followed: None where they lead out."""
        full = self.names(path)
        real = None if full is None else os.path.realpath(full)
        return real if real is not None and _is_inside(real, self._root) else None

    def read(self, path: str) -> bytes:
        """The bytes of a file in the folder; CorruptSample if there are none."""
        real = self.real(path)
        if real is None:
            raise CorruptSample(f"{shown(path)} leads out of the folder {self._given}")
        return read_file(real)

    def walk(self, below: str = "") -> Iterator[tuple[str, list[str]]]:
        """The folders by their relative paths, each with the sorted names of the files in it."""
        try:
            with os.scandir(os.path.join(self._root, below)) as entries:
                found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"folder {os.path.join(self._given, below)} cannot be read ({error})") from error
        yield below, [e.name for e in found if e.is_file() and (not e.is_symlink() or self._is_ours(below, e.name))]
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from self.walk(os.path.join(below, entry.name))

    def _is_ours(self, below: str, name: str) -> bool:
        return self.real(os.path.join(below, name)) is not None


def _images(folder: _Folder) -> Iterator[bytes]:
    for below, names in folder.walk():
        yield from (os.fsencode(os.path.join(below, name)) for name in names if _is_image(name))


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder if folder.endswith(os.sep) else folder + os.sep)


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_ENDINGS and "." in name


class _Refusal:
    """Why a caption of an image is left out, or None; the first images are looked for."""

    def __init__(self, folder: _Folder) -> None:
        self._folder = folder
        self._left = LOOKED_FOR

    def __call__(self, image: str, caption: str) -> str | None:
        if self._folder.names(image) is None:
            return "outside the folder"
        self._left -= 1
        if self._left < 0:
            return None
        real = self._folder.real(image)
        if real is None:
            return "outside the folder"
        return None if os.path.isfile(real) else "missing"


class _TextsBeside:
    """The .txt beside each image; the first `LOOKED_FOR` are read when the folder is opened, the others when asked for."""

    def __init__(self, folder: _Folder) -> None:
        self._folder = folder
        self.rejected = Rejected()
        self._images = Packed(self._captioned())

    def _captioned(self) -> Iterator[bytes]:
        num_read = 0
        for below, names in self._folder.walk():
            there = set(names)
            for name in filter(_is_image, names):
                image = os.path.join(below, name)
                num_read += (beside := _text_of(name) in there)
                why = (self._why(image) if num_read <= LOOKED_FOR else None) if beside else "no caption"
                if why:
                    self.rejected.add(why, shown(image))
                else:
                    yield os.fsencode(image)

    def _why(self, image: str) -> str | None:
        try:
            return None if self._text(image) else "empty caption"
        except UnicodeDecodeError:
            return "not UTF-8"
        except CorruptSample:
            return "unreadable caption"

    def _text(self, image: str) -> str:
        return self._folder.read(_text_of(image)).decode("utf-8-sig").strip()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[str, str]:
        image = os.fsdecode(self._images[index])
        try:
            text = self._text(image)
        except UnicodeDecodeError as error:
            raise CorruptSample(f"{shown(_text_of(image))} is not UTF-8 ({error})") from error
        if not text:
            raise CorruptSample(f"{shown(_text_of(image))} is empty")
        return image, text


def _text_of(image: str) -> str:
    return os.path.splitext(image)[0] + ".txt"
