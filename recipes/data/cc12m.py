"""Conceptual Captions 12M to shards: `python recipes/data/cc12m.py list --annotations cc12m.tsv`, then `fetch`.

Layout, as google-research-datasets/conceptual-12m publishes it: a URL, a tab and a caption a line, without a header and
without quoting; the names of people are <PERSON> in it. The paper filters none of it (arXiv:2112.04482, section 3.5). For
a trial give a file's first lines.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from building import Card
from fetching import Fetch, fetch
from urls import Listing, list_urls, parts_of, read_pairs

NAME = "cc12m"


@dataclass(frozen=True)
class List:
    """Write clean lists of URLs and captions."""

    annotations: tuple[Path, ...]
    """cc12m.tsv."""
    out: Path = Path("data") / NAME
    """Where lists and card.json go."""
    listing: Annotated[Listing, tyro.conf.arg(name="")] = field(default_factory=Listing)
    """How lists are written."""


Config = List | Annotated[Fetch, tyro.conf.subcommand(default=Fetch(Path("data") / NAME))]


def main(config: Config) -> Card:
    """List or fetch; the card."""
    if isinstance(config, Fetch):
        return fetch(NAME, config.out, config.fetching)
    read = partial(read_pairs, url=0, caption=1)
    return list_urls(NAME, config.out, config.listing, parts=parts_of(config.annotations), read=read)


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
