"""Vocabularies of WordPiece: read from a file, fetched from the Hugging Face hub, learned from texts (paper §4.1)."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's special tokens, in the order that a learned vocabulary has them."""

LONGEST_WORD = 100
"""Characters of a word before it is [UNK] without a look at its pieces (BERT's own limit)."""

LARGEST_ALPHABET = 1000
"""Characters that a learned vocabulary keeps, the most frequent first (the Rust trainer's limit as well)."""


def bert_tokenizer(tokens: Sequence[str], *, lowercase: bool = True, strip_accents: bool | None = None) -> Tokenizer:
    """BERT's way of splitting text, over tokens whose ids are their places; none of them is special yet.

    Raises:
        ValueError: a token that is there twice, or no [UNK].
    """
    vocab = {token: place for place, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for token, times in Counter(tokens).items() if times > 1)
        raise ValueError(f"the token {twice!r} is there twice: keep one")
    if UNK not in vocab:
        raise ValueError(f"a vocabulary of {len(tokens)} tokens has no {UNK}: add it")
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=UNK, max_input_chars_per_word=LONGEST_WORD))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=strip_accents, lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def read_vocabulary(path: str | Path) -> list[str]:
    """Read a `vocab.txt`: UTF-8, one token a line, the id being the line's place from 0.

    Raises:
        ValueError: no such file, not UTF-8; a line that is blank, has white space or is there twice, by its number.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError("there is no such file: give a vocab.txt, a tokenizer.json or their directory")
    try:
        lines = path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}: save it as UTF-8") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        token = line.removesuffix("\r")
        if not token:
            raise ValueError(f"line {number} is blank: remove it (ids behind it move up by one)")
        if has_space(token):
            raise ValueError(f"line {number} is {token!r}: a line holds one token and no white space")
        if token in seen:
            raise ValueError(f"line {number} repeats {token!r} of line {seen[token]}: keep one of them")
        seen[token] = number
    return list(seen)


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        ValueError: no such file, or not of that format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError("there is no such file: give a vocab.txt, a tokenizer.json or their directory")
    try:
        return Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the Rust side raises nothing more special
        raise ValueError(f"no tokenizer.json: {error}; write it again or give a vocab.txt") from error


def has_space(token: str) -> bool:
    """Whether a line of `vocab.txt` cannot hold this token."""
    return token.split() != [token]


def tokenizer_file(path: str | Path) -> Path:
    """The file itself, or of a directory its `tokenizer.json`, else its `vocab.txt`."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()]
    if not found:
        raise ValueError(f"the directory {path} has no tokenizer.json and no vocab.txt: give another")
    return found[0]


def configured_lowercase(path: Path) -> bool:
    """What the `tokenizer_config.json` beside a `vocab.txt` says of lower case; True where there is none."""
    config = path.with_name("tokenizer_config.json")
    return bool(json.loads(config.read_text(encoding="utf-8")).get("do_lower_case", True)) if config.is_file() else True


def fetch_tokenizer(name: str, *, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """A model's `tokenizer.json`, else its `vocab.txt` (and `tokenizer_config.json`), from the hub or its cache.

    Under `HF_HUB_OFFLINE=1` it looks in the cache only.

    Raises:
        ValueError: there is no such model or file, or it is not in the cache and the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download  # it loads an HTTP client, and few need it
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    missing = ""
    where = f"{name!r} at revision {revision!r}" if revision else repr(name)
    for file in ("tokenizer.json", "vocab.txt"):
        try:
            path = Path(hf_hub_download(name, file, revision=revision, cache_dir=cache_dir))
            if file == "vocab.txt":
                with suppress(EntryNotFoundError):
                    hf_hub_download(name, "tokenizer_config.json", revision=revision, cache_dir=cache_dir)
            return path
        except EntryNotFoundError as error:
            missing = str(error)
        except (HFValidationError, OSError) as error:
            raise ValueError(f"the hub has no {file} of {where} for us: {error}; check the name and access") from error
    raise ValueError(
        f"{where} has no tokenizer.json and no vocab.txt on the hub or in its cache ({missing}): "
        "fetch it once with a network, or give a file"
    )


def learn_tokens(texts: Iterable[str], vocab_size: int, *, lowercase: bool = True, min_frequency: int = 2) -> list[str]:
    """The tokens of a WordPiece vocabulary for these texts; `WordPiece.train` describes them.

    The Rust trainer alone gives another vocabulary at every run: it numbers the "##x" pieces in the order of a hash
    map, and settles equal counts by number. Handing it the alphabet as ready tokens makes it deterministic.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts is one str, {texts[:40]!r}: give a list of captions")
    texts = texts if isinstance(texts, Sequence) else list(texts)
    splitter = bert_tokenizer([UNK], lowercase=lowercase)
    counts: Counter[str] = Counter()
    for text in _normalised(texts, splitter):
        counts.update(text)
    for space in [character for character in counts if character.isspace()]:
        del counts[space]
    if not counts:
        raise ValueError("no text has a character to learn from: give captions")
    kept, alphabet = _alphabet(counts, vocab_size, splitter)
    dropped = str.maketrans(dict.fromkeys(counts.keys() - kept, " "))
    learner = Tokenizer(models.WordPiece(unk_token=UNK))
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL, *alphabet],
        show_progress=False,
    )
    learner.train_from_iterator((text.translate(dropped) for text in _normalised(texts, splitter)), trainer)
    vocab = learner.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def _normalised(texts: Iterable[str], splitter: Tokenizer) -> Iterator[str]:
    """The texts in lower case without accents, and without words that are too long to be looked up."""
    for place, text in enumerate(texts):
        try:
            text = splitter.normalizer.normalize_str(text)
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(f"text {place}: {complaint(text)}") from error
        if re.search(rf"\S{{{LONGEST_WORD + 1}}}", text):
            words = (word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(text))
            text = " ".join(word for word in words if len(word) <= LONGEST_WORD)
        yield text


def _alphabet(counts: Counter[str], vocab_size: int, splitter: Tokenizer) -> tuple[set[str], list[str]]:
    """The characters to keep, and their tokens: each alone, then those that can continue a word as "##x"."""
    kept: set[str] = set()
    continuing: set[str] = set()
    room = vocab_size - len(SPECIAL)
    for character in sorted(counts, key=lambda character: (-counts[character], character))[:LARGEST_ALPHABET]:
        continues = (
            len(splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str("a" + character))) == 1
        )
        room -= 1 + continues
        if room < 0:
            break
        kept.add(character)
        if continues:
            continuing.add(character)
    return kept, [*sorted(kept), *("##" + character for character in sorted(continuing))]


def check_ids(ids: Any, vocab_size: int) -> None:
    """Raise a ValueError if one of `ids` (a CPU tensor, an array, nested lists of equal lengths) is not a token's."""
    array = np.asarray(ids)
    if not array.size:
        return
    if array.dtype.kind not in "iu":
        raise ValueError(f"ids are {array.dtype}, whole numbers are due")
    worst = array.max() if array.max() >= vocab_size else array.min()
    if not 0 <= worst < vocab_size:
        raise ValueError(f"id {worst} is outside this vocabulary of {vocab_size}: encode with its tokenizer")


def complaint(text: object) -> str:
    """What is wrong with a text that the Rust side refuses."""
    if not isinstance(text, str):
        return f"{text!r:.80} is a {type(text).__name__}, a str is due"
    place = next((place for place, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    return f"the str holds half a character (a lone surrogate) at {place}: decode it again with errors='replace'"
