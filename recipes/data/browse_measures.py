"""How long texts are, how large images, what is frequent and what cannot be read, over samples that a key draws."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from browse_sources import drawn, image_in, key_of, text_in

from torchflava.data.mixture import Kind
from torchflava.data.order import key, keyed_rng
from torchflava.data.rows import PairRows, TextRows
from torchflava.transforms.image import CorruptSample, decoded
from torchflava.transforms.tokenizer import TextTokenizer

_LOOKED_AT = 10_000  # characters of a text in which words are counted
_SHOWN = 200  # characters of a caption
_LONGEST = 1 << 16  # tokens that are counted
_BEGIN = 16  # bytes of a broken image


class Unread(NamedTuple):
    """A sample that cannot be read."""

    key: str
    reason: str
    """Without what changes from sample to sample, so that reasons can be counted."""
    begin: str
    """The first bytes of an image that cannot be decoded, escaped; empty if they are not to be had."""


class Caption(NamedTuple):
    """A text, told apart from all others and short enough to be kept."""

    begin: str
    of: int
    """A number for the whole text."""


@dataclass
class Measures:
    """What was found in the samples of one kind."""

    num: int
    """Samples that were looked at."""
    of: int
    """Samples that there are."""
    max_length: int | None
    """Tokens of a text, at which training cuts; None without texts."""
    varied: bool
    """Whether a caption is told anew each time; tokens are then counted in one such telling."""
    unread: list[Unread] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    """By text, as are `tokens`."""
    tokens: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Width and height by image, in pixels."""
    num_bytes: list[int] = field(default_factory=list)
    """By image file."""
    captions: Counter[Caption] = field(default_factory=Counter)
    frequent: Counter[str] = field(default_factory=Counter)
    """Texts by word."""

    @property
    def num_cut(self) -> int:
        """Texts that training cuts."""
        return sum(n > (self.max_length or _LONGEST) for n in self.tokens)


def measure(kind: Kind, tokenizer: TextTokenizer | None, num: int, *, seed: int) -> Measures:
    """Look at `num` samples of a kind, or at all if there are fewer.

    Args:
        kind: of a mixture.
        tokenizer: None where there are no texts.
        num: samples.
        seed: of the run; it draws them.
    """
    rows = kind.row.texts if isinstance(kind.row, PairRows) else kind.row
    vary = kind.row.vary if isinstance(kind.row, PairRows) else None
    chosen = drawn(kind.source, num, seed=seed)
    max_length = rows.max_length if isinstance(rows, TextRows) else None
    found = Measures(len(chosen), len(kind.source), max_length, vary is not None)
    for sample in chosen:
        image: Any = None
        try:
            read = sample.source[sample.at]
            image = image_in(read)
            size = None if image is None else decoded(image).shape[:0:-1]
            text = text_in(read)
            told = vary(text, keyed_rng(seed, "browse", sample.source.name, sample.at)) if text and vary else text
            num_tokens = len(tokenizer.encode(told, _LONGEST).ids) if told and tokenizer else 0
        except ValueError as error:  # a CorruptSample, or a text that is no Unicode
            name = key_of(sample.source, sample.at)
            begin = repr(image[:_BEGIN])[2:-1] if isinstance(image, bytes) else ""
            found.unread.append(Unread(name, reason_of(error, name), begin))
            continue
        if size is not None:
            found.sizes.append(size)
            found.num_bytes += [len(image)] if isinstance(image, bytes) else []
        if text is not None:
            _add_text(found, text, num_tokens)
    return found


def _add_text(found: Measures, text: str, num_tokens: int) -> None:
    found.words.append(len(text.split()))
    found.tokens.append(num_tokens)
    found.captions[Caption(text[:_SHOWN] + "…" * (len(text) > _SHOWN), key(text))] += 1
    found.frequent.update(set(re.findall(r"[^\W_]+", text[:_LOOKED_AT].lower())))


def reason_of(error: ValueError, name: str) -> str:
    """Why a sample cannot be read, in words that others share: without names, paths, numbers and addresses in memory."""
    told = str(error).removeprefix(f"{name}: ")
    if told == str(error) and isinstance(error, CorruptSample) and error.__cause__ is not None:
        told = f"{type(error.__cause__).__name__}: {error.__cause__}"
    told = re.sub(r"\S*/\S+", "…", re.sub(r" ?<[^<>]*>", "", told))
    return re.sub(r"0x[0-9a-f]+|(?<![\w-])\d+", "#", told)[:120]
