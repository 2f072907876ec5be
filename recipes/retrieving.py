"""Zero-shot retrieval of images by captions and of captions by images, and again by the matching head (paper §4.2).

Letters: I images, T texts, E embedding width.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from classifying import Outcome
from evaluation_settings import ZeroShot
from features import Feeder, Reader, check_widths
from look_retrieval import write_retrieval
from results import Measured
from torch import Tensor

from torchflava.evaluation import Recalls, embed_over_ranks, reranked_retrieval, retrieval
from torchflava.tasks import Captioned, read_captioned, read_image

_KS = (1, 5, 10)
_SIZES = {"flickr30k": (1000, 5000), "coco": (5000, 25000)}
"""Images and captions of Karpathy's test splits, by the scorecard's names."""


def retrieved(config: ZeroShot, feeder: Feeder) -> Iterator[Outcome]:
    """Recall at 1, 5 and 10 both ways; with `--rerank` those of the second step too, under names of their own.

    Raises:
        ValueError: if the file cannot be used, images are damaged, or the model lacks what is asked for.
    """
    captioned = read_captioned(Path(config.retrieval), Path(config.images), config.split, most=config.captions)
    num_images, num_texts = len(captioned.images), len(captioned.texts)
    task = captioned.name if captioned.split in ("", "test") else f"{captioned.name}_{captioned.split}"
    told: dict[str, Any] = {"protocol": "zero-shot", "split": captioned.split, "captions": config.captions}
    due = _SIZES.get(task, (num_images, num_texts))
    told |= {"num_images": num_images, "num_texts": num_texts, "whole": (num_images, num_texts) == due}
    if feeder.run.leads:
        part = "" if told["whole"] else f" (of {due[0]} and {due[1]}); the number compares with no paper's"
        print(f"{task}: {num_images} images and {num_texts} captions{part}", flush=True)
    embedded = _Embedded(captioned, feeder, again=bool(config.rerank))
    check_widths(embedded.images, embedded.texts)
    first = retrieval(embedded.images, embedded.texts, captioned.owner, ks=_KS)
    yield _rows(task, first), told
    if config.page and feeder.run.leads:
        shown = {"num": config.page_queries, "wrong_first": config.wrong_first, "model": config.subject.shown}
        write_retrieval(Path(config.page), captioned, embedded.images, texts=embedded.texts, **shown)
    if config.rerank:
        batch = feeder.subject.batch_size * feeder.run.world_size
        of_pairs = {"score": embedded.score, "k": config.rerank, "ks": _KS, "batch": batch}
        second = reranked_retrieval(embedded.images, embedded.texts, captioned.owner, **of_pairs)
        yield _rows(task, second, f", the first {config.rerank} by itm"), told | {"rerank": config.rerank}


class _Embedded:
    """The embeddings of all, on every rank, and a score of pairs.

    Args:
        captioned: images and texts.
        feeder: the model.
        again: whether pairs will be scored, for which the images' views are kept.
    """

    def __init__(self, captioned: Captioned, feeder: Feeder, *, again: bool) -> None:
        evaluated = feeder.evaluated
        for function, what in (
            ("embed_image", "images be embedded"),
            *((("match", "pairs be scored"),) if again else ()),
        ):
            if getattr(evaluated, function) is None:
                raise ValueError(f"the model does not let {what}: {evaluated.without or f'its {function} is None'}")
        assert evaluated.embed_image is not None
        self._texts, self._feeder = captioned.texts, feeder
        self._views: list[Tensor] = []
        files = captioned.images
        if again:  # every rank scores pairs of any images, and so reads them all; once
            with ThreadPoolExecutor(feeder.subject.threads) as pool:
                self._views = list(pool.map(lambda file: evaluated.view(read_image(file)), files))
        self.texts = feeder.texts(captioned.texts)
        read: Reader = self._views.__getitem__ if again else lambda at: read_image(files[at])
        how = {"what": captioned.name, "everywhere": True, "viewed": again}
        self.images = feeder.images(read, len(files), evaluated.embed_image, **how)

    def score(self, image: Tensor, text: Tensor) -> Tensor:
        """(B,) and (B,) places -> (B,), shared over ranks."""

        def of_own(own: Sequence[tuple[int, int]]) -> Tensor:
            views = torch.stack([self._views[at] for at, _ in own])
            return self._feeder.matches(views, [self._texts[at] for _, at in own])

        return embed_over_ranks(list(zip(image.tolist(), text.tolist(), strict=True)), of_own).cpu()


def _rows(task: str, found: Recalls, how: str = "") -> list[Measured]:
    ways = {"tr": found.image_to_text, "ir": found.text_to_image}
    return [Measured(task, f"{way}@{k}{how}", value) for way, recalls in ways.items() for k, value in recalls.items()]
