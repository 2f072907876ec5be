"""A page of queries with what a model finds for each, right and wrong, both ways.

Letters: I images, T texts, Q queries shown, G gallery items, E embedding width, k hits shown.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from look_page import picture_uri, write_page
from torch import Tensor

from torchflava.evaluation import ranks_of_answers, recall, top_k
from torchflava.tasks import Captioned, read_image

_HITS = 5
_SIDE = 128  # of thumbnails, in pixels


class Item(NamedTuple):
    """A caption or an image."""

    text: str
    picture: str
    """A data: address; empty for a caption."""


class Hit(NamedTuple):
    """Something that was found."""

    item: Item
    rank: int
    """From 1."""
    score: float
    """The cosine."""
    right: bool


class Query(NamedTuple):
    """What was looked for, and what was found."""

    item: Item
    rank: int
    """Of the first right answer, from 1."""
    hits: list[Hit]
    """The nearest, and the first right answer if it is not among them."""


class Way(NamedTuple):
    """All queries of one kind."""

    title: str
    anchor: str
    recalls: dict[int, float]
    num: int
    """Of all, shown or not."""
    queries: list[Query]


def write_retrieval(
    file: Path, captioned: Captioned, images: Tensor, *, texts: Tensor, num: int, wrong_first: bool, model: str
) -> None:
    """Write the page.

    Args:
        file: the page.
        captioned: I images and T texts.
        images: (I, E).
        texts: (T, E).
        num: queries shown each way, evenly spread over all.
        wrong_first: show instead those whose right answer is the farthest behind, the farthest first.
        model: what it is called.
    """
    images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    at, pictures = torch.arange(len(images)), _Pictures(captioned)
    of_texts = [Item(text, "") for text in captioned.texts]
    by_text = _Way(texts, images, captioned.owner, at)
    by_image = _Way(images, texts, at, captioned.owner)
    ways = []
    for way, title, anchor in (
        (by_text, "Captions, and the images found for them", "texts"),
        (by_image, "Images, and the captions found for them", "images"),
    ):
        asked, gallery = (of_texts, pictures) if way is by_text else (pictures, of_texts)
        ranks = ranks_of_answers(way.queries, way.gallery, way.owner, gallery_owner=way.gallery_owner)
        shown = chosen(ranks, num, wrong_first=wrong_first)
        found = [
            Query(asked[query], int(ranks[query]) + 1, [Hit(gallery[place], *told) for place, *told in hits])
            for query, hits in zip(shown.tolist(), _hits(way, shown, ranks), strict=True)
        ]
        ways.append(Way(title, anchor, recall(ranks), len(ranks), found))
    title = f"{captioned.name}, retrieval by {model}"
    write_page(file, "retrieval", {"title": title, "ways": ways, "wrong_first": wrong_first})


def chosen(ranks: Tensor, num: int, *, wrong_first: bool) -> Tensor:
    """(all,) ranks from 0 -> (Q,) places of the queries to show: evenly spread, or those answered worst, worst first."""
    if wrong_first:
        return ranks.argsort(descending=True, stable=True)[:num]
    num = min(num, len(ranks))
    return torch.arange(num) * len(ranks) // max(1, num)


class _Way(NamedTuple):
    queries: Tensor
    gallery: Tensor
    owner: Tensor
    gallery_owner: Tensor


class _Pictures:
    """Images as items, each read once, when it is first shown."""

    def __init__(self, captioned: Captioned) -> None:
        self._files = captioned.images
        self._read: dict[int, Item] = {}

    def __getitem__(self, at: int) -> Item:
        if at not in self._read:
            file = self._files[at]
            self._read[at] = Item(file.name, picture_uri(read_image(file), most=_SIDE))
        return self._read[at]


def _hits(way: _Way, shown: Tensor, ranks: Tensor) -> Iterator[list[tuple[int, int, float, bool]]]:
    """For each query shown its hits: place in the gallery, rank from 1, cosine, whether right."""
    queries = way.queries[shown]
    nearest = top_k(queries, way.gallery, _HITS)
    for query, at, places in zip(queries, shown.tolist(), nearest, strict=True):
        scores, right = way.gallery @ query, way.gallery_owner == way.owner[at]
        found = [
            (place, rank, float(scores[place]), bool(right[place])) for rank, place in enumerate(places.tolist(), 1)
        ]
        if right.any() and not right[places].any():
            best = int(scores.masked_fill(~right, -torch.inf).argmax())
            found.append((best, int(ranks[at]) + 1, float(scores[best]), True))
        yield found
