"""ImageNet-1K's images to shards: `python recipes/data/imagenet.py --train ILSVRC2012_img_train.tar --out OUT`.

Layout: the official tar, whose members `n01440764.tar` and so on are tars of `n01440764_10026.JPEG`, or the folder that it
unpacks to, `n01440764/n01440764_10026.JPEG`. The tar is read as it is: nothing is unpacked, and no disk space is needed.

Samples have no caption; `.json` has the class, as WordNet's number (`class`: n01440764). The paper uses the images alone.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from building import Card, Options, Rejected, Row, build, settle

_CLASS = re.compile(r"n\d{8}")
_REMEDY = "give --train ILSVRC2012_img_train.tar, or the folder that holds n01440764 and so on"
_MOST = 1 << 27  # bytes of an image


@dataclass(frozen=True)
class Config:
    """Turn ImageNet-1K's training images into shards."""

    train: Path
    """ILSVRC2012_img_train.tar, or the folder that it unpacks to."""
    out: Path = Path("data/imagenet")
    """Where the shards and card.json go."""
    build: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    """How the shards are written. A limit is spread over the classes."""


class Class(NamedTuple):
    """The images of a class."""

    name: str
    """WordNet's number."""
    start: int
    """In the tar, in bytes; -1 in a folder."""
    end: int
    """Likewise."""


class Slices:
    """The rows of each class, a slice each.

    Args:
        train: the tar or the folder.
        classes: in the order of their names.
        limit: of images in all.
    """

    def __init__(self, train: Path, classes: Sequence[Class], limit: int | None) -> None:
        self.train = train
        self.classes = classes
        self.limit = limit

    def __call__(self, part: int) -> Iterator[Row | Rejected]:
        """The rows of class `part`."""
        most = None
        if self.limit is not None:
            most = self.limit // len(self.classes) + (part < self.limit % len(self.classes))
        each = self.classes[part]
        yield from islice(self._from_folder(each) if each.start < 0 else self._from_tar(each), most)

    def _from_folder(self, each: Class) -> Iterator[Row | Rejected]:
        for path in sorted((self.train / each.name).iterdir()):
            yield _row(each, path.name, path)

    def _from_tar(self, each: Class) -> Iterator[Row | Rejected]:
        with open(self.train, "rb") as file:
            file.seek(each.start)
            try:
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for member in tar:
                        if member.offset_data + member.size > each.end:
                            raise tarfile.ReadError("it ends before its mark")
                        if member.isfile() and member.size > _MOST:
                            yield Rejected(member.name, "image too large")
                        elif member.isfile():
                            opened = tar.extractfile(member)
                            assert opened is not None  # a regular file
                            yield _row(each, member.name, opened.read())
            except tarfile.TarError:
                yield Rejected(f"{each.name}.tar", "damaged tar")


def _row(each: Class, name: str, image: Path | bytes) -> Row | Rejected:
    stem, _, ending = name.removeprefix("./").rpartition(".")
    if ending.lower() not in ("jpeg", "jpg") or not re.fullmatch(r"n\d{8}_\d+", stem):
        return Rejected(f"{each.name}/{name}", "not an image")
    return Row(stem, image, "", {"image": f"imagenet/{stem}", "class": each.name})


def classes_of(train: Path) -> list[Class]:
    """The classes, by name.

    Raises:
        ValueError: if there is neither tar nor folder, or it has none, or the tar is cut off.
    """
    if train.is_dir():
        found = [Class(path.name, -1, -1) for path in train.iterdir() if path.is_dir() and _CLASS.fullmatch(path.name)]
    elif train.is_file():
        found = list(_classes_in_tar(train))
    else:
        raise ValueError(f"there is no {train}; {_REMEDY}")
    if not found:
        raise ValueError(f"{train} holds no class such as n01440764; {_REMEDY}")
    return sorted(found)


def _classes_in_tar(train: Path) -> Iterator[Class]:
    try:
        with tarfile.open(train, "r:") as tar:
            for member in tar:
                if member.isfile() and _CLASS.fullmatch(member.name.removesuffix(".tar").removeprefix("./")):
                    end = member.offset_data + member.size
                    if end > train.stat().st_size:
                        raise tarfile.ReadError(f"{member.name} is cut off")
                    yield Class(member.name.removesuffix(".tar").removeprefix("./"), member.offset_data, end)
    except tarfile.TarError as error:
        raise ValueError(f"{train} cannot be read as a tar ({error}); fetch it again, or {_REMEDY}") from error


def main(config: Config) -> Card:
    """Build the shards; the card.

    Raises:
        ValueError: if there is nothing to read, or it is of another format.
    """
    classes, limit = classes_of(config.train), config.build.limit
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; 1 or more are due")
    settle(config.out, {"train": config.train, "limit": limit})
    classes = classes[:limit]
    return build(
        Slices(config.train, classes, limit),
        len(classes),
        config.out,
        name="imagenet",
        shard_size=config.build.shard_size,
        workers=config.build.workers,
        check_images=config.build.check_images,
        copies=config.build.copies,
    )


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
