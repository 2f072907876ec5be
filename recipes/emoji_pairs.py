"""Entailment and matching of emoji: pairs of an image and a text, as many true as not, whichever side is looked at.

False pairs are the true ones with their texts put at other emoji. So in each file each text is as often true as false, and so is
each image: what only reads, or only looks, is right half of the time.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from emoji_layouts import LEARNT, UNSEEN, Emoji, Layout, digest, write_rows

ENTAILMENT, MATCHING = "emoji_entailment", "emoji_matching"
_COMMONEST = 1 / 3
"""Of a split's emoji: a keyword that is true of more could hardly be false as often."""
_TRIES = 200


class Pair(NamedTuple):
    """An emoji and a text, a keyword or a name."""

    emoji: Emoji
    text: str


Drawn = tuple[str, Sequence[Pair], Sequence[Pair]]
"""A vendor's drawings with the true pairs and the false ones."""


def lay_out_pairs(laid: Layout) -> None:
    """Write the files of both tasks: to learn from; and of microsoft's, to measure on.

    Entailment is measured on emoji that were learnt from (seen) and on the others (new), with false pairs of their own. Matching
    is measured on the others, with names of any emoji (any) and with names from the same subgroup (near).
    """
    seen = [emoji for emoji in laid.emoji if emoji.split != "new"]
    new = [emoji for emoji in laid.emoji if emoji.split == "new"]
    _write(laid, f"{ENTAILMENT}_train", [_entailed(vendor, seen, vendor) for vendor in LEARNT])
    _write(laid, f"{ENTAILMENT}_seen", [_entailed(UNSEEN, seen, "seen")])
    _write(laid, f"{ENTAILMENT}_new", [_entailed(UNSEEN, new, "new")])
    first, second = LEARNT
    _write(laid, f"{MATCHING}_train", [_named(first, seen, "train"), _named_near(second, seen)])
    _write(laid, f"{MATCHING}_any", [_named(UNSEEN, new, "new")])
    _write(laid, f"{MATCHING}_near", [_named_near(UNSEEN, new)])


def false_pairs(true: Sequence[Pair], key: str, fits: Callable[[Pair], bool]) -> list[Pair]:
    """The texts of the true pairs, each put at another emoji where it `fits`, none twice: a permutation by `key`.

    Raises:
        ValueError: if none is found, as where a text is true of nearly all.
    """
    order = sorted(range(len(true)), key=lambda at: digest(key, true[at].emoji.codepoints, true[at].text))
    texts = [true[order[at]].text for at in range(len(true))]
    of = [true[order[at - 1]].emoji for at in range(len(true))]
    drawing = Random(digest(key))
    taken = Counter(map(Pair, of, texts))

    def is_good(at: int) -> bool:
        pair = Pair(of[at], texts[at])
        return taken[pair] == 1 and fits(pair)

    def swap(one: int, other: int) -> None:
        taken.subtract((Pair(of[one], texts[one]), Pair(of[other], texts[other])))
        texts[one], texts[other] = texts[other], texts[one]
        taken.update((Pair(of[one], texts[one]), Pair(of[other], texts[other])))

    for at in range(len(texts)):
        tries = 0
        while not is_good(at):
            other = drawing.randrange(len(texts))
            was = is_good(other)
            swap(at, other)
            if not is_good(at) or (was and not is_good(other)):
                swap(at, other)
            tries += 1
            if tries > _TRIES * len(texts):
                raise ValueError(f"{texts[at]!r} is true of too many of the {len(texts)} pairs to be false as often")
    return [Pair(emoji, text) for emoji, text in zip(of, texts, strict=True)]


def _entailed(vendor: str, emoji: Sequence[Emoji], key: str) -> Drawn:
    """Keywords; false ones are no keyword of the emoji and no part of its name or keywords."""
    counts = Counter(word for one in emoji for word in one.keywords)
    true = [Pair(one, word) for one in emoji for word in one.keywords if counts[word] <= _COMMONEST * len(emoji)]
    return vendor, true, false_pairs(true, f"entailment {key}", lambda pair: not pair.emoji.is_told_by(pair.text))


def _named(vendor: str, emoji: Sequence[Emoji], key: str) -> Drawn:
    """Names, false ones of any other emoji."""
    true = [Pair(one, one.name) for one in emoji]
    return vendor, true, false_pairs(true, f"matching {key}", lambda pair: pair.text != pair.emoji.name)


def _named_near(vendor: str, emoji: Sequence[Emoji]) -> Drawn:
    """Names, false ones of another emoji of the same subgroup; the only emoji of a subgroup is left out."""
    true, false = [], []
    for subgroup in sorted({one.subgroup for one in emoji}):
        own = [one for one in emoji if one.subgroup == subgroup]
        own.sort(key=lambda one: digest("near", one.codepoints))
        if len(own) > 1:
            true += [Pair(one, one.name) for one in own]
            false += [Pair(one, other.name) for one, other in zip(own, [*own[1:], own[0]], strict=True)]
    return vendor, true, false


def _write(laid: Layout, name: str, drawn: Sequence[Drawn]) -> None:
    rows: list[dict[str, Any]] = []
    for vendor, true, false in drawn:
        for label, pairs in ((1, true), (0, false)):
            rows += [
                {"image": laid.files[vendor][pair.emoji.codepoints], "text": pair.text, "label": label}
                for pair in pairs
            ]
    rows.sort(key=lambda row: digest(name, row["image"], row["text"], str(row["label"])))
    write_rows(laid.folder / "pairs" / f"{name}.jsonl", rows)
