"""Building shards: reading foreign archives without unpacking them, writing tars in webdataset's layout, whole or not at all."""

import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeAlias

Sample: TypeAlias = tuple[str, Mapping[str, bytes]]
"""A sample's key, without dots, and its members' bytes by ending."""


def read_members(path: str | Path, wanted: str, *, limit: int = 1 << 26) -> Iterator[tuple[str, bytes]]:
    """The regular files in a tar whose whole name matches `wanted`: (what its first group matched, the bytes).

    Nothing is unpacked: links, devices and names that lead out of the archive are passed over.

    Args:
        path: of the tar, compressed or not.
        wanted: a regular expression with a group.
        limit: the bytes that one file may have.

    Raises:
        ValueError: if a file has more than `limit` bytes, or the archive is damaged.
    """
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                match = re.fullmatch(wanted, member.name)
                if match is None or not member.isfile():
                    continue
                if member.size > limit:
                    raise ValueError(f"{path}: {member.name!r} has {member.size} bytes; at most {limit} are allowed")
                yield match[1], _read(tar, member)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a tar ({error}); fetch it again") from error


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a regular file
    return file.read()


def write_whole(path: Path, write: Callable[[IO[bytes]], None]) -> bool:
    """Write a file that has its name only once it is whole; False, and nothing done, if it is there already."""
    if path.exists():
        return False
    aside = path.with_name(f".{path.name}.part")
    with open(aside, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    return True


def write_shards(samples: Sequence[Sample], prefix: Path, size: int) -> list[Path]:
    """Write `PREFIX-00000.tar` and so on, `size` samples in each, leaving those that are there; their paths.

    Raises:
        ValueError: if `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"a shard of {size} samples cannot be written; 1 or more are due")
    paths = []
    for number, start in enumerate(range(0, len(samples), size)):
        paths.append(prefix.with_name(f"{prefix.name}-{number:05}.tar"))
        part = samples[start : start + size]
        write_whole(paths[-1], lambda file, part=part: write_tar(file, part))  # type: ignore[misc]
    return paths


def write_tar(file: IO[bytes], samples: Iterable[Sample], *, copies: bool = True) -> None:
    """Write samples as members `KEY.ENDING`; the same samples give the same bytes.

    Args:
        file: where to.
        samples: their members.
        copies: write every member's bytes; else a large one that equals the one before it, as the image of several captions
            does, becomes a hard link to it, which other readers of such shards than this project's may pass over.

    Raises:
        ValueError: for a key with a dot: what follows it would be taken for an ending.
    """
    last: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, parts in samples:
            if "." in key:
                raise ValueError(f"the key {key!r} has a dot, which ends a key in a shard; replace it")
            for ending, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                name, before = last.get(ending, ("", b""))
                if not copies and len(data) > tarfile.BLOCKSIZE and data == before:
                    member.type, member.linkname = tarfile.LNKTYPE, name
                    tar.addfile(member)
                    continue
                last[ending] = member.name, data
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
