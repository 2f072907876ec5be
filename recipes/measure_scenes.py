"""What was learnt from the scenes: combinations of colour and shape that no training sample held."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from corpora import Sources
from measure import Found, Measured
from numpy.random import Generator
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from torchflava.batch import IGNORE, PairBatch
from torchflava.codebooks import code_usage
from torchflava.data.order import keyed_rng
from torchflava.data.rows import ImageRows, PairRows, TextRows, Tokens
from torchflava.data.scene_grammar import COLOUR_WORDS
from torchflava.data.scene_layout import COLOURS, SHAPES
from torchflava.data.scenes import (
    RetrievalScenes,
    SceneClasses,
    SceneImages,
    ScenePairs,
    SceneTexts,
    zero_shot_classes,
    zero_shot_prompts,
)
from torchflava.distributed import gather, sum_over_ranks
from torchflava.evaluation import Reading, class_embeddings, embed_over_ranks, top_k_accuracy
from torchflava.transforms.collate import Collate

_STEPS = 8  # batches of pairs for matching and for colour words


@torch.no_grad()
def measure_scenes(measured: Measured) -> tuple[list[Reading], list[Found]]:
    """Zero-shot classification, retrieval both ways, matching, masked words with and without the image, and losses."""
    side = measured.config.image_size
    sources = Sources(
        ScenePairs("heldout", side), SceneImages("heldout", side), SceneTexts("heldout"), measured.corpus.sources.views
    )
    scenes = [RetrievalScenes(side)[i] for i in range(256)]
    retrieved, found = measured.retrieval([s.image for s in scenes], [s.caption for s in scenes])
    readings = [*zero_shot(measured), *retrieved]
    paired = bool(measured.config.shares.pair)
    if paired and measured.model.itm is not None:
        readings.append(Reading("matching AUROC", matching(measured, sources), 0.5))
    if paired and measured.model.mmm_text is not None:
        readings += colour_words(measured, sources)
    if measured.corpus.codebook is not None:
        readings.append(codes_used(measured, sources))
    shown = [Found(scenes[i].image, scenes[found[i]].caption, found[i] == i) for i in range(16)]
    return readings + measured.losses(sources), shown


def zero_shot(measured: Measured) -> list[Reading]:
    """Accuracy on held-out combinations, among themselves and among all; of the latter, how often colour and shape are right.

    Who knows the colours alone is right half of the time among the unseen, for each colour is held out with two shapes.
    """
    readings = []
    for among, classes in (("16 unseen", zero_shot_classes("heldout")), ("all 64", zero_shot_classes(None))):
        source = SceneClasses("heldout", measured.config.image_size, among=classes)
        samples = [source[i] for i in range(len(source))]
        names = class_embeddings(measured.embed_texts, [zero_shot_prompts(name) for name in classes])
        images = measured.embed_images([s.image for s in samples])
        labels = torch.tensor([s.label for s in samples])
        readings.append(Reading(f"zero-shot, {among}", top_k_accuracy(images, names, labels), 1 / len(classes)))
        if among == "all 64":
            readings += _by_part([classes[at] for at in (images @ names.T).argmax(1)], [classes[at] for at in labels])
    return readings


def _by_part(found: Sequence[str], shown: Sequence[str]) -> list[Reading]:
    """How often the colour, and how often the shape of a class such as "red circle" was found."""
    readings = []
    for part, names in zip(("colour", "shape"), (COLOURS, SHAPES), strict=True):
        right = sum(f.split()[part == "shape"] == s.split()[part == "shape"] for f, s in zip(found, shown, strict=True))
        readings.append(Reading(f"zero-shot, all 64: {part}", right / len(shown), 1 / len(names)))
    return readings


def matching(measured: Measured, sources: Sources) -> float:
    """How well the matching head tells an image's own masked text from another's: the area under the ROC curve."""
    mixture = measured.mixture(sources, mismatch_rate=0.5)
    scores, matched = [], []
    for step in range(3 * _STEPS):
        planned = mixture[step]
        if planned.kind == "pair":
            batch = measured.prepared(planned.batch)
            assert isinstance(batch, PairBatch)
            scores.append(measured.model.match_logits(batch).float().softmax(1)[:, 1].cpu())
            matched.append(batch.matched.cpu())
    both = gather(torch.stack([torch.cat(scores), torch.cat(matched).float()], dim=1), "none")
    return float(binary_auroc(both[:, 0], both[:, 1].long()))


def colour_words(measured: Measured, sources: Sources) -> list[Reading]:
    """The share of masked colour words that are found with the image, and with another's image in its place."""
    ranks, first = measured.run.world_size, measured.run.rank
    right, counts = torch.zeros(2), torch.zeros(measured.corpus.tokenizer.vocab_size)
    # Every rank calls the model equally often: where the batches do not go round, what is past the last does not count.
    for step in range(first, -(-_STEPS // ranks) * ranks, ranks):
        batch = _with_colours_masked(measured, sources, step)
        asked = (batch.token_labels != IGNORE) & (step < _STEPS)
        counts += torch.bincount(batch.token_labels[asked].cpu(), minlength=len(counts))
        for other in (0, 1):
            # The neighbour's image in place of the own: what the words alone tell.
            guesses = measured.model.word_logits(batch._replace(pixels=batch.pixels.roll(other, 0))).argmax(-1)
            right[other] += ((guesses == batch.token_labels) & asked).sum().cpu()
    right, counts = sum_over_ranks(right), sum_over_ranks(counts)
    if not counts.any():
        return []  # a vocabulary without colours, or texts too short to reach one
    own, others = (right / counts.sum()).tolist()
    most = float(counts.max() / counts.sum())
    return [Reading("masked colour, own image", own, most), Reading("masked colour, other image", others, most)]


def _with_colours_masked(measured: Measured, sources: Sources, step: int) -> PairBatch:
    tokenizer, config = measured.corpus.tokenizer, measured.config
    colours = {tokenizer.vocab[word] for word in COLOUR_WORDS if word in tokenizer.vocab}
    grid = (config.image_size // config.patch_size,) * 2
    images = ImageRows(sources.views, lambda rng: np.zeros(grid, dtype=np.bool_))
    texts = TextRows(tokenizer, partial(_mask_all, colours, tokenizer.mask_id), config.max_length)
    rows = PairRows(images, texts, 0.0)
    made = [rows(sources.pairs, step * 64 + i, keyed_rng("colours", step, i)) for i in range(64)]
    batch = measured.prepared(Collate(tokenizer.vocab_size, 1).pairs(made))
    assert isinstance(batch, PairBatch)
    return batch


def _mask_all(chosen: set[int], mask_id: int, tokens: Tokens, rng: Generator) -> tuple[list[int], list[int]]:
    positions = [at for at, token in enumerate(tokens.ids) if token in chosen]
    return [mask_id if token in chosen else token for token in tokens.ids], positions


def codes_used(measured: Measured, sources: Sources) -> Reading:
    """The share of the codebook's codes that occur in held-out images."""
    codebook = measured.corpus.codebook

    def codes(own: Sequence[int]) -> Tensor:
        views = [sources.views(sources.images[i].image, keyed_rng("codes", i))[1] for i in own]
        return codebook.encode(torch.stack(views).to(measured.run.device))

    usage = code_usage(embed_over_ranks(range(256), codes), codebook.num_codes)
    return Reading("codes used", usage.used / codebook.num_codes, 1 / codebook.num_codes)
