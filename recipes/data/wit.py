"""Wikipedia Image Text to shards: `python recipes/data/wit.py list --annotations wit_v1.train.all-*.tsv.gz`, then `fetch`.

Layout, as google-research-datasets/wit publishes it: ten gzipped files of 17 columns, with a header, told apart by tabs and
quoted as CSV is; a quoted field may hold tabs and line ends. The rows that say `en` are taken. The paper does not say which
of the three captions it takes: here the reference, which stands below the picture in the article; without one the
attribution, from the picture's own page, where WIT says that its language is the article's (`attribution_passes_lang_id`),
without the word `English:` that such pages begin with; else the alt text. Drawings in SVG are left out, as img2dataset
cannot decode them. One file is a tenth of the data, mixed, and so serves for a trial.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from building import Card, Rejected, Row, caption_fault
from fetching import Fetch, fetch
from urls import Listing, Part, lines_of, list_urls, parts_of

NAME = "wit"
COLUMNS = 17
NEEDED = (
    "language", "page_url", "image_url", "mime_type", "attribution_passes_lang_id", "caption_reference_description",
    "caption_attribution_description", "caption_alt_text_description",
)  # fmt: skip
_MAX_FIELD = 1 << 20  # characters; where a quote is not closed, this many are lost at most


@dataclass(frozen=True)
class List:
    """Write clean lists of URLs and captions."""

    annotations: tuple[Path, ...]
    """wit_v1.train.all-00000-of-00010.tsv.gz and so on."""
    out: Path = Path("data") / NAME
    """Where lists and card.json go."""
    listing: Annotated[Listing, tyro.conf.arg(name="")] = field(default_factory=Listing)
    """How lists are written."""


Config = List | Annotated[Fetch, tyro.conf.subcommand(default=Fetch(Path("data") / NAME))]


class _Lines:
    """A file's lines for `csv.reader`, and whether they ended too early."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ends_early = False

    def __iter__(self) -> Iterator[str]:
        for _, line in lines_of(Part(self.path)):
            if line is None:
                self.ends_early = True
            else:  # bytes that are not UTF-8 become half pairs, which `caption_fault` knows
                yield line.decode(errors="surrogateescape") + "\n"


def read(part: Part) -> Iterator[Row | Rejected]:
    """The rows of a file.

    Raises:
        ValueError: if its first line is not WIT's header.
    """
    csv.field_size_limit(_MAX_FIELD)
    lines = _Lines(part.path)
    rows = csv.reader(lines, delimiter="\t")
    header = next(rows, [])
    if len(header) != COLUMNS or not set(NEEDED) <= set(header):
        raise ValueError(f"{part.path} begins with {header}, not with WIT's {COLUMNS} columns; is it one of its files?")
    number = 0
    while True:
        key, number = f"{part.path.name.split('.tsv')[0]}-{number:07}", number + 1
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error:
            yield Rejected(key, "bad row")
            continue
        if lines.ends_early:  # the row that the end cut
            break
        yield _row(key, dict(zip(header, row, strict=True))) if len(row) == COLUMNS else Rejected(key, "bad row")
    if lines.ends_early:
        yield Rejected(key, "archive ends early")


def _row(key: str, told: Mapping[str, str]) -> Row | Rejected:
    if told["language"] != "en":
        return Rejected(key, "not English")
    if told["mime_type"].startswith("image/svg"):
        return Rejected(key, "drawing in SVG")
    meta = {"url": told["image_url"], "page": told["page_url"]}
    captions = captions_of(told)
    return next((Row(key, None, text, meta) for text in captions if not caption_fault(text)), None) or Rejected(
        key, next(filter(None, map(caption_fault, filter(None, captions))), "empty caption")
    )


def captions_of(told: Mapping[str, str]) -> list[str]:
    """The reference, the attribution if it is in the article's language, the alt text."""
    attribution = told["caption_attribution_description"].strip()
    if told["attribution_passes_lang_id"].strip().lower() != "true":
        attribution = ""
    return [
        told["caption_reference_description"],
        attribution.removeprefix("English:"),
        told["caption_alt_text_description"],
    ]


def main(config: Config) -> Card:
    """List or fetch; the card."""
    if isinstance(config, Fetch):
        return fetch(NAME, config.out, config.fetching)
    parts = parts_of(config.annotations)
    parts = [Part(path) for path in dict.fromkeys(part.path for part in parts)]  # a quoted line end has no sure place
    return list_urls(NAME, config.out, config.listing, parts=parts, read=read, columns=("page",))


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
