"""The tasks that a model of emoji is scored by, as files that the recipes read: made of the shards of recipes/data/emoji.py.

Emoji that all vendors drew count, without skin tones. Google's and twitter's drawings are learnt from, microsoft's measured on.
Where the emoji itself is to be new as well, a keyed fifth is held out, with its kin: of an emoji for a person the man's, the
woman's and the neutral one. docs/emoji_scorecard.md says what each task asks.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from torchflava.data.shards import ShardPairs

LEARNT, UNSEEN = ("google", "twitter"), "microsoft"
"""Vendors."""
LEVELS = {"group": "emoji_groups", "subgroup": "emoji_subgroups"}
"""What an emoji belongs to, and the task of telling it."""
_CAPTIONS = 5
_PERSONS = ("1f468", "1f469", "1f9d1", "2640", "2642", "200d", "fe0f", "27a1")
"""Man, woman, adult, the two signs, the joiner, the variation, and to the right: what tells kin apart."""
SEPARATOR = "; "
"""Between the name and keywords, as in the captions that are trained on."""


class Emoji(NamedTuple):
    """One that all vendors drew."""

    codepoints: str
    """Hexadecimal, joined by hyphens, in small letters."""
    name: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def kin(self) -> str:
        """The same for the man's, the woman's and the neutral form."""
        rest = [part for part in self.codepoints.split("-") if part not in _PERSONS]
        return "-".join(rest) or self.codepoints

    @property
    def split(self) -> str:
        """train, valid or new, a fifth each of the last two, by a hash of the kin."""
        return {0: "new", 1: "valid"}.get(int(digest("split", self.kin), 16) % 5, "train")

    def is_told_by(self, text: str) -> bool:
        """Whether a word or words are true of it: a keyword, or words of the name, whatever the case."""
        return _words(text) in _told_of(self)


class Layout(NamedTuple):
    """What was laid out."""

    emoji: list[Emoji]
    files: Mapping[str, Mapping[str, str]]
    """Vendor -> codepoints -> the image's path below `images/`."""
    folder: Path


def lay_out(shards: Path, folder: Path) -> Layout:
    """Write all images and all tasks but the pairs below `folder`; what is there already is written anew, the same.

    Raises:
        ValueError: if shards are missing, or all vendors have too few emoji in common.
    """
    laid = Layout(*_images(shards, folder / "images"), folder)
    _classes(laid, "emoji_names", lambda emoji: emoji.codepoints, lambda emoji: emoji.name)
    for level, task in LEVELS.items():
        _classes(laid, task, attrgetter(level), lambda emoji, of=attrgetter(level): spoken(of(emoji)))
    _captions(laid)
    for level, task in LEVELS.items():
        _probes(laid, level, task)
    return laid


def digest(*parts: str) -> str:
    """A number by which things are put in an order that is random and the same everywhere."""
    return sha256("/".join(parts).encode()).hexdigest()


def spoken(key: str) -> str:
    """face-smiling -> face smiling."""
    return key.replace("-", " ")


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def captions_of(emoji: Sequence[Emoji]) -> dict[str, dict[str, list[str]]]:
    """Task -> codepoints -> captions that are right for this emoji and for no other.

    By name alone; by the name and the name with each of up to four keywords; and by keywords without the name, five at most: all
    of them together, and those that are told of no other emoji. A keyword that is told of several emoji is no caption by itself,
    and an emoji that no keywords tell from all others is left out of the third task.
    """
    found: dict[str, dict[str, list[str]]] = {"emoji_names": {}, "emoji_captions": {}, "emoji_keywords": {}}
    told = {word for one in emoji for word in one.keywords}
    of_word = {word: [one.codepoints for one in emoji if one.is_told_by(word)] for word in told}
    for one in emoji:
        keywords = sorted(one.keywords, key=lambda word: digest("captions", one.codepoints, word))
        found["emoji_names"][one.codepoints] = [one.name]
        with_name = [f"{one.name}{SEPARATOR}{word}" for word in keywords]
        found["emoji_captions"][one.codepoints] = [one.name, *with_name][:_CAPTIONS]
        alone = [word for word in keywords if of_word[word] == [one.codepoints]]
        together = set.intersection(*({*of_word[word]} for word in keywords)) if keywords else set()
        captions = [SEPARATOR.join(one.keywords)] if together == {one.codepoints} else []
        captions += [word for word in alone if word not in captions]
        if captions:
            found["emoji_keywords"][one.codepoints] = captions[:_CAPTIONS]
    return found


def _images(shards: Path, folder: Path) -> tuple[list[Emoji], dict[str, dict[str, str]]]:
    found: dict[str, dict[str, Emoji]] = {}
    for vendor in (*LEARNT, UNSEEN):
        if not (places := sorted(shards.glob(f"{vendor}-*.tar"))):
            raise ValueError(f"there is no {shards}/{vendor}-*.tar; build it by recipes/data/emoji.py --out {shards}")
        source = ShardPairs(places, vendor)
        found[vendor] = {}
        (folder / vendor).mkdir(parents=True, exist_ok=True)
        for at in range(len(source)):
            emoji = _emoji(source.meta(at))
            if emoji is not None:
                found[vendor][emoji.codepoints] = emoji
                (folder / _file(vendor, emoji.codepoints)).write_bytes(source[at].image)
    common = set.intersection(*({*own} for own in found.values()))
    emoji = [found[UNSEEN][codes] for codes in sorted(common)]
    if {one.split for one in emoji} < {"train", "valid", "new"}:
        raise ValueError(f"{shards} has {len(emoji)} emoji that all of {', '.join(found)} drew; some dozens are due")
    return emoji, {vendor: {codes: _file(vendor, codes) for codes in common} for vendor in found}


def _emoji(meta: Mapping[str, Any]) -> Emoji | None:
    if meta["tones"]:
        return None
    keywords = tuple(dict.fromkeys(map(str, meta["keywords"])))
    return Emoji(meta["codepoints"].lower(), meta["name"], keywords, meta["group"], meta["subgroup"])


def _file(vendor: str, codepoints: str) -> str:
    """By what it holds Pillow knows its format, whatever the ending says."""
    return f"{vendor}/{codepoints}.{'webp' if vendor == UNSEEN else 'png'}"


def _classes(laid: Layout, task: str, of: Callable[[Emoji], str], name: Callable[[Emoji], str]) -> None:
    """A folder for each class with microsoft's drawings, and what the classes are called."""
    folder = laid.folder / "classes"
    names = {of(emoji): name(emoji) for emoji in laid.emoji}
    for emoji in laid.emoji:
        place = folder / task / of(emoji)
        place.mkdir(parents=True, exist_ok=True)
        image = laid.folder / "images" / laid.files[UNSEEN][emoji.codepoints]
        (place / image.name).write_bytes(image.read_bytes())
    told = "".join(f"{names[one]}\n" for one in sorted(names))
    (folder / f"{task}.names.txt").write_text(told, encoding="utf-8")
    (folder / "templates.txt").write_text("{}\n")  # captions are bare names


def _captions(laid: Layout) -> None:
    for task, captions in captions_of(laid.emoji).items():
        rows = [
            {"image": laid.files[UNSEEN][codes], "caption": caption}
            for codes, texts in captions.items()
            for caption in texts
        ]
        write_rows(laid.folder / "captions" / f"{task}.jsonl", rows)


def _probes(laid: Layout, level: str, task: str) -> None:
    """In a new style: learnt from google's, λ chosen on twitter's. Of new emoji too: three parts of them, by `Emoji.split`."""
    splits = {"train": ("google",), "valid": ("twitter",), "test": (UNSEEN,)}
    for split, vendors in splits.items():
        _labelled(laid, level, laid.folder / "labelled" / task / f"{split}.jsonl", vendors)
    parts = {"train": (LEARNT, "train"), "valid": (LEARNT, "valid"), "test": ((UNSEEN,), "new")}
    for split, (vendors, part) in parts.items():
        _labelled(laid, level, laid.folder / "labelled" / f"{task}_new" / f"{split}.jsonl", vendors, part=part)


def _labelled(laid: Layout, level: str, file: Path, vendors: Sequence[str], *, part: str = "") -> None:
    """Of a part the classes that are learnt in training: what no training emoji belongs to is left out of all three."""
    known = {getattr(emoji, level) for emoji in laid.emoji if not part or emoji.split == "train"}
    rows = [
        {"image": laid.files[vendor][emoji.codepoints], "label": getattr(emoji, level)}
        for vendor in vendors
        for emoji in laid.emoji
        if (not part or emoji.split == part) and getattr(emoji, level) in known
    ]
    write_rows(file, rows)


@cache
def _told_of(emoji: Emoji) -> frozenset[tuple[str, ...]]:
    """All runs of words in its name and its keywords."""
    told = [_words(text) for text in (emoji.name, *emoji.keywords)]
    return frozenset(
        words[at:end] for words in told for at in range(len(words)) for end in range(at + 1, len(words) + 1)
    )


@cache
def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|[^\w\s]+", text.casefold()))
