"""SBU Captions to shards: `python recipes/data/sbu.py list --annotations FOLDER`, then `fetch`.

Layout, as cs.rice.edu/~vo9/sbucaptions publishes it: SBU_captioned_photo_dataset_urls.txt and its _captions.txt, a million
lines each that belong together; or, of the pictures that were still there years later, sbu-captions-all.json, an object of
equally long lists, image_urls and captions among them. The paper counts a million pairs, those of the text files, and
filters none (arXiv:2112.04482, table 2 and section 3.5).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import tyro
from building import Card, Rejected, Row
from fetching import Fetch, fetch
from urls import Listing, Part, lines_of, list_urls, text_of

NAME = "sbu"
URLS, CAPTIONS = "SBU_captioned_photo_dataset_urls.txt", "SBU_captioned_photo_dataset_captions.txt"
BOTH = "sbu-captions-all.json"


@dataclass(frozen=True)
class List:
    """Write clean lists of URLs and captions."""

    annotations: Path
    """The folder with SBU_captioned_photo_dataset_urls.txt and _captions.txt, else sbu-captions-all.json."""
    out: Path = Path("data") / NAME
    """Where lists and card.json go."""
    listing: Annotated[Listing, tyro.conf.arg(name="")] = field(default_factory=Listing)
    """How lists are written."""


Config = List | Annotated[Fetch, tyro.conf.subcommand(default=Fetch(Path("data") / NAME))]


def read(part: Part) -> Iterator[Row | Rejected]:
    """All rows; `part` is the file of the URLs, or of both.

    Raises:
        ValueError: if there are not as many captions as URLs.
    """
    return _read_json(part.path) if part.path.name == BOTH else _read_lines(part.path)


def _read_lines(path: Path) -> Iterator[Row | Rejected]:
    captions = path.with_name(CAPTIONS)
    both = zip_longest(lines_of(Part(path)), lines_of(Part(captions)))
    for number, (url, caption) in enumerate(both):
        if url is None or caption is None:
            raise ValueError(f"{path} and {captions.name} have different numbers of lines; fetch and unpack them again")
        key = f"{NAME}-{number:07}"
        address, text = text_of(url[1]), text_of(caption[1])
        if isinstance(address, Rejected) or isinstance(text, Rejected):
            yield Rejected(key, "not UTF-8")
        else:
            yield Row(key, None, text, {"url": address})


def _read_json(path: Path) -> Iterator[Row | Rejected]:
    try:
        told = json.loads(path.read_bytes())
        urls, captions = told["image_urls"], told["captions"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no object with image_urls and captions; fetch and unpack it again") from error
    if len(urls) != len(captions):
        raise ValueError(f"{path} has {len(urls)} URLs and {len(captions)} captions; fetch and unpack it again")
    for number, (url, caption) in enumerate(zip(urls, captions, strict=True)):
        yield Row(f"{NAME}-{number:07}", None, caption, {"url": url})


def parts_in(folder: Path) -> list[Part]:
    """The one part: of two files whose lines belong together neither can be cut by bytes.

    Raises:
        ValueError: if the folder has neither.
    """
    if (folder / URLS).is_file() and (folder / CAPTIONS).is_file():
        return [Part(folder / URLS)]
    if (folder / BOTH).is_file():
        return [Part(folder / BOTH)]
    raise ValueError(f"{folder} has neither {URLS} and {CAPTIONS} nor {BOTH}; give --annotations the unpacked folder")


def main(config: Config) -> Card:
    """List or fetch; the card."""
    if isinstance(config, Fetch):
        return fetch(NAME, config.out, config.fetching)
    return list_urls(NAME, config.out, config.listing, parts=parts_in(config.annotations), read=read)


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
