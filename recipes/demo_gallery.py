"""The images and texts that the demo searches: a user's own, or what the run held out; embedded once, at the start."""

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from demo import Demo
from evaluated import Evaluated
from evaluation_settings import kind_of
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from torchflava.data.opening import open_images, open_pairs
from torchflava.data.scenes import RetrievalScenes
from torchflava.data.shards import ShardPairs
from torchflava.transforms.image import CorruptSample, decoded

log = logging.getLogger(__name__)
_AT_ONCE = 32
_THUMBNAIL = 224  # pixels, of the longer side
_LEAST = 96  # smaller pictures are shown with sharp pixels


class Gallery(NamedTuple):
    """What can be found."""

    name: str
    files: list[bytes]
    """Thumbnails, PNG."""
    captions: list[str]
    """One an image, empty where there is none."""
    images: Tensor
    """(I, E), of length 1."""
    pixels: list[Tensor]
    """(3, H, W) uint8 each, larger ones made smaller: what is asked about."""
    lines: list[str]
    """Texts, no two alike."""
    texts: Tensor
    """(T, E), of length 1."""


def open_gallery(asked: Demo, model: Evaluated, device: torch.device) -> Gallery:
    """What `--images` and `--texts` name, or what the run held out; unreadable images are left out.

    Raises:
        ValueError: for a place that holds no image that can be read.
    """
    name, source, captioned = _source(asked)
    files, captions, rows, pixels = [], [], [], []
    for at in tqdm(range(min(len(source), asked.most)), desc="reading images", unit="image", disable=None):
        try:
            sample = source[at]
            image = decoded(sample.image)
        except CorruptSample as error:
            log.warning("image %d is left out: %s", at, error)
            continue
        files.append(thumbnail(image))
        captions.append(sample.caption.strip() if captioned else "")
        pixels.append(image if max(image.shape[1:]) <= 2 * _THUMBNAIL else _smaller(image))
        rows.append(model.view(image))
    if len(source) and not files:
        raise ValueError(f"none of the first {asked.most} images of {name} can be read; check them")
    lines = [*dict.fromkeys(line for line in (_lines(asked) or captions) if line)][: asked.most]
    assert model.embed_image is not None
    images = _embedded(model.embed_image, [row[None] for row in rows], device)
    texts = _embedded(model.embed_text, [[line] for line in lines], device) if model.embed_text else _none(device)
    return Gallery(name, files, captions, images, pixels, lines if model.embed_text else [], texts)


def thumbnail(image: Tensor, most: int = _THUMBNAIL) -> bytes:
    """(3, H, W) uint8 -> a PNG of at most `most` pixels a side; a small picture keeps its pixels, drawn large."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    times = -(-_LEAST // max(picture.size))
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _smaller(image: Tensor) -> Tensor:
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((2 * _THUMBNAIL, 2 * _THUMBNAIL), Image.Resampling.LANCZOS)
    return (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size[::-1], 3).permute(2, 0, 1)
    )


def _source(asked: Demo) -> tuple[str, Any, bool]:
    """What the images are called, samples by number, and whether they have captions."""
    if asked.images:
        try:
            return asked.images, open_pairs(asked.images), True
        except ValueError as error:
            return asked.images, _without_captions(asked.images, error), False
    folder = Path(asked.model)
    if kind_of(folder) != "pretraining":
        return "", [], False
    config = json.loads((folder / "config.json").read_bytes())
    if config.get("corpus") == "scenes":
        size = int(config["image_size"])
        return "drawn scenes, of combinations that training has not shown", RetrievalScenes(size), True
    shards = sorted(Path(config.get("data", "")).glob("microsoft-*.tar")) if config.get("corpus") == "emoji" else []
    return ("emoji of the vendor held out", ShardPairs(shards, "emoji"), True) if shards else ("", [], False)


def _without_captions(place: str, why: ValueError) -> Any:
    """The images at a place that holds no pairs; where it holds no images either, both reasons are told."""
    try:
        images = open_images(place)
    except ValueError as error:
        told = str(why) if str(error) == str(why) else f"{error}; as pairs: {why}"
        raise ValueError(told) from None
    log.warning("images are shown without captions: %s", why)
    return images


def _lines(asked: Demo) -> list[str]:
    """The texts of `--texts`, if it is given."""
    if not asked.texts:
        return []
    lines = [line for line in Path(asked.texts).read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"--texts {asked.texts} has no text; write one a line, or leave it out")
    return lines[: asked.most]


def _embedded(embed: Any, rows: Sequence[Any], device: torch.device) -> Tensor:
    """Rows of one each -> (N, E) of length 1."""
    if not rows:
        return _none(device)
    parts = []
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        joined = [text for row in some for text in row] if isinstance(some[0], list) else torch.cat([*some]).to(device)
        parts.append(F.normalize(embed(joined).float(), dim=-1))
    return torch.cat(parts)


def _none(device: torch.device) -> Tensor:
    return torch.empty(0, 1, device=device)
