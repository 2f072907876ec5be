"""What the sources published as URLs share: from annotations to clean lists of URLs and captions, in parallel, restartable.

A list has the columns url, caption, id and the source's own, all of them text: parquet where pyarrow is installed, else
JSON lines; rom1504/img2dataset reads both (see fetching.py). An entry is found again by its id, at every build the same.
"""

import bz2
import gzip
import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast
from urllib.parse import quote, urlsplit

import numpy as np
from building import Card, Rejected, Row, caption_fault
from card import image_number
from numpy.typing import NDArray
from slices import card_of, in_slices, settle, write_text

from torchflava.data.tars import write_whole

_PART_BYTES = 1 << 26  # of a plain text file, for a worker at a time
_IN_URLS = "!#$%&'()*+,/:;=?@[]~"  # what `quote` leaves as it is, beside letters, digits and -._
_DAMAGED = (EOFError, OSError, zlib.error)


@dataclass(frozen=True)
class Listing:
    """How lists are written, whatever the source."""

    workers: int = 4
    """Processes."""
    list_size: int = 250_000
    """Rows in a list; a list is what a fetching machine takes at a time."""


class Part(NamedTuple):
    """What a worker reads at a time: lines that begin from byte `start` until `stop`, or rows by their numbers."""

    path: Path
    start: int = 0
    stop: int | None = None
    """None for the whole file."""


def parts_of(paths: Sequence[Path]) -> list[Part]:
    """The parts of text files; a compressed one can be read only from its beginning, so it is one part.

    Raises:
        ValueError: for a file that is not there.
    """
    parts = []
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path} is no file; give --annotations the published files")
        if path.suffix in (".gz", ".bz2"):
            parts.append(Part(path))
        else:
            starts = range(0, path.stat().st_size, _PART_BYTES)
            parts += [Part(path, start, start + _PART_BYTES) for start in starts]
    return parts


def lines_of(part: Part) -> Iterator[tuple[str, bytes | None]]:
    """Lines without their ends, each with a name for it; None after the last one of an archive that ends too early."""
    position = part.start
    try:
        with _open(part.path) as file:
            if position:  # the line in which the part begins is the part's before, unless it begins with the part
                file.seek(position - 1)
                position += len(file.readline()) - 1
            while part.stop is None or position < part.stop:
                if not (line := file.readline()):
                    return
                yield f"{part.path.name}-{position}", line.rstrip(b"\r\n")
                position += len(line)
    except _DAMAGED:
        if part.path.suffix not in (".gz", ".bz2"):
            raise
        yield f"{part.path.name}-{position}", None


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return cast(IO[bytes], bz2.open(path, "rb")) if path.suffix == ".bz2" else open(path, "rb")


def read_pairs(part: Part, *, url: int, caption: int) -> Iterator[Row | Rejected]:
    """The rows of a file of two columns, told apart by a tab; quotes are part of a caption."""
    for key, line in lines_of(part):
        fields = text_of(line)
        columns = fields.split("\t") if isinstance(fields, str) else []
        if isinstance(fields, Rejected):
            yield Rejected(key, fields.reason)
        elif len(columns) != 2:
            yield Rejected(key, "bad row")
        else:
            yield Row(key, None, columns[caption], {"url": columns[url]})


def text_of(line: bytes | None) -> str | Rejected:
    """A line of `lines_of`, decoded."""
    if line is None:
        return Rejected("", "archive ends early")
    try:
        return line.decode()
    except UnicodeDecodeError:
        return Rejected("", "not UTF-8")


def clean_url(url: object) -> str | None:
    """An http or https URL as it can be asked for, with what is not ASCII escaped; None for anything else."""
    if not isinstance(url, str):
        return None
    url = url.strip()
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        _ = parts.port  # raises for one that is no number
        if parts.scheme.lower() not in ("http", "https") or not host or any(ord(letter) < 32 for letter in url):
            return None
        if not parts.netloc.isascii():
            url = parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}").geturl()
        return quote(url, safe=_IN_URLS)
    except ValueError:  # UnicodeError, of idna and of half pairs of surrogates, is one
        return None


def list_urls(
    name: str,
    out: Path,
    options: Listing,
    *,
    parts: Sequence[Part],
    read: Callable[[Part], Iterable[Row | Rejected]],
    columns: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
) -> Card:
    """Write `OUT/lists/NAME-NNNNN.parquet` (or `.jsonl`), lists.json with their rows, and card.json last; the card.

    Lists do not depend on the number of workers, and none has its name before it is whole. Where all is there nothing is
    done; a run that was stopped goes on where it was.

    Args:
        name: of the source.
        out: the source's folder.
        options: how lists are written.
        parts: the annotations.
        read: the rows of a part, the same at every call, with `url` and `columns` in their meta; picklable.
        columns: what lists hold beside url, caption and id, and shards in their `.json`.
        settings: what the rows depend on, beside the annotations.

    Raises:
        ValueError: for a number below 1, no annotations, or a folder that was begun with other settings.
    """
    if not parts or options.list_size < 1:
        raise ValueError(f"{len(parts)} parts of annotations, lists of {options.list_size}; 1 or more are due")
    sizes = {str(part.path.resolve()): part.path.stat().st_size for part in parts}
    ending = "parquet" if find_spec("pyarrow") else "jsonl"
    held = {"annotations": sizes, "list_size": options.list_size, "ending": ending, **(settings or {})}
    lists, candidates = out / "lists", out / "candidates"
    settle(lists, held, f"{name}.settings.json")
    if (lists / "card.json").exists():
        shutil.rmtree(candidates, ignore_errors=True)
        return Card.from_record(json.loads((lists / "record.json").read_bytes()))
    write = partial(_write_candidates, parts, read, columns, candidates, name)
    in_slices(write, len(parts), candidates, name=name, workers=options.workers, settings={})
    card = card_of(candidates, name, len(parts))
    files = [candidates / f"{name}-{number:05}.jsonl" for number in range(len(parts))]
    rows = _first_of_each(files, card)
    counts: dict[str, int] = {}
    while chunk := list(islice(rows, options.list_size)):
        path = lists / f"{name}-{len(counts):05}.{ending}"
        counts[path.name] = len(chunk)
        write_list(path, chunk, ("id", "url", "caption", *columns))
    write_text(lists / "lists.json", json.dumps({"lists": counts, "columns": ["id", *columns]}, indent=1))
    write_text(lists / "record.json", json.dumps(card.to_record()))
    write_text(lists / "card.json", json.dumps(card.as_json(), indent=1))
    shutil.rmtree(candidates)
    return card


def _write_candidates(
    parts: Sequence[Part],
    read: Callable[[Part], Iterable[Row | Rejected]],
    columns: tuple[str, ...],
    out: Path,
    name: str,
    number: int,
) -> tuple[Card, list[str]]:
    """Write a part's usable rows as JSON lines, and a number for each pair of URL and caption."""
    card, files = Card(name), [f"{name}-{number:05}.jsonl", f"{name}-{number:05}.npy"]
    pairs: list[int] = []

    def write(file: IO[bytes]) -> None:
        for row in read(parts[number]):
            found = row if isinstance(row, Rejected) else _candidate(row, columns)
            if isinstance(found, Rejected):
                card.reject(found.key, found.reason)
                continue
            pairs.append(image_number(f"{found[1]}\n{found[2]}"))
            file.write(json.dumps(found).encode() + b"\n")

    write_whole(out / files[0], write)
    write_whole(out / files[1], lambda file: np.save(file, np.array(pairs, np.uint64)))
    return card, files


def _candidate(row: Row, columns: tuple[str, ...]) -> list[str] | Rejected:
    """A row's id, URL, caption and columns, cleaned; or why it cannot be used."""
    if (url := clean_url(row.meta.get("url"))) is None:
        return Rejected(row.key, "no url")
    if fault := caption_fault(row.caption):
        return Rejected(row.key, fault)
    told = [str(row.meta.get(column) or "") for column in columns]
    if caption_fault("".join((row.key, *told))) == "not UTF-8":
        return Rejected(row.key.encode(errors="replace").decode(), "not UTF-8")
    return [row.key, url, " ".join(row.caption.split()), *told]


def _first_of_each(files: Sequence[Path], card: Card) -> Iterator[list[str]]:
    """The candidates in the order of the parts, a repeated URL and caption once; all are counted on the card."""
    numbers = np.concatenate([np.load(file.with_suffix(".npy")) for file in files])
    keep = np.zeros(len(numbers), bool)
    keep[np.unique(numbers, return_index=True)[1]] = True
    images: NDArray[np.uint64] = np.empty(int(keep.sum()), np.uint64)
    position = 0
    for file in files:
        with open(file, "rb") as opened:
            for line in opened:
                row = json.loads(line)
                position += 1
                if not keep[position - 1]:
                    card.reject(row[0], "duplicate")
                    continue
                images[card.pairs] = image_number(row[1])
                card.pairs += 1
                card.words += len(row[2].split())
                yield row
    card.images = np.unique(images)


def write_list(path: Path, rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
    """Write a list, whole or not at all; one that is there stays."""
    if path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
        write_whole(path, lambda file: file.writelines(line.encode() for line in lines))
        return
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    write_whole(path, lambda file: parquet.write_table(pa.table(arrays, names=list(columns)), file))
