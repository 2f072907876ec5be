"""What is not trained on and why: what the index of shards passes over, and what was rejected when they were built."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from browse_sources import paths_of

from torchflava.data.catalog import Listed, look_up
from torchflava.data.sorting import Endings
from torchflava.data.storage import LocalFiles

_EXAMPLES = 10  # of a reason


class Reason(NamedTuple):
    """Why samples are left out."""

    reason: str
    num: int
    examples: list[str]
    """The first of their names."""


class PassedOver(NamedTuple):
    """What is left out of some shards, or was when they were built."""

    where: str
    """The index's folder, or the card's file."""
    what: str
    """The source, where the card holds several."""
    reasons: list[Reason]
    fault: str
    """Why nothing more is known; empty if all is."""


class Rejects(NamedTuple):
    """All that is not trained on, of the sources of a page."""

    indexed: list[PassedOver]
    built: list[PassedOver]


def rejects_of(sources: Iterable[Any]) -> Rejects:
    """What the indexes of some sources pass over, each folder told of once, and the cards that stand there."""
    shards: dict[Endings, dict[str, None]] = {}
    folders: dict[Path, None] = {}
    indexed = []
    for source in sources:
        local = [path for path in paths_of(source) if "://" not in path]
        folders |= dict.fromkeys(Path(path).parent for path in local)
        if hasattr(source, "endings"):
            shards.setdefault(source.endings, {}).update(dict.fromkeys(local))
        elif counts := getattr(source, "rejected", None):  # captions of a folder
            indexed.append(PassedOver(source.name, "", [Reason(*told, []) for told in sorted(counts.items())], ""))
    for endings, paths in shards.items():
        indexed += _indexed(listed_shards(list(paths), endings, []))
    return Rejects(indexed, [card for folder in folders for card in _cards(folder / "card.json")])


def listed_shards(paths: Sequence[str], endings: Endings, damaged: list[str]) -> dict[str, Listed]:
    """Where each shard is indexed; of those that cannot be opened, a sentence goes into `damaged`."""
    try:
        return dict(zip(paths, look_up(paths, endings, LocalFiles(), remote=False), strict=True))
    except ValueError:
        found = {}
    for path in paths:
        try:
            (found[path],) = look_up([path], endings, LocalFiles(), remote=False)
        except ValueError as error:
            damaged.append(str(error))
    return found


def _indexed(listed: dict[str, Listed]) -> Iterator[PassedOver]:
    """By folder."""
    folders: dict[Path, list[Listed]] = {}
    for path, shard in listed.items():
        folders.setdefault(Path(path).parent, []).append(shard)
    for folder, shards in folders.items():
        counts: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        for table, number in shards:
            of_shard = table.part(number).counts()
            counts.update(of_shard)
            room = {reason: min(n, _EXAMPLES - len(examples.get(reason, []))) for reason, n in of_shard.items()}
            for shard, name, reason in table.incomplete(number):
                if not any(room.values()):
                    break
                if room[reason]:
                    room[reason] -= 1
                    examples.setdefault(reason, []).append(f"{shard}/{name}")
        reasons = [Reason(reason, counts[reason], examples[reason]) for reason in sorted(counts)]
        yield PassedOver(str(folder), "", reasons, "")


def _cards(path: Path) -> Iterator[PassedOver]:
    """What the card says was rejected, by source; a file that is no card is told of."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        yield PassedOver(str(path), "", [], f"it cannot be read ({error})")
        return
    for card in found if isinstance(found, list) else [found]:
        rejected = card.get("rejected") if isinstance(card, dict) else None
        if not isinstance(rejected, dict):
            yield PassedOver(str(path), "", [], "it says nothing of what was rejected")
            continue
        examples = card.get("examples") if isinstance(card.get("examples"), dict) else {}
        reasons = [
            Reason(reason, count, [str(key) for key in islice(examples.get(reason) or [], _EXAMPLES)])
            for reason, count in sorted(rejected.items())
            if isinstance(count, int)
        ]
        yield PassedOver(str(path), str(card.get("name") or card.get("source") or ""), reasons, "")
