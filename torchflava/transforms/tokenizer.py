"""Either kind of tokenizer, from whatever file holds its vocabulary: WordPiece (BERT, FLAVA) or byte-level BPE (CLIP)."""

import json
from contextlib import suppress
from pathlib import Path

from torchflava.transforms.bpe import BytePair
from torchflava.transforms.bpe_files import MERGES
from torchflava.transforms.wordpiece import WordPiece

TextTokenizer = WordPiece | BytePair

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", MERGES)
"""What a vocabulary is called in a folder, the one to take first."""

_OF_BPE = (MERGES.removesuffix(".gz"), ".gz", ".json", "merges.txt")


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """The tokenizer in a file, or in a folder that holds one of `VOCABULARIES`; what kind it is, the file says.

    Raises:
        ValueError: there is no such file; it is damaged; it is neither BERT's nor CLIP's kind of tokenizer.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in VOCABULARIES if (path / name).is_file()), path)
    if not path.name.endswith(_OF_BPE) or (path.name.endswith(".json") and _is_wordpiece(path)):
        return WordPiece.from_file(path)
    return BytePair.from_file(path)


def tokenizer_beside(weights: str | Path, named: str | Path = "") -> TextTokenizer | None:
    """The tokenizer at `named` or, without a name, in the folder of a model's weights; None where that has no vocabulary.

    Raises:
        ValueError: as `load_tokenizer`.
    """
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    if not named and not any((folder / name).is_file() for name in VOCABULARIES):
        return None
    return load_tokenizer(named or folder)


def save_tokenizer(tokenizer: TextTokenizer, folder: str | Path) -> Path:
    """Write a tokenizer into a folder, and return its file: `vocab.txt` where that says all of it, else `tokenizer.json`.

    A file of the other name, which `load_tokenizer` might take in its place, is removed.
    """
    plain, whole = Path(folder) / "vocab.txt", Path(folder) / "tokenizer.json"
    if isinstance(tokenizer, WordPiece):
        with suppress(ValueError):  # it keeps capitals, or has tokens of its own, which only the other file says
            tokenizer.save(plain)
            whole.unlink(missing_ok=True)
            return plain
    tokenizer.save(whole)
    plain.unlink(missing_ok=True)
    return whole


def _is_wordpiece(path: Path) -> bool:
    """Whether a `tokenizer.json` is not of a BPE; one that cannot be read is left to WordPiece, which says why."""
    if path.name == "vocab.json":
        return False
    try:
        model = json.loads(path.read_bytes())["model"]["type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True
    return bool(model != "BPE")
