"""Captions by position: of CSV, TSV and JSON Lines only the places of the rows are kept, of JSON the packed strings.

Sources: RFC 4180 with tabs or commas, as Python's csv reads and pandas writes it; jsonlines.org; the captions of COCO
(cocodataset.org, "Data format"); open_clip's `filepath<tab>title`.
"""

import csv
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from torchflava.data.caption_rows import CaptionRows, Captions, Packed, Refuse, Rejected, Row, Scanned, reasons

IMAGE_FIELDS = ("filepath", "file_name", "filename", "image", "image_path", "path")
"""What a column of image files may be called without being named."""
CAPTION_FIELDS = ("title", "caption", "captions", "text")
"""What a column of captions may be called without being named."""
_BOM = b"\xef\xbb\xbf"


def open_captions(path: Path, image: str | None, caption: str | None, *, refuse: Refuse) -> Captions:
    """The captions of a file, whose kind its name tells: .csv, .tsv, .txt; .jsonl, .ndjson; .json.

    Args:
        path: UTF-8, with or without a byte order mark.
        image: the column or field of the image's path; the one of `IMAGE_FIELDS` that is there, unless given.
        caption: the column or field of the caption; the one of `CAPTION_FIELDS` that is there, unless given.
        refuse: says which samples are left out.

    Raises:
        ValueError: if the file cannot be read, or a column is not there or not to be told from others.
    """
    opened: dict[str, Callable[[], Captions]] = {
        **dict.fromkeys((".csv", ".tsv", ".txt"), lambda: CaptionRows(path, _Table(path, image, caption), refuse)),
        **dict.fromkeys((".jsonl", ".ndjson"), lambda: CaptionRows(path, _JsonLines(path, image, caption), refuse)),
        ".json": lambda: _Json(path, image, caption, refuse=refuse),
    }
    ending = path.suffix.lower()
    if ending not in opened:
        raise ValueError(f"captions {path}: the ending {ending!r} is none of {', '.join(opened)}; rename the file")
    try:
        return opened[ending]()
    except OSError as error:
        raise ValueError(f"captions {path} cannot be read ({error})") from error


def _scanned(start: int, size: int, line: int, parse: Callable[[], Row]) -> Scanned:
    try:
        return Scanned(start, size, line, parse())
    except UnicodeDecodeError:
        return Scanned(start, size, line, "not UTF-8")
    except (ValueError, RecursionError):
        return Scanned(start, size, line, "malformed")


class _Table:
    """Rows between tabs, if the first row has one, else between commas; a quoted field may hold line ends.

    Latin-1 turns bytes into characters one by one, so that what the parser has taken can be counted in bytes; a field is
    decoded afterwards.
    """

    def __init__(self, path: Path, image: str | None, caption: str | None) -> None:
        self.path = path
        with path.open("rb") as file:
            first = file.readline()
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"captions {path} are UTF-16; save them as UTF-8")
        self._begin = len(_BOM) if first.startswith(_BOM) else 0
        self._delimiter = "\t" if b"\t" in first else ","
        try:
            header = [name.strip() for name in self._fields(next(self._records(), (0, 0, 0, []))[3])]
        except ValueError as error:
            raise ValueError(f"captions {path}: its first row is no row of UTF-8 column names ({error})") from error
        self._width = len(header)
        self._at = [header.index(field) for field in chosen(header, image, caption, path=path)]

    def scan(self) -> Iterator[Scanned]:
        records = self._records()
        next(records)
        for start, size, line, fields in records:
            yield _scanned(start, size, line, lambda fields=fields: self._row(fields))  # type: ignore[misc]

    def parse(self, record: bytes) -> Row:
        try:
            return self._row(next(self._reader(_lines(BytesIO(record)))))
        except (csv.Error, StopIteration) as error:
            raise ValueError("no row") from error

    def _reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, strict=True)  # else an open quote takes all that follows

    def _row(self, fields: Sequence[str] | None) -> Row:
        if fields is None or len(fields) != self._width:
            raise ValueError("another number of fields than the first row")
        image, caption = self._fields([fields[at] for at in self._at])
        return Row(image, [caption])

    def _fields(self, fields: Sequence[str] | None) -> list[str]:
        if fields is None:
            raise ValueError("a line end or a quote stands where none may")
        return [field.encode("latin-1").decode() for field in fields]

    def _records(self) -> Iterator[tuple[int, int, int, list[str] | None]]:
        """Start and size in bytes, the number of the last line, the fields; None where the row cannot be parsed."""
        with self.path.open("rb") as file:
            file.seek(self._begin)
            taken = array("q", [self._begin, 0])
            reader = self._reader(_lines(file, taken))
            while True:
                start = taken[0]
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    fields = None
                if fields != []:  # a line without anything
                    yield start, taken[0] - start, taken[1], fields


def _lines(file: Iterable[bytes], taken: "array[int] | None" = None) -> Iterator[str]:
    for line in file:
        if taken is not None:
            taken[0] += len(line)
            taken[1] += 1
        yield line.decode("latin-1")


class _JsonLines:
    """An object a line; the first one tells the names of the fields."""

    def __init__(self, path: Path, image: str | None, caption: str | None) -> None:
        self.path = path
        self._image, self._caption = chosen(self._first(), image, caption, path=path)

    def _first(self) -> list[str]:
        with self.path.open("rb") as file:
            for _, line in _filled(file):
                try:
                    found = json.loads(line.decode())
                except (ValueError, RecursionError):
                    continue
                if isinstance(found, dict):
                    return list(found)
        raise ValueError(f"captions {self.path} have no line with a JSON object in UTF-8")

    def scan(self) -> Iterator[Scanned]:
        with self.path.open("rb") as file:
            for number, line in _filled(file):
                start = file.tell() - len(line)
                yield _scanned(start, len(line), number, lambda line=line: self.parse(line))  # type: ignore[misc]

    def parse(self, record: bytes) -> Row:
        return _row_of(json.loads(record.decode()), self._image, self._caption)


def _filled(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that hold something, with their numbers from 1, without a byte order mark; the file stands at their end."""
    number = 0
    while line := file.readline():
        number += 1
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield number, line


def _row_of(found: Any, image: str, caption: str) -> Row:
    """The row of a JSON object."""
    if not isinstance(found, dict) or not isinstance(found.get(image), str):
        raise ValueError(f"no object with a string {image!r}")
    told = found.get(caption)
    captions = [] if told is None else told if isinstance(told, list) else [told]
    if not all(isinstance(one, str) for one in captions):
        raise ValueError(f"{caption!r} is neither a string nor a list of strings")
    return Row(found[image], captions)


class _Json:
    """One JSON document, read whole once and then kept as packed strings: COCO's captions, or a list of objects."""

    def __init__(self, path: Path, image: str | None, caption: str | None, *, refuse: Refuse) -> None:
        self.rejected = Rejected()
        try:
            found = json.loads(path.read_bytes().removeprefix(_BOM).decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"captions {path} are no JSON in UTF-8 ({error})") from error
        rows = _coco_rows(found, path) if _is_coco(found) else _list_rows(found, image, caption, path=path)
        if _is_coco(found) and (image or caption):
            raise ValueError(f"captions {path} are COCO's, whose fields are known; leave image and caption out")
        pairs = list(self._kept(rows, refuse))
        self._images = Packed(image.encode(errors="surrogatepass") for image, _ in pairs)
        self._captions = Packed(caption.encode() for _, caption in pairs)

    def _kept(self, rows: Iterable[Row | str], refuse: Refuse) -> Iterator[tuple[str, str]]:
        for at, row in enumerate(rows):
            for number, why in enumerate(reasons(row, refuse)):
                if why:
                    self.rejected.add(why, f"entry {at}")
                elif not isinstance(row, str):
                    yield row.image, row.captions[number].strip()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self._images[index].decode(errors="surrogatepass"), self._captions[index].decode()


def _is_coco(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(part), list) for part in ("images", "annotations"))


def _coco_rows(found: Any, path: Path) -> Iterator[Row | str]:
    """A row for each annotation, in the file's order."""
    try:
        files = {image["id"]: image["file_name"] for image in found["images"]}
        for annotation in found["annotations"]:
            row = {"image": files.get(annotation["image_id"]), "caption": annotation["caption"]}
            yield _row_or_reason(row, "image", "caption")
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"captions {path}: COCO's images have id and file_name, its annotations image_id and caption ({error!r})"
        ) from error


def _list_rows(found: Any, image: str | None, caption: str | None, *, path: Path) -> Iterator[Row | str]:
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise ValueError(f"captions {path} hold neither COCO's images and annotations nor a list of objects")
    image, caption = chosen(list(found[0]), image, caption, path=path)
    return (_row_or_reason(one, image, caption) for one in found)


def _row_or_reason(found: Any, image: str, caption: str) -> Row | str:
    try:
        return _row_of(found, image, caption)
    except ValueError:
        return "malformed"


def chosen(names: Sequence[str], image: str | None, caption: str | None, *, path: Path) -> tuple[str, str]:
    """The names of the image's and the caption's column among those that are there.

    Raises:
        ValueError: if one is not there, is there twice, or has to be guessed among several.
    """

    def choose(what: str, name: str | None, known: Sequence[str]) -> str:
        found = [one for one in names if one == name or (name is None and one in known)]
        if len(found) == 1:
            return found[0]
        asked = f"no {what}={name!r}" if name is not None else f"no known column of {what}s"
        asked = f"{len(found)} columns that may be the {what}" if found else asked
        raise ValueError(f"captions {path} have {asked}; give {what}= one of its columns: {', '.join(names)}")

    return choose("image", image, IMAGE_FIELDS), choose("caption", caption, CAPTION_FIELDS)
