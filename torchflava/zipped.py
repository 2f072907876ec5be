"""The zips that torch.save writes, checked before anything in them is read: nothing compressed, nothing twice."""

import os
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from torchflava.pickled import UnreadableError

_STUMBLES = (ValueError, NotImplementedError, OverflowError, struct.error)
"""What else `zipfile` raises where a zip is damaged."""
_MOST_PICKLE = 64 * 2**20  # bytes; the pickle of a model only describes, 20 MB for a million tensors


def check_zip(path: Path) -> None:
    """Nothing, if it is as torch.save writes them.

    Raises:
        UnreadableError: as `entries_of`.
        zipfile.BadZipFile: if it is damaged.
    """
    with path.open("rb") as file:
        entries_of(file)


def names_in(path: Path) -> frozenset[str]:
    """The names of a zip's entries within its one folder; none where it is no zip or a damaged one, which its reader tells."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.partition("/")[2] for name in archive.namelist())
    except (zipfile.BadZipFile, *_STUMBLES):
        return frozenset()


def entries_of(file: BinaryIO) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The archive and its entries, by their names within its one folder.

    Raises:
        UnreadableError: for entries that would unpack to more than there is, or a pickle beyond all reason.
        zipfile.BadZipFile: if it is damaged.
    """
    archive = zipfile.ZipFile(file)
    entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise UnreadableError("it is compressed, as torch.save writes none")
    if sum(entry.file_size for entry in archive.infolist()) > os.fstat(file.fileno()).st_size:
        raise UnreadableError("its entries add up to more than there is")
    pickle = entries.get("data.pkl")
    if pickle is not None and pickle.file_size > _MOST_PICKLE:
        raise UnreadableError(f"its pickle is of {pickle.file_size} bytes, more than any model's")
    return archive, entries
