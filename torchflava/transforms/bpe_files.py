"""Vocabularies of CLIP's byte-level BPE: read from the files in which they are handed on, or learned from texts.

Source: openai/CLIP@main, clip/simple_tokenizer.py (the order of the ids); transformers 5.24, models/clip (its files).
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models, trainers

from torchflava.transforms.vocabulary import complaint

START, END = SPECIAL = ("<|startoftext|>", "<|endoftext|>")
"""What stands before and behind each text; the last two ids, in this order."""
SUFFIX = "</w>"
"""On the last piece of a word."""
MERGES = "bpe_simple_vocab_16e6.txt.gz"
"""The file that OpenAI released, and that open_clip_torch brings along."""

_RELEASED = 49152 - 256 - 2  # merges of that file that CLIP uses; it has five times as many
_LARGEST = 2**26  # bytes; of the largest file that is read, and of what a gzip may unpack to
_NEEDED = "give a tokenizer.json, vocab.json and merges.txt in one folder, or CLIP's " + MERGES


class Merges(NamedTuple):
    """A vocabulary of BPE."""

    tokens: list[str]
    """By id."""
    pairs: list[tuple[str, str]]
    """What is merged, the first ones first."""


@cache
def byte_letters() -> dict[int, str]:
    """A printable letter for each of the 256 bytes, in the order of their ids: those that print stand for themselves."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    return {byte: chr(byte) for byte in printing} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def alphabet() -> list[str]:
    """The first 512 tokens: each byte inside a word, and each at its end."""
    letters = list(byte_letters().values())
    return letters + [letter + SUFFIX for letter in letters]


def of_pairs(pairs: Sequence[tuple[str, str]]) -> Merges:
    """The vocabulary that merges make: the alphabet, what they join in their order, and the two special tokens."""
    joined = dict.fromkeys(left + right for left, right in pairs)
    return Merges([*alphabet(), *joined, *SPECIAL], list(pairs))


def read_merges(path: str | Path) -> Merges:
    """Read `bpe_simple_vocab_16e6.txt.gz` (or unpacked), a `tokenizer.json`, a `vocab.json` or `merges.txt` with the other
    beside it, or a folder that holds one of these.

    Raises:
        ValueError: there is no such file, or it is damaged, or of another kind of tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise ValueError(f"there is no such file: {_NEEDED}")
    if path.name == "tokenizer.json" or (path.suffix == ".json" and path.name != "vocab.json"):
        return _of_json(_json(path))
    if path.name in ("vocab.json", "merges.txt"):
        vocab, lines = path.with_name("vocab.json"), path.with_name("merges.txt")
        if not (vocab.is_file() and lines.is_file()):
            raise ValueError(f"vocab.json and merges.txt go together, and one of them is missing: {_NEEDED}")
        return Merges(_by_id(_json(vocab)), _pairs(_text(lines).split("\n")))
    pairs = _pairs(_text(path).split("\n")[: 1 + _RELEASED])
    if not pairs:
        raise ValueError(f"it holds no merges: {_NEEDED}")
    return of_pairs(pairs)


def learn_pairs(texts: Iterable[str], vocab_size: int, *, splitter: Tokenizer, min_frequency: int) -> Merges:
    """The merges that these texts, cleaned already, give; the same texts in any order give the same.

    The Rust trainer numbers the letters in the order of a hash map and settles equal counts by number: handing it the
    alphabet as ready tokens makes it deterministic.
    """
    learner = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    learner.pre_tokenizer = splitter.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        min_frequency=min_frequency,
        special_tokens=alphabet(),
        end_of_word_suffix=SUFFIX,
        show_progress=False,
    )
    learner.train_from_iterator(_checked(texts), trainer)
    return of_pairs(_of_lists(json.loads(learner.to_str())["model"]["merges"]))


def check(merges: Merges) -> None:
    """Raise a ValueError for a vocabulary with which not every text has ids."""
    tokens = set(merges.tokens)
    if len(tokens) < len(merges.tokens):
        twice = next(token for token, times in Counter(merges.tokens).items() if times > 1)
        raise ValueError(f"the token {twice!r} is there twice: keep one")
    if missing := [token for token in (*alphabet(), *SPECIAL) if token not in tokens]:
        raise ValueError(
            f"the vocabulary of {len(tokens)} tokens has no {', '.join(missing[:5])}: CLIP's has all bytes"
        )
    for left, right in merges.pairs:
        if strange := [piece for piece in (left, right, left + right) if piece not in tokens]:
            raise ValueError(f"{strange[0]!r} is merged, and is no token: give files that belong together")


def _in_folder(folder: Path) -> Path:
    for name in ("tokenizer.json", "vocab.json", MERGES):
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"the folder has no vocabulary of CLIP's kind: {_NEEDED}")


def _text(path: Path) -> str:
    data = _bytes(path)
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no text in UTF-8 (byte {error.start}): fetch it again") from error


def _bytes(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path.name} is of {path.stat().st_size} bytes, no vocabulary is so large: {_NEEDED}")
    data = path.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.open(path) as unpacked:
            data = unpacked.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged ({error}): fetch it again") from error
    if len(data) > _LARGEST:
        raise ValueError(f"{path.name} unpacks to more than {_LARGEST} bytes, no vocabulary is so large: {_NEEDED}")
    return data


def _json(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON ({error}): fetch it again") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path.name} holds a {type(told).__name__}, names with values are due: {_NEEDED}")
    return told


def _of_json(told: Mapping[str, Any]) -> Merges:
    """The vocabulary in a `tokenizer.json`; how it cleans and splits text is CLIP's way in any case."""
    model = told.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or model.get("end_of_word_suffix") != SUFFIX:
        kind = model.get("type") if isinstance(model, dict) else model
        raise ValueError(f"the tokenizer is {kind!r}, CLIP's is a BPE whose words end in {SUFFIX}: {_NEEDED}")
    if not isinstance(model.get("merges"), list) or not isinstance(model.get("vocab"), dict):
        raise ValueError(f"the tokenizer has no merges or no vocabulary: {_NEEDED}")
    added = told.get("added_tokens") or []
    names = {token.get("content") for token in added if isinstance(token, dict)} if isinstance(added, list) else set()
    if strange := sorted(str(name) for name in names - model["vocab"].keys()):
        raise ValueError(f"tokens were added to CLIP's vocabulary, such as {strange[0]!r}: leave them out")
    merges = model["merges"]
    return Merges(
        _by_id(model["vocab"]), _pairs(merges) if merges and isinstance(merges[0], str) else _of_lists(merges)
    )


def _by_id(vocab: Mapping[str, Any]) -> list[str]:
    if sorted(map(repr, vocab.values())) != sorted(map(repr, range(len(vocab)))):
        raise ValueError("the ids are not the numbers from 0 on without a gap: give CLIP's vocabulary as it is")
    return sorted(vocab, key=lambda token: int(vocab[token]))


def _pairs(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Merges, one a line; the first line may be a comment."""
    pairs = []
    for number, line in enumerate(lines, start=1):
        pieces = line.split(" ")
        if line.strip() and not (number == 1 and "#version" in line):
            if len(pieces) != 2 or not all(pieces):
                raise ValueError(f"line {number}, {line[:40]!r}, is no merge of two pieces: {_NEEDED}")
            pairs.append((pieces[0], pieces[1]))
    return pairs


def _of_lists(merges: Iterable[Any]) -> list[tuple[str, str]]:
    pairs = []
    for merge in merges:
        if not (isinstance(merge, list) and len(merge) == 2 and all(isinstance(piece, str) for piece in merge)):
            raise ValueError(f"{merge!r:.60} is no merge of two pieces: fetch the file again")
        pairs.append((merge[0], merge[1]))
    return pairs


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for place, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text {place}: {complaint(text)}") from error
        yield text
