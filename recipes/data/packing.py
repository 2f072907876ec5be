"""Documents packed into texts of one length, a text a line: what the scripts of the text corpora share.

A text is filled with whole words until the next one does not fit, so nothing is padded but the last text of a slice;
the document that is cut goes on in the next text. Where a document ends inside a text, [SEP] stands, as between the
documents of RoBERTa's FULL-SENTENCES (arXiv:1907.11692, section 4.2). Lengths are counted in the tokens of a vocabulary,
[CLS] and the last [SEP] included, or in words. The whole corpus is one file, for torchflava.data.shards.TextLines.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from building import Rejected
from card import Card, image_number
from slices import card_of, in_slices, settle

from torchflava.data.tars import write_whole
from torchflava.transforms.tokenizer import load_tokenizer
from torchflava.transforms.vocabulary import SEP, SPECIAL

_KNOWN = 1 << 18  # words whose lengths are kept
_ENDLESS = 1 << 12  # characters of a word that is taken apart before it is counted


class Text(NamedTuple):
    """A piece of a document."""

    key: str
    text: str
    begins: bool
    """A document; or what follows goes on with the one before."""


@dataclass(frozen=True)
class Packing:
    """How texts are packed; a recipe takes it as `Annotated[Packing, tyro.conf.arg(name="")]`."""

    length: int = 512
    """Of a text: tokens of the vocabulary, the first and the last special one included; words without a vocabulary."""
    vocab: Path | None = None
    """vocab.txt or tokenizer.json to count with; without one, words are counted (an English one has 1.3 tokens or so)."""

    @property
    def unit(self) -> str:
        """What the length is counted in."""
        return f"tokens of {self.vocab}" if self.vocab else "words"


class WordLength:
    """How long a word is, in tokens of a vocabulary or in words: picklable, with what it counted kept.

    Args:
        vocab: the vocabulary's file; words without.
    """

    def __init__(self, vocab: Path | None) -> None:
        self.vocab = vocab
        self._known: dict[str, int] = {}
        self._tokenizer = None if vocab is None else load_tokenizer(vocab)

    def __reduce__(self) -> tuple[type["WordLength"], tuple[Path | None]]:
        return WordLength, (self.vocab,)

    @property
    def frame(self) -> int:
        """What [CLS] and the last [SEP] take."""
        return 0 if self._tokenizer is None else 2

    def __call__(self, word: str) -> int:
        """Tokens are counted by word, for no token of BERT's reaches over a blank."""
        if self._tokenizer is None:
            return 1
        found = self._known.get(word)
        if found is None:
            found = len(self._tokenizer.encode(word, 2 * _ENDLESS).ids) - 2
            if len(self._known) < _KNOWN:
                self._known[word] = found
        return found


def pack(texts: Iterable[Text], count: Callable[[str], int], room: int) -> Iterator[str]:
    """Texts of at most `room`, all but the last filled until the next word does not fit, [SEP] between documents."""
    line: list[str] = []
    used = 0
    for text in texts:
        if text.begins and line and used + count(SEP) < room:
            line.append(SEP)
            used += count(SEP)
        elif text.begins and line:  # no room for the mark and a word: the end of the line is the border
            yield _joined(line)
            line, used = [], 0
        for word in text.text.split():
            for part in _parts(word, count, room):
                size = count(part)
                if line and used + size > room:
                    yield _joined(line)
                    line, used = [], 0
                line.append(part)
                used += size
    if line:
        yield _joined(line)


def _joined(line: list[str]) -> str:
    return " ".join(line[:-1] if line[-1] == SEP else line)


def _parts(word: str, count: Callable[[str], int], room: int) -> Iterator[str]:
    """The word itself; in halves where it is endless or longer than a text, as those of writing without blanks."""
    if len(word) > 1 and (len(word) > _ENDLESS or count(word) > room):
        yield from _parts(word[: len(word) // 2], count, room)
        yield from _parts(word[len(word) // 2 :], count, room)
    else:
        yield word


def plain(text: str) -> str:
    """A text in which no special token is written: `[SEP]` becomes `[ SEP ]`."""
    for name in SPECIAL:
        if name in text:
            text = text.replace(name, f"[ {name[1:-1]} ]")
    return text


class WriteSlice:
    """Writes the packed texts of a slice to `OUT/NAME-SSSSS.txt`.

    Args:
        texts_of_slice: the texts of slice S, the same at every call.
        out: the folder.
        name: of the source.
        count: the length of a word.
        room: of a text.
    """

    def __init__(
        self,
        texts_of_slice: Callable[[int], Iterable[Text | Rejected]],
        out: Path,
        name: str,
        *,
        count: WordLength,
        room: int,
    ) -> None:
        self.texts_of_slice = texts_of_slice
        self.out, self.name = out, name
        self.count, self.room = count, room

    def __call__(self, part: int) -> tuple[Card, list[str]]:
        """The card of slice `part` and the name of its file."""
        card, path = Card(self.name), self.out / f"{self.name}-{part:05}.txt"
        write_whole(path, lambda file: self._write(file, card, part))
        return card, [path.name]

    def _write(self, file: IO[bytes], card: Card, part: int) -> None:
        for line in pack(_counted(self.texts_of_slice(part), card), self.count, self.room):
            card.pairs += 1
            card.words += sum(word != SEP for word in line.split())
            file.write(f"{line}\n".encode())


def _counted(texts: Iterable[Text | Rejected], card: Card) -> Iterator[Text]:
    """The texts that can be used; what follows one that cannot is kept apart from what was before."""
    lost = False
    for text in texts:
        found = text if isinstance(text, Rejected) or text.text.strip() else Rejected(text.key, "empty text")
        if isinstance(found, Rejected):
            card.reject(found.key, found.reason)
            lost = True
            continue
        begins, lost = found.begins or lost, False
        card.documents += begins
        yield Text(found.key, plain(found.text), begins)


def distinct(texts: Iterable[Text | Rejected]) -> Iterator[Text | Rejected]:
    """Whole documents, those rejected that have the words of an earlier one."""
    seen: set[int] = set()
    for text in texts:
        number = image_number(" ".join(text.text.split())) if isinstance(text, Text) and text.text.strip() else None
        yield text if number not in seen else Rejected(text.key, "duplicate")
        seen |= {number} - {None}  # type: ignore[arg-type]


def pack_corpus(
    texts_of_slice: Callable[[int], Iterable[Text | Rejected]],
    num_slices: int,
    out: Path,
    *,
    name: str,
    packing: Packing,
    workers: int,
    settings: Mapping[str, Any],
) -> Card:
    """Write `OUT/NAME.txt`, a packed text a line, and `OUT/card.json`; the card, whose pairs are the texts.

    Slices, records and restarts are as for `building.build`: the file has the same bytes for any number of workers.

    Args:
        texts_of_slice: the texts of slice S, the same at every call; picklable, if there are several workers.
        num_slices: what is given to a worker at a time, and what a stopped build loses at most.
        out: the folder, made if it is missing.
        name: of the source.
        packing: the length of a text.
        workers: processes; one means this one.
        settings: what else the file depends on.

    Raises:
        ValueError: for a length without room for a word, a vocabulary that cannot be read, a number below 1, or a folder
            that was begun with other settings.
    """
    count = WordLength(packing.vocab)
    room = packing.length - count.frame
    if room < 1:
        raise ValueError(f"--length is {packing.length}; {count.frame + 1} or more {packing.unit} are due")
    settle(out, {**settings, "length": packing.length, "vocab": packing.vocab})
    whole = out / f"{name}.txt"
    parts = [out / f"{name}-{part:05}.txt" for part in range(num_slices)]
    if not whole.exists():
        write = WriteSlice(texts_of_slice, out, name, count=count, room=room)
        in_slices(write, num_slices, out, name=name, workers=workers, settings={})
        write_whole(whole, lambda file: _join(file, parts))
    for path in parts:
        path.unlink(missing_ok=True)
    return card_of(out, name, num_slices)


def _join(file: IO[bytes], parts: Iterable[Path]) -> None:
    for path in parts:
        with open(path, "rb") as part:
            shutil.copyfileobj(part, file)
