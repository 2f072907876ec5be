"""What a trained model has learnt, on samples and combinations that it has not seen, beside what guessing gets.

Ranks share all of it, what is embedded and the batches whose losses are measured, so that each calls the sharded model equally
often; every rank has all readings. Nothing depends on the step, masks neither: the same weights give the same numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from corpora import Corpus, Sources, kinds
from gradients import encode_by, unlabelled
from presets import Config
from torch import Tensor

from torchflava.batch import IGNORE, Batch, ImageBatch, RawBatch, TextBatch
from torchflava.data.mixture import Mixture
from torchflava.data.prepare import prepare
from torchflava.distributed import sum_over_ranks
from torchflava.evaluation import Reading, embed_over_ranks, ranks_of_answers, recall
from torchflava.models import FlavaForPreTraining
from torchflava.training import Run
from torchflava.transforms.collate import Collate
from torchflava.transforms.image import EvalView, decoded, normalise

_BATCH = 64
_STEPS = 40  # of held-out losses: two blocks of the paper's shares


class Found(NamedTuple):
    """An image and the caption that a model finds for it, to be drawn."""

    image: Tensor
    """(3, H, W) uint8."""
    caption: str
    right: bool
    """Whether it is the image's own."""


class Measured:
    """A trained model with all that is needed to feed it; the model is sharded, so only its verbs are called."""

    def __init__(self, config: Config, corpus: Corpus, model: FlavaForPreTraining, run: Run) -> None:
        self.config, self.corpus, self.model, self.run = config, corpus, model, run
        self.view = EvalView(config.image_size)

    def embed_images(self, images: Sequence[Tensor | bytes]) -> Tensor:
        """Q images -> (Q, E)."""
        return self._seen(images, self.model.embed_image)

    def patch_states(self, images: Sequence[Tensor | bytes]) -> Tensor:
        """Q images -> (Q, N * D): the states of all patches, one place after the other."""
        return self._seen(images, lambda pixels: self.model.patch_states(pixels).float().flatten(1))

    def _seen(self, images: Sequence[Tensor | bytes], verb: Callable[[Tensor], Tensor]) -> Tensor:
        def of_own(own: Sequence[Tensor | bytes]) -> Tensor:
            views = torch.stack([self.view(decoded(image)) for image in own])
            return torch.cat([verb(normalise(part.to(self.run.device))) for part in views.split(_BATCH)])

        return embed_over_ranks(images, of_own).cpu()

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """P texts -> (P, E)."""
        tokenizer, device = self.corpus.tokenizer, self.run.device
        pad = Collate(tokenizer.vocab_size, 0, pad_id=tokenizer.pad_id).pad

        def of_own(own: Sequence[str]) -> Tensor:
            ids = [tokenizer.encode(text, self.config.max_length).ids for text in own]
            padded = [pad(ids[at : at + _BATCH]) for at in range(0, len(ids), _BATCH)]
            return torch.cat([self.model.embed_text(part.to(device), keep.to(device)) for part, keep in padded])

        return embed_over_ranks(texts, of_own).cpu()

    def mixture(self, sources: Sources, mismatch_rate: float | None = None) -> Mixture:
        """Batches of other sources, made as in training."""
        rate = self.config.mismatch_rate if mismatch_rate is None else mismatch_rate
        corpus = self.corpus._replace(sources=sources)
        ranks = self.run.world_size
        batch_size = max(1, _BATCH // ranks) * ranks
        kinds_ = kinds(corpus, replace(self.config, mismatch_rate=rate))
        # Measuring must not end a run: whatever cannot be read is replaced.
        return Mixture(kinds_, batch_size, self.config.seed, max_corrupt_fraction=1.0)

    def prepared(self, raw: RawBatch) -> Batch:
        """A raw batch, ready for the model."""
        codebook = self.corpus.codebook
        raw = unlabelled(raw) if codebook is None else raw
        return prepare(raw, self.run.device, normalise, encode_by(codebook))

    def losses(self, sources: Sources) -> list[Reading]:
        """The mean of each loss, beside what guessing by the labels' own frequencies gets."""
        totals: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        mixture = self.mixture(sources)
        for step in range(_STEPS):
            batch = self.prepared(mixture[step].batch)
            for name, loss in self.model.losses(batch).items():
                totals[name] = totals.get(name, 0) + torch.stack([loss.total, loss.num_rows]).cpu()
                counts[name] = counts.get(name, 0) + self._counts(_labels(name, batch).cpu())
        readings = []
        for name in totals:
            total, num_rows = sum_over_ranks(totals[name])
            guess = math.log(mixture.batch_size) if name == "contrastive" else _entropy(sum_over_ranks(counts[name]))
            readings.append(Reading(f"{name} loss", float(total / num_rows.clamp(min=1)), guess))
        return readings

    def _counts(self, labels: Tensor) -> Tensor:
        """How often each label occurs, of as many as any head tells apart."""
        num_codes = 0 if self.corpus.codebook is None else self.corpus.codebook.num_codes
        num_tokens = 0 if self.corpus.tokenizer is None else self.corpus.tokenizer.vocab_size
        most = max(num_tokens, num_codes, 2)
        return torch.bincount(labels[labels != IGNORE].flatten().long(), minlength=most)

    def retrieval(self, images: Sequence[Tensor | bytes], captions: Sequence[str]) -> tuple[list[Reading], list[int]]:
        """Recall both ways among pairs that all differ, and the caption found for each image."""
        image, text = self.embed_images(images), self.embed_texts(captions)
        owners, n = torch.arange(len(image)), len(image)
        readings = []
        for way, queries, gallery in (("image to text", image, text), ("text to image", text, image)):
            found = recall(ranks_of_answers(queries, gallery, owners, gallery_owner=owners), (1, 5))
            readings += [Reading(f"{way} R@{k}", value, k / n) for k, value in found.items()]
        return readings, (image @ text.T).argmax(1).tolist()


def _labels(name: str, batch: Batch) -> Tensor:
    if isinstance(batch, ImageBatch | TextBatch):
        return batch.labels
    if name in ("mmm_image", "mmm_text"):
        labels = batch.patch_labels if name == "mmm_image" else batch.token_labels
        return torch.where(batch.matched[:, None], labels, IGNORE)
    return batch.matched


def _entropy(counts: Tensor) -> float:
    """Of the labels: the loss of a model that knows their frequencies and nothing else."""
    return float(torch.special.entr(counts.double() / counts.sum().clamp(min=1)).sum())
