"""The cards of folders that were built, and their total: `python recipes/data/totals.py data/coco data/sbu`.

An image that several sources have under one name counts once.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro
from card import Card, show


@dataclass(frozen=True)
class Config:
    """Add cards up."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """What the scripts beside this one had as --out."""


def cards_in(folder: Path) -> list[Card]:
    """The card of each source that was built in a folder.

    Raises:
        ValueError: if there is none.
    """
    found: dict[str, list[Card]] = {}
    for path in sorted((folder / "records").glob("*-[0-9]*.json")):
        card = Card.from_record(json.loads(path.read_bytes()))
        found.setdefault(card.name, []).append(card)
    if not found:
        raise ValueError(f"{folder} has no records of a build; give what was --out")
    return [Card.merged(name, cards) for name, cards in found.items()]


def main(config: Config) -> list[Card]:
    """The cards, and last their total.

    Raises:
        ValueError: if a folder has none.
    """
    cards = [card for folder in config.folders for card in cards_in(folder)]
    return [*cards, Card.merged("total", cards)]


if __name__ == "__main__":
    print(show(main(tyro.cli(Config))))
