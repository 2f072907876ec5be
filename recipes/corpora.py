"""What a recipe trains on: sources, vocabulary and codebook, and how a sample becomes the row of a batch."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.random import Generator
from presets import Config

from torchflava.codebooks import PatchCodebook, fit_patches
from torchflava.data.lines import TextLines
from torchflava.data.mixture import Kind
from torchflava.data.order import keyed_rng, permute
from torchflava.data.rows import ImageRows, PairRows, TextRows, Tokens, Views
from torchflava.data.scenes import SceneImages, ScenePairs, SceneTexts
from torchflava.data.shards import ShardImages, ShardPairs
from torchflava.transforms.augment import Augment, OnWhite, Relight
from torchflava.transforms.collate import Collate
from torchflava.transforms.image import CorruptSample, TrainViews, decoded
from torchflava.transforms.masking import block_mask, mask_whole_words
from torchflava.transforms.warp import Warp
from torchflava.transforms.wordpiece import WordPiece

_FITTED = 512  # images that the codebook is fitted to
_WHOLE = (1.0, 1.0)  # the range of a crop's share and of its width / height: all of a square image
_READ = 6_000  # captions and texts that the vocabulary is learnt from, of each source at most


class Sources(NamedTuple):
    """The samples of a run."""

    pairs: Any
    images: Any
    texts: Any
    views: Views
    """How an image becomes the encoder's and the codebook's view."""


class Corpus(NamedTuple):
    """The samples of a run and what was learnt from them before training."""

    sources: Sources
    tokenizer: WordPiece
    codebook: PatchCodebook


def scenes(config: Config) -> Sources:
    """Captioned scenes drawn on the fly, with combinations of colour and shape held out."""
    side = config.image_size
    return Sources(
        ScenePairs("train", side),
        SceneImages("train", side),
        SceneTexts("train"),
        TrainViews(side, config.code_size, scale=_WHOLE, ratio=_WHOLE),
    )


def emoji(config: Config) -> Sources:
    """What recipes/data/emoji.py wrote: two vendors' emoji with names and keywords, their images, and a text file."""
    folder, side = Path(config.data), config.image_size
    colours = Augment(contrast=0.4, saturation=0.5, hue=0.1, mix=0.15, blur=0.3, tint=0.0)
    shards = sorted(folder.glob("google-*.tar")) + sorted(folder.glob("twitter-*.tar"))
    return Sources(
        ShardPairs(shards, "emoji"),
        ShardImages(shards, "emoji images"),
        TextLines(folder / "texts.txt"),
        TrainViews(
            side, config.code_size, scale=_WHOLE, ratio=_WHOLE, warp=Warp(), augment=OnWhite(colours, Relight())
        ),
    )


def open_corpus(config: Config) -> Corpus:
    """The corpus that `config` names. A run that goes on reads vocabulary and codebook from its folder.

    Raises:
        FileNotFoundError: if it goes on and they are gone: others would give other ids and codes.
    """
    sources = {"scenes": scenes, "emoji": emoji}[config.corpus](config)
    if config.resume:
        kept = Path(config.resume)
        tokenizer = WordPiece.from_file(kept / "vocab.txt")
        return Corpus(sources, tokenizer, PatchCodebook.from_file(kept / "codebook.safetensors"))
    tokenizer = WordPiece.train(_captions(sources), config.vocab_size)
    patch_size = config.code_size // (config.image_size // config.patch_size)
    views = _views(sources, config.seed)
    codebook = fit_patches(views, num_codes=config.num_codes, patch_size=patch_size, seed=config.seed)
    return Corpus(sources, tokenizer, codebook)


def name_and_keywords(caption: str, rng: Generator) -> str:
    """`name; keyword; keyword` told anew each time: the name alone half of the time, else with half of its keywords."""
    name, *keywords = caption.split("; ")
    if rng.random() < 0.5:
        return name
    kept = [word for word in keywords if rng.random() < 0.5]
    return ", ".join([name, *(kept[i] for i in rng.permutation(len(kept)))])


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Keep what was learnt before training, for resuming and for whoever uses the model."""
    corpus.tokenizer.save(folder / "vocab.txt")
    corpus.codebook.save(folder / "codebook.safetensors")


def kinds(corpus: Corpus, config: Config) -> dict[str, Kind]:
    """The kinds of batch that have a share of the steps."""
    grid = (config.image_size // config.patch_size,) * 2
    num_masked = round(grid[0] * grid[1] * config.patch_mask_rate)
    collate = Collate(corpus.tokenizer.vocab_size, num_masked, pad_id=corpus.tokenizer.pad_id)
    images = ImageRows(corpus.sources.views, partial(block_mask, grid, num_masked=num_masked))
    texts = TextRows(corpus.tokenizer, partial(mask_words, corpus.tokenizer, rate=config.mask_rate), config.max_length)
    pairs = PairRows(images, texts, config.mismatch_rate, vary=name_and_keywords if config.corpus == "emoji" else None)
    all_kinds = {
        "pair": Kind(corpus.sources.pairs, pairs, collate.pairs, config.shares.pair),
        "image": Kind(corpus.sources.images, images, collate.images, config.shares.image),
        "text": Kind(corpus.sources.texts, texts, collate.texts, config.shares.text),
    }
    return {name: kind for name, kind in all_kinds.items() if kind.share}


def mask_words(tokenizer: WordPiece, tokens: Tokens, rng: Generator, rate: float) -> tuple[list[int], list[int]]:
    """Whole-word masking with a tokenizer's own ids."""
    return mask_whole_words(
        tokens.ids,
        rng,
        word_ids=tokens.word_ids,
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        special_ids=tokenizer.special_ids,
        rate=rate,
    )


def _captions(sources: Sources) -> Iterator[str]:
    for i in range(min(len(sources.pairs), _READ)):
        with suppress(CorruptSample):  # the loader tells of it, and replaces it
            yield sources.pairs.caption(i)
    for i in range(min(len(sources.texts), _READ)):
        yield sources.texts[i].text


def _views(sources: Sources, seed: int) -> torch.Tensor:
    n = len(sources.images)
    taken = [int(permute(n, seed, i)[0]) for i in range(min(n, _FITTED))]
    views = []
    for i in taken:
        with suppress(CorruptSample):
            views.append(sources.views(decoded(sources.images[i].image), keyed_rng(seed, "codebook", i))[1])
    return torch.stack(views)
