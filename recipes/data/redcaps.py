"""RedCaps to shards: `python recipes/data/redcaps.py list --annotations annotations`, then `fetch`.

Layout, as redcaps.xyz publishes it: annotations/SUBREDDIT_YEAR.json, each an object whose `annotations` are objects with
image_id, author, url, raw_caption, caption, subreddit (its name, or in some versions a number) and more. The caption is the
cleaned one, which RedCaps' own models learn; authors are left out. The paper filters none of it (arXiv:2112.04482, section
3.5). For a trial give a file or two.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from building import Card, Rejected, Row
from fetching import Fetch, fetch
from urls import Listing, Part, list_urls

NAME = "redcaps"


@dataclass(frozen=True)
class List:
    """Write clean lists of URLs and captions."""

    annotations: tuple[Path, ...]
    """The folder of the .json files, or some of them."""
    out: Path = Path("data") / NAME
    """Where lists and card.json go."""
    listing: Annotated[Listing, tyro.conf.arg(name="")] = field(default_factory=Listing)
    """How lists are written."""


Config = List | Annotated[Fetch, tyro.conf.subcommand(default=Fetch(Path("data") / NAME))]


def read(part: Part) -> Iterator[Row | Rejected]:
    """The rows of a file; one rejected row for all of a file that is no JSON."""
    try:
        entries = json.loads(part.path.read_bytes())["annotations"]
        if not isinstance(entries, list):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        yield Rejected(part.path.name, "bad file")
        return
    for number, entry in enumerate(entries):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        if not isinstance(image, str | int) or "caption" not in entry:
            yield Rejected(f"{part.path.name}-{number}", "bad row")
        else:
            meta = {"url": entry.get("url"), "subreddit": entry.get("subreddit", "")}
            yield Row(str(image), None, entry["caption"], meta)


def parts_in(paths: Sequence[Path]) -> list[Part]:
    """A part for each file, in the order of their names.

    Raises:
        ValueError: if a path is not there, or a folder has no .json file.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            raise ValueError(f"{path} is no .json file and no folder of them; give --annotations the unpacked ones")
        files += found
    return [Part(path) for path in files]


def main(config: Config) -> Card:
    """List or fetch; the card."""
    if isinstance(config, Fetch):
        return fetch(NAME, config.out, config.fetching)
    parts = parts_in(config.annotations)
    return list_urls(NAME, config.out, config.listing, parts=parts, read=read, columns=("subreddit",))


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
