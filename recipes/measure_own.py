"""What was learnt from a user's own data, on the pairs that `--held-out` names: retrieval both ways, matching, and the losses."""

import hashlib
import logging
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from corpora import Sources
from measure import Found, Measured
from measure_scenes import matching
from own_sources import Captions, held_out_pairs
from torch import Tensor

from torchflava.codebooks import code_usage
from torchflava.data.blend import choose
from torchflava.data.order import keyed_rng, permute
from torchflava.evaluation import Reading
from torchflava.transforms.image import CorruptSample, EvalView, decoded

_MOST = 1000  # pairs that retrieval is measured among, as in Flickr30K's test split
_CODED = 256  # images whose codes are looked at
_TRIED = 4  # times as many samples, at most, to find so many that differ

log = logging.getLogger(__name__)


class Pairs(NamedTuple):
    """Images and captions, no two of which are equal."""

    images: list[Tensor]
    """(3, S, S) uint8: the encoder's views, so that memory is bounded."""
    captions: list[str]


@torch.no_grad()
def measure_own(measured: Measured) -> tuple[list[Reading], list[Found]]:
    """Recall at 1 and 5 among up to 1,000 held-out pairs, matching and the losses; without held-out pairs, codes alone."""
    config, sources = measured.config, measured.corpus.sources
    images = sources.images or sources.pairs
    readings = [] if images is None or measured.corpus.codebook is None else [codes_used(measured, images)]
    held_out = held_out_pairs(config.own)
    if held_out is None:
        return readings, []
    there = Sources(held_out, held_out, Captions(held_out), sources.views)
    shown = []
    if config.shares.pair and measured.model.contrastive is not None:
        pairs = different(held_out, config.seed, config.image_size)
        if len(pairs.captions) > 1:
            retrieved, found = measured.retrieval(pairs.images, pairs.captions)
            readings = [*retrieved, *readings]
            shown = [
                Found(pairs.images[i], pairs.captions[found[i]], found[i] == i) for i in range(min(16, len(found)))
            ]
    try:
        if config.shares.pair and measured.model.itm is not None:
            readings.append(Reading("matching AUROC", matching(measured, there), 0.5))
        readings += measured.losses(there)
    except CorruptSample as error:  # a thousand in a row, which every rank finds: measuring ends no run
        log.warning("of the held-out pairs no more is measured: %s", error)
    return readings, shown


def codes_used(measured: Measured, images: Any) -> Reading:
    """The share of the codebook's codes that occur in some of the images that are trained on."""
    codebook, views = measured.corpus.codebook, []
    for one in choose(images, measured.config.seed, numbers=np.arange(min(len(images), _CODED), dtype=np.uint64)):
        with suppress(CorruptSample):
            image = decoded(one.source[one.at].image)
            views.append(measured.corpus.sources.views(image, keyed_rng("codes", one.at))[1])
    parts = torch.stack(views).split(16)
    usage = code_usage(
        torch.cat([codebook.encode(part.to(measured.run.device)).cpu() for part in parts]), codebook.num_codes
    )
    return Reading("codes used", usage.used / codebook.num_codes, 1 / codebook.num_codes)


def different(held_out: Any, seed: int, image_size: int) -> Pairs:
    """Up to 1,000 held-out pairs that can be read, of different images and captions: equal ones would count as wrong."""
    n = len(held_out)
    view, pairs = EvalView(image_size), Pairs([], [])
    seen: set[str] = set()
    for at in permute(n, seed, np.arange(min(n, _TRIED * _MOST), dtype=np.uint64)):
        try:
            sample = held_out[int(at)]
            image = decoded(sample.image)
        except CorruptSample as error:
            log.warning("held-out sample %d is left out: %s", at, error)
            continue
        both = {hashlib.blake2b(image.numpy().tobytes()).hexdigest(), sample.caption.strip().lower()}
        if not both & seen:
            seen |= both
            pairs.images.append(view(image))
            pairs.captions.append(sample.caption)
        if len(pairs.captions) == _MOST:
            break
    return pairs
