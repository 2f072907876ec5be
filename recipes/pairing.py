"""How well pairs of image and text that belong together are told from those that do not, without training.

Letters: N pairs, S side of an image, E embedding width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from classifying import Outcome
from evaluation_settings import ZeroShot
from features import Feeder, check_widths
from results import Measured
from torch import Tensor

from torchflava.evaluation import auroc, embed_over_ranks
from torchflava.tasks import own_pairs, read_image
from torchflava.tasks.examples import Example

_WAVE = 64  # batches of each rank between two gatherings


def told_apart(config: ZeroShot, feeder: Feeder) -> Iterator[Outcome]:
    """AUROC of the cosine of both embeddings, and of the matching head where the model has one.

    Raises:
        ValueError: if rows or images cannot be used, or the model lacks what is asked for.
    """
    file = Path(config.pairs)
    pairs = own_pairs(file, images=Path(config.images) if config.images else None)
    labels = torch.tensor([pair.target for pair in pairs])
    settings = {"protocol": "zero-shot", "pairs": config.pairs, "num_pairs": len(pairs)}
    scores = {"auroc": by_cosine(pairs, feeder)}
    if feeder.evaluated.match is not None:
        scores["auroc, by itm"] = by_matching_head(pairs, feeder)
    yield [Measured(file.stem, metric, auroc(of_pairs, labels)) for metric, of_pairs in scores.items()], settings


def by_cosine(pairs: Sequence[Example], feeder: Feeder) -> Tensor:
    """(N,): of embeddings; each image and each text is embedded once.

    Raises:
        ValueError: if the model embeds none.
    """
    embed = feeder.evaluated.embed_image
    if embed is None:
        raise ValueError(f"images cannot be embedded: {feeder.evaluated.without or 'embed_image is None'}")
    files = list(dict.fromkeys(_file(pair) for pair in pairs))
    texts = list(dict.fromkeys(_text(pair) for pair in pairs))
    seen = feeder.images(lambda at: read_image(files[at]), len(files), embed, what="images", everywhere=True)
    read = feeder.texts(texts)
    check_widths(seen, read)
    of_file, of_text = ({one: at for at, one in enumerate(ones)} for ones in (files, texts))
    left = seen[[of_file[_file(pair)] for pair in pairs]]
    right = read[[of_text[_text(pair)] for pair in pairs]]
    return torch.cosine_similarity(left.double(), right.double())


def by_matching_head(pairs: Sequence[Example], feeder: Feeder) -> Tensor:
    """(N,): the head's logit, which looks at image and text together; shared over ranks."""
    view, size = feeder.evaluated.view, feeder.subject.batch_size

    def of_own(own: Sequence[Example]) -> Tensor:
        parts = []
        for start in range(0, len(own), size):
            part = own[start : start + size]
            views = torch.stack([view(read_image(_file(pair))) for pair in part])
            parts.append(feeder.matches(views, [_text(pair) for pair in part]))
        return torch.cat(parts)

    wave = _WAVE * size * feeder.run.world_size
    return torch.cat([embed_over_ranks(pairs[at : at + wave], of_own).cpu() for at in range(0, len(pairs), wave)])


def _file(pair: Example) -> Path:
    assert pair.image is not None
    return pair.image


def _text(pair: Example) -> str:
    assert pair.text is not None
    return pair.text
