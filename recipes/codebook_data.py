"""The images that a codebook learns from, and those that it is measured on."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from codebook_settings import Dvae
from own_sources import check_images_held_out, check_window, held_out_images, own_images
from torch import Tensor

from torchflava.data.blend import choose
from torchflava.data.mixture import Kind
from torchflava.data.scenes import SceneImages
from torchflava.data.shards import ShardImages
from torchflava.transforms.image import CorruptSample, TrainViews, decoded


class Pictures(NamedTuple):
    """A batch as the loader makes it."""

    pixels: Tensor
    """(B, 3, s, s) uint8."""


class Images(NamedTuple):
    """What there is."""

    train: Any
    held_out: Any
    """Of training itself where nothing is held out."""
    unseen: bool
    """Whether it is not of training."""


def open_images(config: Dvae) -> Images:
    """The images that `config` names.

    Raises:
        ValueError: for a place that holds none, or that is held out and trained on.
    """
    if config.corpus == "scenes":
        return Images(SceneImages("train", config.image_size), SceneImages("heldout", config.image_size), True)
    if config.corpus == "emoji":
        folder = Path(config.data)
        shards = sorted(folder.glob("google-*.tar")) + sorted(folder.glob("twitter-*.tar"))
        held_out = ShardImages(sorted(folder.glob("microsoft-*.tar")), "held-out emoji")
        return Images(ShardImages(shards, "emoji images"), held_out, True)
    check_images_held_out(config.own)
    train, held_out = own_images(config.own), held_out_images(config.own)
    check_window(config.own, [train])
    return Images(train, train if held_out is None else held_out, held_out is not None)


def kind_of_batch(images: Images, config: Dvae) -> Kind:
    """How the loader makes batches: one crop of an image, at the codebook's size, which is also how pretraining shows them."""
    views = TrainViews(config.code_size, config.code_size, scale=config.crop, ratio=(1.0, 1.0), flip=config.flip)

    def row(source: Any, index: int, rng: np.random.Generator) -> Tensor:
        return views.target(views.crop(decoded(source[index].image), rng))

    def collate(rows: Sequence[Tensor]) -> Any:
        return Pictures(torch.stack(list(rows)))

    return Kind(images.train, row, collate, 1.0)


def pixels_of(source: Any, config: Dvae, most: int) -> Tensor:
    """(M, 3, s, s) uint8: the middle squares of up to `most` images, the same on every rank and at every step.

    Raises:
        ValueError: if none of them can be read.
    """
    view = TrainViews(config.code_size, config.code_size, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    made = []
    for one in choose(source, config.seed, numbers=np.arange(min(len(source), most), dtype=np.uint64)):
        with suppress(CorruptSample):
            made.append(view.target(_middle(decoded(one.source[one.at].image))))
    if not made:
        raise ValueError(f"none of the images of {source.name} could be read; check them")
    return torch.stack(made)


def _middle(image: Tensor) -> Tensor:
    """(3, H, W) -> its largest square, from the middle."""
    side = min(image.shape[1:])
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    return image[:, top : top + side, left : left + side].contiguous()
