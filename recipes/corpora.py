"""What a recipe trains on: sources, vocabulary and codebook, and how a sample becomes the row of a batch."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from own import Own
from own_sources import check_held_out, check_window, is_coded, own_images, own_pairs, own_texts, with_codes
from presets import Config, needs_codes

from torchflava.codebooks import DalleCodebook, PatchCodebook, fit_patches, load_codebook
from torchflava.data.blend import Chosen, choose
from torchflava.data.coded import CodedRows
from torchflava.data.lines import TextLines
from torchflava.data.mixture import Kind
from torchflava.data.order import keyed_rng, permute
from torchflava.data.rows import ImageRows, PairRows, TextRows, Tokens, anywhere, same_shard
from torchflava.data.scenes import SceneImages, ScenePairs, SceneTexts
from torchflava.data.shards import ShardImages, ShardPairs
from torchflava.models.hub import find_or_fetch_codebook
from torchflava.transforms.augment import Augment, OnWhite, Relight
from torchflava.transforms.bpe import BytePair
from torchflava.transforms.collate import Collate
from torchflava.transforms.image import CorruptSample, TrainViews, decoded
from torchflava.transforms.masking import block_mask, mask_whole_words
from torchflava.transforms.tokenizer import TextTokenizer, load_tokenizer, save_tokenizer
from torchflava.transforms.warp import Warp
from torchflava.transforms.wordpiece import WordPiece

_FITTED = 512  # images that the codebook is fitted to
_WHOLE = (1.0, 1.0)  # the range of a crop's share and of its width / height: all of a square image
_READ = 6_000  # captions and texts that the vocabulary is learnt from, of each source at most


class Sources(NamedTuple):
    """The samples of a run."""

    pairs: Any
    """None where a run has none; the others too."""
    images: Any
    texts: Any
    views: TrainViews
    """How an image becomes the encoder's and the codebook's view."""


class Corpus(NamedTuple):
    """The samples of a run and what was learnt from them before training."""

    sources: Sources
    tokenizer: TextTokenizer | None
    """None where there are no texts, and no vocabulary is given."""
    codebook: PatchCodebook | DalleCodebook | None
    """None where no loss asks for codes."""


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


def own(config: Config) -> Sources:
    """What --pairs, --images and --texts name; mild crops, as the paper's."""
    views = TrainViews(config.image_size, config.code_size)
    check_held_out(config.own)
    sources = Sources(own_pairs(config.own), own_images(config.own), own_texts(config.own), views)
    check_window(config.own, sources[:3])
    return sources


def open_corpus(config: Config) -> Corpus:
    """The corpus that `config` names. A run that goes on reads vocabulary and codebook from its folder.

    Raises:
        FileNotFoundError: if it goes on and they are gone: others would give other ids and codes.
        ValueError: if the codebook's grid is not the encoder's.
    """
    sources = {"scenes": scenes, "emoji": emoji, "own": own}[config.corpus](config)
    if config.resume:
        kept = Path(config.resume)
        words = vocabulary_in(kept)
        unread = sources.pairs is None and sources.texts is None and not words.exists()
        tokenizer = None if unread else load_tokenizer(words)
        codebook = load_codebook(kept / "codebook.safetensors") if needs_codes(config) else None
    else:
        tokenizer = _tokenizer(config, sources)
        codebook = _codebook(config, sources) if needs_codes(config) else None
    if codebook is None:
        return Corpus(sources, tokenizer, None)
    side = config.image_size // config.patch_size
    if codebook.grid != (side, side) or codebook.image_size != config.code_size:
        raise ValueError(
            f"the codebook makes {codebook.grid[0]} x {codebook.grid[1]} codes of {codebook.image_size} px, the encoder sees "
            f"{side} x {side} patches and --code-size is {config.code_size}; make them agree"
        )
    if config.corpus == "own":
        pairs = with_codes(sources.pairs, _own_of(config, "pair"), sources.views, codebook)
        images = with_codes(sources.images, _own_of(config, "image"), sources.views, codebook)
        sources = sources._replace(pairs=pairs, images=images)
    return Corpus(sources, tokenizer, codebook)


def _own_of(config: Config, kind: str) -> Own:
    """The settings of a kind; a run that goes on takes codes from where it began to, if they were made meanwhile or not."""
    kept = Path(config.resume, "data.json")
    if not config.resume or config.own.codes != "auto" or not kept.exists():
        return config.own
    began_with = '"codes"' in json.dumps(json.loads(kept.read_text())["sources"].get(kind))
    return replace(config.own, codes="cached" if began_with else "online")


def vocabulary_in(folder: Path) -> Path:
    """The file of the vocabulary in a run's folder, whether or not it is there."""
    whole = folder / "tokenizer.json"
    return whole if whole.exists() else folder / "vocab.txt"


def _tokenizer(config: Config, sources: Sources) -> TextTokenizer | None:
    """The vocabulary that `--vocab` names, or one learnt from the captions and texts; none where there are only images."""
    if config.vocab:
        tokenizer = load_tokenizer(config.vocab)
        if isinstance(tokenizer, BytePair) and config.architecture != "clip":
            raise ValueError(
                f"--vocab {config.vocab} is CLIP's kind, which has no [MASK] to train with; it is for --architecture clip"
            )
        if config.tokenizer == "bpe" and not isinstance(tokenizer, BytePair):
            raise ValueError(
                f"--vocab {config.vocab} is WordPiece, and --tokenizer bpe asks for another kind; leave one out"
            )
        return tokenizer
    if sources.pairs is None and sources.texts is None:
        return None
    if config.tokenizer == "bpe":
        return BytePair.train(_captions(config, sources), config.vocab_size)
    return WordPiece.train(_captions(config, sources), config.vocab_size)


def _codebook(config: Config, sources: Sources) -> PatchCodebook | DalleCodebook:
    """The codebook that `--codebook` names, or one fitted to the images."""
    if not config.codebook:
        patch_size = config.code_size // (config.image_size // config.patch_size)
        views = _views(config, sources)
        return fit_patches(views, num_codes=config.num_codes, patch_size=patch_size, seed=config.seed)
    place = find_or_fetch_codebook(config.codebook)
    codebook = load_codebook(place)
    if isinstance(codebook, DalleCodebook):  # it reads any size
        size, precision = config.code_size, config.code_precision
        return DalleCodebook.from_file(place, image_size=size, precision=precision)
    if config.code_precision != "fp32":
        raise ValueError(
            f"--code-precision {config.code_precision} is DALL-E's dVAE's; {config.codebook} has fp32 alone"
        )
    return codebook


def name_and_keywords(caption: str, rng: Generator) -> str:
    """`name; keyword; keyword` told anew each time: the name alone half of the time, else with half of its keywords."""
    name, *keywords = caption.split("; ")
    if rng.random() < 0.5:
        return name
    kept = [word for word in keywords if rng.random() < 0.5]
    return ", ".join([name, *(kept[i] for i in rng.permutation(len(kept)))])


def save_corpus(corpus: Corpus, folder: Path) -> None:
    """Keep what was learnt before training, for resuming and for whoever uses the model."""
    if corpus.tokenizer is not None:
        save_tokenizer(corpus.tokenizer, folder)
    if corpus.codebook is not None:
        corpus.codebook.save(folder / "codebook.safetensors")


def kinds(corpus: Corpus, config: Config) -> dict[str, Kind]:
    """The kinds of batch that have a share of the steps."""
    grid = (config.image_size // config.patch_size,) * 2
    num_masked = round(grid[0] * grid[1] * config.patch_mask_rate)
    mask = partial(block_mask, grid, num_masked=num_masked)

    def images(source: Any) -> ImageRows | CodedRows:
        return (CodedRows if is_coded(source) else ImageRows)(corpus.sources.views, mask)

    if corpus.tokenizer is None:
        rows = images(corpus.sources.images)
        return {"image": Kind(corpus.sources.images, rows, Collate(1, num_masked).images, config.shares.image)}
    collate = Collate(corpus.tokenizer.vocab_size, num_masked, pad_id=corpus.tokenizer.pad_id)
    words = partial(mask_words, corpus.tokenizer, rate=config.mask_rate)
    captions = TextRows(corpus.tokenizer, words, config.max_length)
    texts = TextRows(corpus.tokenizer, words, config.text_length or config.max_length)
    vary = name_and_keywords if config.corpus == "emoji" else None
    other = same_shard if config.own.window else anywhere
    pairs = PairRows(images(corpus.sources.pairs), captions, config.mismatch_rate, vary=vary, other=other)
    all_kinds = {
        "pair": Kind(corpus.sources.pairs, pairs, collate.pairs, config.shares.pair),
        "image": Kind(corpus.sources.images, images(corpus.sources.images), collate.images, config.shares.image),
        "text": Kind(corpus.sources.texts, texts, collate.texts, config.shares.text),
    }
    return {name: kind for name, kind in all_kinds.items() if kind.share}


def mask_words(tokenizer: TextTokenizer, tokens: Tokens, rng: Generator, rate: float) -> tuple[list[int], list[int]]:
    """Whole-word masking with a tokenizer's own ids; CLIP's has no [MASK], and nothing of its texts is masked."""
    if isinstance(tokenizer, BytePair):
        return tokens.ids, []
    return mask_whole_words(
        tokens.ids,
        rng,
        word_ids=tokens.word_ids,
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        special_ids=tokenizer.special_ids,
        rate=rate,
    )


def _captions(config: Config, sources: Sources) -> Iterator[str]:
    """Those of some samples: the first, or, of a user's own places, the first that are drawn."""
    for source in (sources.pairs, sources.texts):
        if source is None:
            continue
        n = min(len(source), _READ)
        drawn = [(source, i) for i in range(n)]
        if config.corpus == "own":
            drawn = [(one.source, one.at) for one in choose(source, config.seed, numbers=np.arange(n, dtype=np.uint64))]
        for one, at in drawn:
            with suppress(CorruptSample):  # the loader tells of it, and replaces it
                yield one.caption(at) if source is sources.pairs else one[at].text


def _views(config: Config, sources: Sources) -> torch.Tensor:
    """The codebook's views of some images, of captioned ones where there are no others."""
    source = sources.images or sources.pairs
    if source is None:
        raise ValueError("a codebook is fitted to images, and there are none; give one by --codebook")
    numbers = np.arange(min(len(source), _FITTED), dtype=np.uint64)
    drawn = choose(source, config.seed, numbers=numbers) if config.corpus == "own" else None
    if drawn is None:
        drawn = [Chosen(source, 0, int(at)) for at in permute(len(source), config.seed, numbers)]
    views = []
    for one in drawn:
        with suppress(CorruptSample):
            image = decoded(one.source[one.at].image)
            views.append(sources.views(image, keyed_rng(config.seed, "codebook", one.at))[1])
    if not views:
        raise ValueError(f"none of {len(drawn)} images of {source.name} could be read; check them, or give --codebook")
    return torch.stack(views)
