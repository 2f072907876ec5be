"""Rows of the files that tasks come in, tab-separated, JSON, parquet or arrow; each with its place, for messages."""

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row of a table."""

    key: str
    """FILE, line or row N."""
    cells: Mapping[str, Any]


def tsv_rows(path: Path, columns: Sequence[str] = (), *, most_torn: float = 0.0) -> Iterator[Row]:
    """The lines of a tab-separated file without quoting: a " is a letter, and only a line feed ends a line.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: of a file without a head; else its first line names them.
        most_torn: the share of lines with too few cells that is left out. Of more, or by default of any, the first is an error.

    Raises:
        ValueError: naming the line that has too few cells, or a file that is empty or is not UTF-8.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); unpack the archive again") from error
    first = 0 if columns else 1
    head = list(columns) or lines[0].removesuffix("\r").split("\t")
    rows: list[Row] = []
    torn: list[Row] = []
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip():
            continue
        cells = line.removesuffix("\r").split("\t")
        row = Row(f"{path}, line {number}", dict(zip(head, cells, strict=False)))
        (rows if len(cells) >= len(head) else torn).append(row)
    if len(torn) > most_torn * (len(rows) + len(torn)):
        has = ", ".join(head)
        raise ValueError(f"{torn[0].key} has {len(torn[0].cells)} cells, {len(head)} are due ({has}); unpack it again")
    if not rows:
        raise ValueError(f"{path} holds no row; unpack the archive again")
    yield from rows


def json_rows(path: Path) -> Iterator[Row]:
    """The lines of a file of JSON objects, blank ones left out.

    Raises:
        ValueError: naming the line that is no object, or a file without any.
    """
    found = False
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}); correct it or fetch the file again"
            ) from error
        if not isinstance(cells, dict):
            raise ValueError(f"{path}, line {number} holds a {type(cells).__name__}; an object {{...}} is due")
        found = True
        yield Row(f"{path}, line {number}", cells)
    if not found:
        raise ValueError(f"{path} holds no row; correct it or fetch the file again")


def table_rows(paths: Sequence[Path]) -> Iterator[Row]:
    """The rows of parquet files, or of arrow files as `datasets` saves them, one file after the other.

    Raises:
        ImportError: without pyarrow.
        ValueError: naming a file that is damaged.
    """
    if find_spec("pyarrow") is None:
        raise ImportError(f"{paths[0]} is read with pyarrow: pip install 'torchflava[hub]'")
    import pyarrow as pa
    from pyarrow import parquet

    for path in paths:
        try:
            if path.suffix == ".parquet":
                table = parquet.read_table(path)
            else:
                with pa.OSFile(str(path)) as file:
                    table = pa.ipc.open_stream(file).read_all()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}); fetch it again") from error
        for number, cells in enumerate(table.to_pylist(), 1):
            yield Row(f"{path}, row {number}", cells)


def cell(row: Row, name: str, *, blank: bool = False) -> str:
    """A text of a row.

    Raises:
        ValueError: naming the row, if it is not there, is no text or is blank where that may not be.
    """
    told = row.cells.get(name)
    if not isinstance(told, str) or not (blank or told.strip()):
        there = ", ".join(map(str, row.cells))
        raise ValueError(f"{row.key} has no text as {name!r} (it is {told!r}; there are {there}); correct the row")
    return told


def score(told: Any, key: str, most: float) -> float:
    """A number from 0 to `most`.

    Raises:
        ValueError: naming the row.
    """
    try:
        number = float(told)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= most:
        raise ValueError(f"{key} has the score {told!r}; a number from 0 to {most:g} is due")
    return number
