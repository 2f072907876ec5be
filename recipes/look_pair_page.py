"""The page of a look at an image and a caption: look_pair.html filled in."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from look_drawing import heat, masked_view
from look_page import picture_uri, write_page
from look_pair import Attended, HiddenPatches, Look
from torch import Tensor

_SIDE = 336  # pixels of a picture, at least


class Shaded(NamedTuple):
    """A token and how much of the attention it gets."""

    token: str
    share: float
    strength: float
    """In shares of the token that gets the most."""


class Map(NamedTuple):
    """One way to tell where CLS_M looks."""

    title: str
    told: str
    picture: str
    words: list[Shaded]
    parts: list[tuple[str, float]]
    """How all of it is spread."""


class Cell(NamedTuple):
    """A masked patch in its place, in patches, and its codes."""

    x: int
    y: int
    predicted: int
    true: int | None
    """None without a codebook."""


class Patches(NamedTuple):
    """The hidden patches, ready to be shown."""

    seen: str
    drawn: tuple[str, str] | None
    cells: list[Cell]
    num: int
    right: int | None
    among: int | None
    num_codes: int


def write_pair(file: Path, found: Look, caption: str, *, image: str, model: str) -> None:
    """Write the page."""
    maps = [
        _map("Last fusion layer", "The mean over the heads.", found.last, found=found),
        _map("Rollout", "Over all fusion layers, with their residual branches.", found.rollout, found=found),
    ]
    told = {
        "title": caption,
        "image": image,
        "model": model,
        "found": found,
        "view": _picture(found.view),
        "maps": maps,
        "hidden": {word.place for word in found.words or ()},
        "patches": None if found.patches is None else _patches(found.view, found.patches),
    }
    write_page(file, "pair", told)


def _map(title: str, told: str, attended: Attended, *, found: Look) -> Map:
    parts = [
        ("patches", float(attended.patches.sum())),
        ("words", float(attended.words.sum())),
        ("the image's class token", attended.image_token),
        ("itself", attended.own),
    ]
    return Map(title, told, _picture(heat(found.view, attended.patches)), _shaded(found.tokens, attended.words), parts)


def _shaded(tokens: Sequence[str], words: Tensor) -> list[Shaded]:
    largest = max(float(words.max()), 1e-12)
    return [Shaded(token, share, share / largest) for token, share in zip(tokens, words.tolist(), strict=True)]


def _patches(view: Tensor, patches: HiddenPatches) -> Patches:
    side = math.isqrt(len(patches.masked))
    places = patches.masked.nonzero()[:, 0].tolist()
    predicted, true = patches.predicted.tolist(), patches.true.tolist()
    cells = [
        Cell(place % side, place // side, predicted[number], true[number] if true else None)
        for number, place in enumerate(places[: len(predicted)])
    ]
    return Patches(
        seen=_picture(masked_view(view, patches.masked)),
        drawn=None if patches.drawn is None else (_picture(patches.drawn[0]), _picture(patches.drawn[1])),
        cells=cells,
        num=len(places),
        right=int((patches.predicted == patches.true).sum()) if true else None,
        among=int(patches.among.sum()) if true else None,
        num_codes=patches.num_codes,
    )


def _picture(image: Tensor) -> str:
    return picture_uri(image, least=_SIDE, photo=False)
