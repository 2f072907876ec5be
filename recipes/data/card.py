"""What was built from a source, beside what the paper says of it: cards that the building scripts print and add up.

The paper's figures: arXiv:2112.04482, the table of PMD's sources in section 4.1.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXAMPLES = 10  # rejected keys that a card keeps, of each reason


class Figures(NamedTuple):
    """What the paper says of a source."""

    pairs: float
    """In millions."""
    words: float
    """By caption, on average."""


PAPER: dict[str, Figures] = {
    "coco": Figures(0.9, 12.4),
    "sbu": Figures(1.0, 12.1),
    "localized_narratives": Figures(1.9, 13.8),
    "cc3m": Figures(3.1, 10.3),
    "visual_genome": Figures(5.4, 5.1),
    "wit": Figures(4.8, 12.8),
    "cc12m": Figures(11.0, 17.3),
    "redcaps": Figures(11.6, 9.5),
    "yfcc100m": Figures(30.3, 12.7),
    "total": Figures(70.0, 12.1),
}
"""By the name that a source is built under."""
PAPER_IMAGES = 68.0
"""Unique images in all of PMD, in millions."""


@dataclass
class Card:
    """What was built from a source; cards add up."""

    name: str
    pairs: int = 0
    """Samples written: pairs, images alone or packed texts."""
    words: int = 0
    """In all captions, told apart by blanks."""
    documents: int = 0
    """That texts were packed from; none for captions."""
    images: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """A number for each image, every one once."""
    rejected: Counter[str] = field(default_factory=Counter)
    """How many by reason."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """The first rejected keys by reason."""

    @property
    def unique_images(self) -> int:
        """Different images written."""
        return len(self.images)

    @property
    def average_words(self) -> float:
        """By sample."""
        return self.words / max(1, self.pairs)

    @classmethod
    def merged(cls, name: str, cards: Iterable["Card"]) -> "Card":
        """One card for all, whose images may be in several of them."""
        whole, images = cls(name), [np.empty(0, np.uint64)]
        for card in cards:
            whole.pairs += card.pairs
            whole.words += card.words
            whole.documents += card.documents
            whole.rejected += card.rejected
            images.append(card.images)
            for reason, keys in card.examples.items():
                whole.examples[reason] = [*whole.examples.get(reason, []), *keys][:_EXAMPLES]
        whole.images = np.unique(np.concatenate(images))
        return whole

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Card":
        """The card that `to_record` told of."""
        images = np.frombuffer(base64.b64decode(record["images"]), "<u8").astype(np.uint64)
        rejected = Counter(record["rejected"])
        counts = record["pairs"], record["words"], record["documents"]
        return cls(record["name"], *counts, images, rejected, record["examples"])

    def to_record(self) -> dict[str, Any]:
        """All of the card, for JSON."""
        images = base64.b64encode(self.images.astype("<u8").tobytes()).decode()
        rejected = dict(sorted(self.rejected.items()))
        told = {"name": self.name, "pairs": self.pairs, "words": self.words, "documents": self.documents}
        return told | {"rejected": rejected, "examples": self.examples, "images": images}

    def reject(self, key: str, reason: str) -> None:
        """Count a row that cannot be used."""
        self.rejected[reason] += 1
        keys = self.examples.setdefault(reason, [])
        if len(keys) < _EXAMPLES:
            keys.append(key)

    def as_json(self) -> dict[str, Any]:
        """What card.json holds."""
        paper = PAPER.get(self.name)
        theirs = None if paper is None else {"pairs": round(paper.pairs * 1e6), "average_words": paper.words}
        if theirs and self.name == "total":
            theirs["unique_images"] = round(PAPER_IMAGES * 1e6)
        return {
            "name": self.name,
            "pairs": self.pairs,
            "unique_images": self.unique_images,
            "average_words": round(self.average_words, 1),
            "documents": self.documents,
            "rejected": dict(sorted(self.rejected.items())),
            "examples": dict(sorted(self.examples.items())),
            "paper": theirs,
        }

    def __str__(self) -> str:
        return show([self])


def show(cards: Iterable[Card]) -> str:
    """Cards as a table beside the paper's figures."""
    columns = f"{'source':<22}{'pairs':>12}{'unique images':>15}{'average words':>15}"
    lines = [f"{columns}{'paper: pairs':>14}{'images':>8}{'words':>7}  rejected"]
    for card in cards:
        paper = PAPER.get(card.name)
        images = f"{PAPER_IMAGES:.1f}M" if card.name == "total" else "-"  # told for all sources together alone
        pairs, words = ("-", "-") if paper is None else (f"{paper.pairs:.1f}M", f"{paper.words:.1f}")
        theirs = f"{pairs:>14}{images:>8}{words:>7}"
        told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(card.rejected.items())) or "none"
        ours = f"{card.name:<22}{card.pairs:>12,}{card.unique_images:>15,}{card.average_words:>15.1f}"
        lines.append(f"{ours}{theirs}  {told}")
    return "\n".join(lines)


def image_number(image: bytes | str) -> int:
    """64 bits for an image's bytes or name: of 7,000 builds of 70 million, one would take two images for the same."""
    data = image if isinstance(image, bytes) else image.encode(errors="replace")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
