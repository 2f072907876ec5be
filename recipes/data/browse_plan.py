"""What a page is about: shards, a mixture or a run, each as kinds of samples in the order of training.

Shards alone are seen as in FLAVA's own code (facebookresearch/multimodal@06db45b, examples/flava/data/transforms.py): views of
224 and 112 px, 75 of 14 x 14 patches masked, 77 tokens of a caption and 512 of a text; 15 % of the words as in BERT.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from browse_rejects import listed_shards
from browse_sources import drawn, text_of
from corpora import kinds, mask_words, open_corpus
from index import expand
from presets import parse

from torchflava.data.lines import TextLines
from torchflava.data.mixture import Kind, Mixture
from torchflava.data.rows import ImageRows, PairRows, TextRows
from torchflava.data.shards import ShardImages, ShardPairs, ShardTexts
from torchflava.data.sorting import DEFAULT
from torchflava.transforms.collate import Collate
from torchflava.transforms.image import CorruptSample, TrainViews
from torchflava.transforms.masking import block_mask
from torchflava.transforms.tokenizer import TextTokenizer, load_tokenizer
from torchflava.transforms.wordpiece import WordPiece

_GRID, _NUM_MASKED = (14, 14), 75
_IMAGE_SIZE, _CODE_SIZE = 224, 112
_MASK_RATE = 0.15
_PAIR_LENGTH, _TEXT_LENGTH = 77, 512
_VOCAB_SIZE = 30_522  # BERT's, at most
_LEARNT_FROM = 10_000  # characters of a text
_SEED = 0  # of the order and the masks of shards alone


class Plan(NamedTuple):
    """What is shown."""

    title: str
    named: str
    """How to name it on a command line."""
    mixture: Mixture
    tokenizer: TextTokenizer | None
    """None where there are no texts."""
    codebook: Any
    """None for shards alone."""
    steps: int
    """Of the run; 0 for shards alone."""
    warnings: list[str]
    """Sentences."""
    damaged: list[str]
    """Shards that cannot be opened, a sentence each."""


def plan_of_flags(words: Sequence[str]) -> Plan:
    """The mixture of the run that these flags of recipes/pretrain.py start.

    Raises:
        ValueError: if its data cannot be opened.
    """
    config = parse(words)
    return _plan(config, f"What preset {config.preset} trains on", f"recipes/pretrain.py {shlex.join(words)}")


def plan_of_run(folder: Path) -> Plan:
    """What the run in a folder saw, by its own settings, vocabulary and codebook.

    Raises:
        ValueError: if the folder is no run's, or its data cannot be opened.
    """
    try:
        saved = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"--run {folder}: its config.json cannot be read ({error}); give a run's folder") from error
    if not isinstance(saved, dict):
        raise ValueError(f"--run {folder}: its config.json holds no settings; give a run's folder")
    config = replace(_restored(parse([]), saved), resume=str(folder))
    plan = _plan(config, f"What {folder.name} trains on", f"--run {folder}")
    try:
        plan.mixture.check_state(json.loads((folder / "data.json").read_bytes()))
    except FileNotFoundError:
        plan.warnings.append(f"{folder} has no data.json yet, so nothing says whether the data is what the run saw.")
    except ValueError as error:
        plan.warnings.append(f"This is not what the run saw: {error}.")
    return plan


def _restored(config: Any, saved: dict[str, Any]) -> Any:
    """Settings as config.json has them, in the types that they have in `config`."""
    changed: dict[str, Any] = {}
    for name in {field.name for field in fields(config)} & saved.keys():
        before, value = getattr(config, name), saved[name]
        if is_dataclass(before) and isinstance(value, dict):
            changed[name] = _restored(before, value)
        else:
            changed[name] = tuple(value) if isinstance(before, tuple) else value
    return replace(config, **changed)


def _plan(config: Any, title: str, named: str) -> Plan:
    try:
        corpus = open_corpus(config)
        # What cannot be read is shown as such; a page must not end where training would.
        mixture = Mixture(kinds(corpus, config), config.batch_size, config.seed, max_corrupt_fraction=1.0)
    except (ValueError, OSError) as error:
        raise ValueError(f"the data of {named} cannot be opened from here: {error}") from error
    return Plan(title, named, mixture, corpus.tokenizer, corpus.codebook, config.steps, [], [])


def plan_of_paths(words: Sequence[str], vocab: Path | None, *, num: int, measured: int) -> Plan:
    """Shards and text files, a kind for each folder and file, masked as in the paper.

    Args:
        words: folders, patterns and files.
        vocab: to split captions by; learnt from those that will be measured, if None.
        num: samples shown of each kind.
        measured: samples measured of each kind.

    Raises:
        ValueError: if nothing is found or can be read, or the vocabulary cannot be.
    """
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    files = expand(words)
    damaged: list[str] = []
    sources: dict[str, Any] = {}
    for folder in sorted({path.parent for path in files if path.suffix != ".txt"}):
        shards = [path for path in files if path.parent == folder and path.suffix != ".txt"]
        if (source := _source(folder, shards, damaged)) is not None:
            sources[str(folder)] = source
    sources |= {str(path): TextLines(path, path.name) for path in files if path.suffix == ".txt"}
    if not sources:
        raise ValueError(
            "; ".join(damaged) or f"{' '.join(words)}: no sample has an image or a caption; nothing to show"
        )
    told = [source for source in sources.values() if not isinstance(source, ShardImages)]
    if told and tokenizer is None:
        tokenizer = _learnt([text for source in told for text in _texts(source, measured)])
    share = 1 / len(sources)
    made = {name: _kind(source, tokenizer, share) for name, source in sources.items()}
    mixture = Mixture(made, num, seed=_SEED, max_corrupt_fraction=1.0)
    title = f"What is in {words[0]}{f' and {len(words) - 1} more' if len(words) > 1 else ''}"
    return Plan(title, shlex.join(words), mixture, tokenizer, None, 0, [], damaged)


def _source(folder: Path, shards: Sequence[Path], damaged: list[str]) -> Any:
    """The samples of a folder: captioned images if it has any, else images, else texts; None if it has nothing whole."""
    listed = listed_shards([str(path) for path in shards], DEFAULT, damaged)
    if not listed:
        return None
    alone, both, texts = sum(shard.table.columns["groups"][shard.shard] for shard in listed.values())
    if not (alone or both or texts):
        return None
    kind = ShardPairs if both else ShardImages if alone else ShardTexts
    return kind(listed, folder.resolve().name)


def _texts(source: Any, num: int) -> Iterator[str]:
    """The texts that will be measured, as far as they can be read."""
    for chosen in drawn(source, num, seed=_SEED):
        with suppress(CorruptSample):
            yield text_of(chosen)[:_LEARNT_FROM]


def _learnt(texts: list[str]) -> WordPiece:
    try:
        return WordPiece.train(texts, _VOCAB_SIZE)
    except ValueError:  # not one of them can be read, or has a letter
        return WordPiece.train(["a"], 7)


def _kind(source: Any, tokenizer: TextTokenizer | None, share: float) -> Kind:
    """Samples as the paper would train on them, texts with their own images only."""
    images = ImageRows(TrainViews(_IMAGE_SIZE, _CODE_SIZE), partial(block_mask, _GRID, num_masked=_NUM_MASKED))
    if isinstance(source, ShardImages) or tokenizer is None:
        return Kind(source, images, Collate(1, _NUM_MASKED).images, share)
    collate = Collate(tokenizer.vocab_size, _NUM_MASKED, pad_id=tokenizer.pad_id)
    mask = partial(mask_words, tokenizer, rate=_MASK_RATE)
    if isinstance(source, ShardPairs):
        return Kind(source, PairRows(images, TextRows(tokenizer, mask, _PAIR_LENGTH), 0.0), collate.pairs, share)
    return Kind(source, TextRows(tokenizer, mask, _TEXT_LENGTH), collate.texts, share)
