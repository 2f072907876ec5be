"""CC-News to packed texts: `python recipes/data/ccnews.py --news cc_news --out data/ccnews`.

Layout: the Hugging Face hub's cc_news, which news-please drew from Common Crawl's WARC files: Parquet files, or JSON lines,
with title, text, domain, date, description, url and image_url. A document is an article: its title, then its text.

`OUT/ccnews.txt` has a packed text a line (see recipes/data/packing.py), for torchflava.data.shards.TextLines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from building import Rejected
from card import Card
from documents import ENDINGS, Stretch, files_in, in_parts, rows_of, stretches_of, utf8_fault
from packing import Packing, Text, distinct, pack_corpus

ROWS = 20_000
"""Articles in a slice; equal ones are found within it."""
_REMEDY = "give --news the .parquet or .jsonl files of cc_news, or their folder"


@dataclass(frozen=True)
class Config:
    """Pack CC-News into texts of one length."""

    news: Path
    """A .parquet or .jsonl file, or a folder of them."""
    out: Path = Path("data/ccnews")
    """Where ccnews.txt and card.json go."""
    packing: Annotated[Packing, tyro.conf.arg(name="")] = field(default_factory=Packing)
    """How texts are packed."""
    workers: int = 4
    """Processes."""
    limit: int | None = None
    """Only so many articles, for a trial; all by default."""


class Slices:
    """The articles of each slice.

    Args:
        slices: the stretches of the files that are in each slice.
    """

    def __init__(self, slices: Sequence[Sequence[Stretch]]) -> None:
        self.slices = slices

    def __call__(self, part: int) -> Iterator[Text | Rejected]:
        """The articles of slice `part`, in the order of the files; one that was there before is rejected."""
        return distinct(self._articles(part))

    def _articles(self, part: int) -> Iterator[Text | Rejected]:
        for stretch in self.slices[part]:
            for row in rows_of(stretch, ("title", "text")):
                if isinstance(row, Rejected):
                    yield row
                    continue
                key, fields = row
                title, text = fields.get("title") or "", fields.get("text")
                fault = utf8_fault(title) or utf8_fault(text) or (None if str(text).strip() else "empty text")
                yield Rejected(key, fault) if fault else Text(key, f"{title}\n{text}", True)


def main(config: Config) -> Card:
    """Pack the articles; the card.

    Raises:
        ValueError: if the files are missing or of another format.
    """
    files = files_in(config.news, ENDINGS, _REMEDY)
    slices = in_parts(stretches_of(files, ROWS, config.limit), ROWS)
    return pack_corpus(
        Slices(slices),
        len(slices),
        config.out,
        name="ccnews",
        packing=config.packing,
        workers=config.workers,
        settings={"news": config.news, "limit": config.limit},
    )


if __name__ == "__main__":
    chosen = tyro.cli(Config)
    print(main(chosen))
    print(f"{chosen.out / 'ccnews.txt'}: texts of at most {chosen.packing.length} {chosen.packing.unit}")
