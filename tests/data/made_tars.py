"""Tars for tests, written by the standard library."""

import io
import tarfile
from pathlib import Path

Parts = list[tuple[str, bytes]]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type = len(data), kind
    tar.addfile(member, io.BytesIO(data))


def make_tar(path: Path, members: Parts, tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            add(tar, name, data)
    return path


def pairs(*keys: str) -> Parts:
    return [(f"{key}.{ending}", f"{key} {ending}".encode()) for key in keys for ending in ("jpg", "txt", "json")]
