"""Rows of JSON lines and of Parquet files, a stretch of them at a time: what the scripts of the text corpora read.

Parquet needs pyarrow, which is imported where a file of that kind is met.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from building import Rejected
from places import lines_of, need_file

ENDINGS = (".jsonl", ".json", ".parquet")
"""Of the files that are read here; .json is JSON lines too, as the hub writes it."""


class Stretch(NamedTuple):
    """Rows of a file that follow one another."""

    path: Path
    first: int
    """Number of its first row."""
    rows: int
    start: int
    """Where the first row begins: in bytes, or in Parquet the number of the group of rows."""


def files_in(path: Path, endings: Sequence[str], remedy: str) -> list[Path]:
    """The file itself, or the files with these endings in a folder and below, by name.

    Raises:
        ValueError: if there is none.
    """
    if path.is_dir():
        found = sorted(each for each in path.rglob("*") if each.suffix.lower() in endings and each.is_file())
    else:
        found = [each for each in [need_file(path, remedy)] if each.suffix.lower() in endings]
    if not found:
        raise ValueError(f"{path} has no file that ends in {', '.join(endings)}; {remedy}")
    return found


def stretches_of(paths: Iterable[Path], num_rows: int, limit: int | None) -> list[Stretch]:
    """Files in stretches of `num_rows` rows or less, `limit` rows in all; blank lines are no rows.

    Raises:
        ValueError: if the limit is below 1, or a Parquet file cannot be read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; 1 or more are due")
    found: list[Stretch] = []
    left = limit
    for path in paths:
        for stretch in _groups(path) if path.suffix.lower() == ".parquet" else _lines(path, num_rows):
            if left is not None:
                stretch = stretch._replace(rows=min(stretch.rows, left))
                left -= stretch.rows
            found.append(stretch)
            if left == 0:
                return found
    return found


def _lines(path: Path, num_rows: int) -> Iterator[Stretch]:
    first = rows = start = 0
    for offset, _ in lines_of(path):
        if rows == num_rows:
            yield Stretch(path, first, rows, start)
            first, rows = first + rows, 0
        start = start if rows else offset
        rows += 1
    if rows:
        yield Stretch(path, first, rows, start)


def _groups(path: Path) -> Iterator[Stretch]:
    parquet, first = _parquet(path), 0
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        yield Stretch(path, first, rows, group)
        first += rows


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile  # optional
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow (pip install pyarrow), or turn it into .jsonl") from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); fetch it again") from error


def in_parts(stretches: Sequence[Stretch], num_rows: int) -> list[list[Stretch]]:
    """Stretches put together to slices of about `num_rows` rows, one slice at least."""
    parts: list[list[Stretch]] = [[]]
    rows = 0
    for stretch in stretches:
        if rows >= num_rows:
            parts.append([])
            rows = 0
        parts[-1].append(stretch)
        rows += stretch.rows
    return parts


def rows_of(stretch: Stretch, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """Each row of a stretch: its key and the fields that it has, or why it cannot be read.

    Raises:
        ValueError: if a Parquet file cannot be read.
    """
    return _of_parquet(stretch, fields) if stretch.path.suffix.lower() == ".parquet" else _of_lines(stretch, fields)


def _of_lines(stretch: Stretch, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    with open(stretch.path, "rb") as file:
        file.seek(stretch.start)
        for number, line in enumerate(islice((line for line in file if line.strip()), stretch.rows)):
            key = f"{stretch.path.name}/{stretch.first + number}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError:
                yield Rejected(key, "not UTF-8")
                continue
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield key, {field: row[field] for field in fields if field in row}
            else:
                yield Rejected(key, "bad row")


def _of_parquet(stretch: Stretch, fields: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    parquet = _parquet(stretch.path)
    there = [field for field in fields if field in parquet.schema_arrow.names]
    number = 0
    for batch in parquet.iter_batches(batch_size=1024, row_groups=[stretch.start], columns=there):
        columns = [batch.column(field) for field in there]
        for index in range(min(batch.num_rows, stretch.rows - number)):
            key = f"{stretch.path.name}/{stretch.first + number}"
            number += 1
            try:
                yield key, {field: column[index].as_py() for field, column in zip(there, columns, strict=True)}
            except UnicodeDecodeError:
                yield Rejected(key, "not UTF-8")


def utf8_fault(text: object) -> str | None:
    """Why a text cannot be used, empty ones aside."""
    if not isinstance(text, str):
        return "bad row"
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON's escapes can write
        return "not UTF-8"
    return None
