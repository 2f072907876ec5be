"""What was learnt from two vendors' emoji, on the drawings of a third: google's and twitter's to microsoft's."""

import logging
from pathlib import Path

import torch
from measure import Found, Measured
from torch import Tensor

from torchflava.data.shards import ShardPairs
from torchflava.evaluation import Reading, class_embeddings, fit_whitening, ranks_of_answers, recall
from torchflava.transforms.image import CorruptSample, decoded

log = logging.getLogger(__name__)


def untoned(folder: Path, vendor: str) -> tuple[list[str], list[Tensor]]:
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
    return names, images


@torch.no_grad()
def measure_emoji(measured: Measured) -> tuple[list[Reading], list[Found]]:
    """Top 1 and top 5 of each emoji of the unseen style: by name, and by another vendor's drawing of the same name.

    The latter also after a whitening that is fitted to what was trained on.
    """
    folder = Path(measured.config.data)
    names, images = untoned(folder, "microsoft")
    seen_names, seen_images = untoned(folder, "google")
    twitter_names, twitter_images = untoned(folder, "twitter")
    all_names = sorted({*names, *seen_names, *twitter_names})
    number = {name: i for i, name in enumerate(all_names)}
    owners = torch.tensor([number[name] for name in names])
    unseen = measured.embed_images(images)
    texts = class_embeddings(measured.embed_texts, [[name] for name in all_names])
    readings = _recall("microsoft's image to name", unseen, texts, owners, torch.arange(len(all_names)))
    shared = [i for i, name in enumerate(seen_names) if name in set(names)]
    google = measured.embed_images([seen_images[i] for i in shared])
    google_owners = torch.tensor([number[seen_names[i]] for i in shared])
    readings += _recall("google's to microsoft's image", google, unseen, google_owners, owners)
    whiten = fit_whitening(torch.cat([google, measured.embed_images(twitter_images)]))
    whitened = whiten(google), whiten(unseen)
    readings += _recall("google's to microsoft's, whitened", *whitened, google_owners, owners)
    found = (unseen @ texts.T).argmax(1)
    shown = [
        Found(images[i], all_names[int(found[i])], int(found[i]) == int(owners[i]))
        for i in range(0, len(images), max(1, len(images) // 16))
    ][:16]
    held_out = ShardPairs(sorted(folder.glob("microsoft-*.tar")), "microsoft")
    return readings + measured.losses(measured.corpus.sources._replace(pairs=held_out)), shown


def _recall(name: str, queries: Tensor, gallery: Tensor, owners: Tensor, of_gallery: Tensor) -> list[Reading]:
    found = recall(ranks_of_answers(queries, gallery, owners, gallery_owner=of_gallery), (1, 5))
    return [Reading(f"{name} R@{k}", value, k / len(gallery)) for k, value in found.items()]
