"""BookCorpus to packed texts: `python recipes/data/bookcorpus.py --books books --out data/bookcorpus`.

Layouts: a folder of .txt books, each a document (as BookCorpusOpen's `epubtxt`, or the two `books_large_p*.txt` with a
sentence a line); JSON lines or Parquet files with a `text`, which is a sentence in the Hugging Face hub's bookcorpus and a
book in bookcorpusopen: say which by --rows.

`OUT/bookcorpus.txt` has a packed text a line (see recipes/data/packing.py), for torchflava.data.shards.TextLines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro
from building import Rejected
from card import Card
from documents import ENDINGS, Stretch, files_in, in_parts, rows_of, stretches_of, utf8_fault
from packing import Packing, Text, distinct, pack_corpus

PIECE = 1 << 26
"""Bytes of .txt in a slice, and of a book that is read at a time; equal books are found within a slice."""
ROWS = {"sentences": 1_000_000, "documents": 200}
"""Rows in a slice."""
_REMEDY = "give --books a folder of .txt books, or .jsonl or .parquet files with a text"


@dataclass(frozen=True)
class Config:
    """Pack books into texts of one length."""

    books: Path
    """A folder of .txt books, or a .jsonl, .parquet or .txt file, or a folder of such files."""
    rows: Literal["sentences", "documents"] = "sentences"
    """What a row of .jsonl or .parquet is: a sentence, an empty one ending the book, or a whole book."""
    out: Path = Path("data/bookcorpus")
    """Where bookcorpus.txt and card.json go."""
    packing: Annotated[Packing, tyro.conf.arg(name="")] = field(default_factory=Packing)
    """How texts are packed."""
    workers: int = 4
    """Processes."""
    limit: int | None = None
    """Only so many books or rows, for a trial; all by default."""


class Piece(NamedTuple):
    """A book, or a part of one that is larger than a slice, cut between lines."""

    path: Path
    start: int
    """In bytes."""
    size: int
    """In bytes."""


class Books:
    """The .txt books of each slice.

    Args:
        slices: the pieces in each slice.
    """

    def __init__(self, slices: Sequence[Sequence[Piece]]) -> None:
        self.slices = slices

    def __call__(self, part: int) -> Iterator[Text | Rejected]:
        """The books of slice `part`, by name; one that was there before is rejected."""
        return distinct(map(_read, self.slices[part]))


def _read(piece: Piece) -> Text | Rejected:
    key = f"{piece.path.name}@{piece.start}"
    with open(piece.path, "rb") as file:
        file.seek(piece.start)
        data = file.read(piece.size)
    if b"\0" in data:
        return Rejected(key, "not a text")
    try:
        return Text(key, data.decode("utf-8-sig"), piece.start == 0)
    except UnicodeDecodeError:
        return Rejected(key, "not UTF-8")


def pieces_of(path: Path, size: int) -> Iterator[Piece]:
    """A file in pieces of about `size` bytes that end with a line; one piece, if it is empty."""
    start, end = 0, path.stat().st_size
    with open(path, "rb") as file:
        while True:
            file.seek(start + size)
            stop = end if start + size >= end else start + size + len(file.readline())
            yield Piece(path, start, stop - start)
            start = stop
            if start >= end:
                return


def in_slices_of(paths: Sequence[Path], size: int) -> list[list[Piece]]:
    """The pieces of the books, in slices of about `size` bytes."""
    slices: list[list[Piece]] = [[]]
    held = 0
    for path in paths:
        for piece in pieces_of(path, size):
            if slices[-1] and held + piece.size > size:
                slices.append([])
                held = 0
            slices[-1].append(piece)
            held += piece.size
    return slices


class Rows:
    """The rows of each slice of JSON lines or Parquet files.

    Args:
        slices: the stretches of the files that are in each slice.
        sentences: rows are sentences, not books.
    """

    def __init__(self, slices: Sequence[Sequence[Stretch]], *, sentences: bool) -> None:
        self.slices = slices
        self.sentences = sentences

    def __call__(self, part: int) -> Iterator[Text | Rejected]:
        """The texts of slice `part`, in the order of the files."""
        return self._sentences(part) if self.sentences else distinct(self._texts(part))

    def _texts(self, part: int) -> Iterator[Text | Rejected]:
        for stretch in self.slices[part]:
            for row in rows_of(stretch, ("text",)):
                if isinstance(row, Rejected):
                    yield row
                    continue
                key, text = row[0], row[1].get("text")
                fault = utf8_fault(text)
                yield Rejected(key, fault) if fault else Text(key, text, True)  # type: ignore[arg-type]

    def _sentences(self, part: int) -> Iterator[Text | Rejected]:
        begins = part == 0  # the others go on where the one before was cut
        for row in self._texts(part):
            if isinstance(row, Rejected):
                yield row
            elif row.text.strip():
                yield row._replace(begins=begins)
                begins = False
            else:
                begins = True


def main(config: Config) -> Card:
    """Pack the books; the card.

    Raises:
        ValueError: if the files are missing or of another format.
    """
    files = files_in(config.books, (".txt", *ENDINGS), _REMEDY)
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    if texts and len(texts) < len(files):
        raise ValueError(f"{config.books} has both .txt and other files; {_REMEDY}, one kind at a time")
    source: Books | Rows
    if texts:
        if config.limit is not None and config.limit < 1:
            raise ValueError(f"--limit is {config.limit}; 1 or more are due")
        source = Books(in_slices_of(texts[: config.limit], PIECE))
    else:
        num_rows = ROWS[config.rows]
        stretches = stretches_of(files, num_rows, config.limit)
        source = Rows(in_parts(stretches, num_rows), sentences=config.rows == "sentences")
    return pack_corpus(
        source,
        len(source.slices),
        config.out,
        name="bookcorpus",
        packing=config.packing,
        workers=config.workers,
        settings={"books": config.books, "rows": config.rows, "limit": config.limit},
    )


if __name__ == "__main__":
    chosen = tyro.cli(Config)
    print(main(chosen))
    print(f"{chosen.out / 'bookcorpus.txt'}: texts of at most {chosen.packing.length} {chosen.packing.unit}")
