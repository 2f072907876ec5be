"""What was learnt from two vendors' emoji, on the drawings of a third: google's and twitter's to microsoft's."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from measure import Found, Measured
from torch import Tensor

from torchflava.data.shards import ShardPairs
from torchflava.evaluation import Reading, class_embeddings, fit_whitening, ranks_of_answers, recall
from torchflava.transforms.image import CorruptSample, EvalView, decoded

_SHRINK = 0.03  # of whitening, in largest standard deviations
_WIDEST = 4096  # numbers of an image that are whitened; more would take minutes and gigabytes

log = logging.getLogger(__name__)


class Drawn(NamedTuple):
    """A vendor's emoji."""

    names: list[str]
    images: list[Tensor]


def untoned(folder: Path, vendor: str) -> Drawn:
    """Names and images of a vendor's emoji without a skin tone, in the order of the shards."""
    source = ShardPairs(sorted(folder.glob(f"{vendor}-*.tar")), vendor)
    names, images = [], []
    for i in range(len(source)):
        meta = source.meta(i)
        if meta["tones"]:
            continue
        try:
            images.append(decoded(source[i].image))
            names.append(str(meta["name"]))
        except CorruptSample as error:
            log.warning("%s, sample %d is left out: %s", vendor, i, error)
    return Drawn(names, images)


@torch.no_grad()
def measure_emoji(measured: Measured) -> tuple[list[Reading], list[Found]]:
    """Top 1 and top 5 of each emoji of the unseen style: by name, and by another vendor's drawing of the same name."""
    folder = Path(measured.config.data)
    google, twitter, unseen = (untoned(folder, vendor) for vendor in ("google", "twitter", "microsoft"))
    names = sorted({*google.names, *twitter.names, *unseen.names})
    number = {name: i for i, name in enumerate(names)}
    owners = torch.tensor([number[name] for name in unseen.names])
    embedded = measured.embed_images(unseen.images)
    texts = class_embeddings(measured.embed_texts, [[name] for name in names])
    readings = _recall("microsoft's image to name", embedded, texts, owners, torch.arange(len(names)))
    readings += _across_styles(measured, google, twitter, unseen)
    found = (embedded @ texts.T).argmax(1)
    shown = [
        Found(unseen.images[i], names[int(found[i])], int(found[i]) == int(owners[i]))
        for i in range(0, len(owners), max(1, len(owners) // 16))
    ][:16]
    held_out = ShardPairs(sorted(folder.glob("microsoft-*.tar")), "microsoft")
    return readings + measured.losses(measured.corpus.sources._replace(pairs=held_out)), shown


def _across_styles(measured: Measured, google: Drawn, twitter: Drawn, unseen: Drawn) -> list[Reading]:
    """Google's emoji as queries, microsoft's of the same name as answers, by several views of an image.

    Each view also after a whitening that is fitted to google's and twitter's, without names, unless it has too many numbers.
    Pixels say what no learning gets.
    """
    number = {name: i for i, name in enumerate(unseen.names)}
    asked = [i for i, name in enumerate(google.names) if name in number]
    owners = torch.tensor([number[google.names[i]] for i in asked]), torch.arange(len(unseen.names))
    readings = []
    for by, see in (("embedding", measured.embed_images), ("patch states", measured.patch_states), ("pixels", _pixels)):
        seen, answers = see(google.images), see(unseen.images)
        readings += _recall(f"google's to microsoft's by {by}", seen[asked], answers, *owners)
        if seen.shape[1] <= _WIDEST:
            whiten = fit_whitening(torch.cat([seen, see(twitter.images)]), shrink=_SHRINK)
            readings += _recall(
                f"google's to microsoft's by {by}, white", whiten(seen[asked]), whiten(answers), *owners
            )
    return readings


def _pixels(images: Sequence[Tensor | bytes]) -> Tensor:
    """Q images -> (Q, 768): 16 x 16 pixels as they are."""
    small = EvalView(16)
    return torch.stack([small(decoded(image)).float().flatten() for image in images])


def _recall(name: str, queries: Tensor, gallery: Tensor, owners: Tensor, of_gallery: Tensor) -> list[Reading]:
    found = recall(ranks_of_answers(queries, gallery, owners, gallery_owner=of_gallery), (1, 5))
    return [Reading(f"{name} R@{k}", value, k / len(gallery)) for k, value in found.items()]
