"""CLIP's tokenizer: byte-level BPE over lower-cased text, on the Rust `tokenizers` (Radford et al. 2021, §2.4).

Source: openai/CLIP@main, clip/simple_tokenizer.py. Ids are equal to those of open_clip and of transformers where these two
agree; docs/clip.md says where they do not.
Letters: T tokens, start and end included.
"""

import html
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from torchflava.transforms.bpe_files import END, SPECIAL, START, SUFFIX, Merges, check, learn_pairs, read_merges
from torchflava.transforms.vocabulary import check_ids, complaint
from torchflava.transforms.wordpiece import TokenizedText

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What becomes a word: an English ending, letters, one digit, or a row of anything else."""


class BytePair:
    """Text to ids and back. It never changes once it is made: threads may share it, and it can be pickled.

    A text is cleaned first: HTML entities become what they stand for, composed letters one letter, white space one space,
    capitals small ones. No text lacks ids, and none can contain the special tokens: written in a text they are text. (CLIP's
    authors also repaired broken encodings; call `ftfy.fix_text` on such texts first.)

    Args:
        merges: the tokens by id and the pairs that are merged, as `from_file` and `train` make them.

    Raises:
        ValueError: for a vocabulary without all bytes or the two special tokens, and for merges of no tokens.
    """

    pad_id = 0
    """What fills texts up in a batch; it is a token as well ("!" inside a word), so that a mask or the end says what is kept."""

    def __init__(self, merges: Merges) -> None:
        check(merges)
        self._merges = Merges(list(merges.tokens), list(merges.pairs))
        self._tokenizer = _tokenizer(self._merges)
        self.tokens = self._merges.tokens
        """Every token, by id."""
        self.vocab = {token: id for id, token in enumerate(self.tokens)}
        self.vocab_size = len(self.tokens)
        self.start_id, self.end_id = (self.vocab[name] for name in SPECIAL)
        self.cls_id, self.sep_id = (
            self.start_id,
            self.end_id,
        )  # by WordPiece's names, for what joins texts of either kind
        self.special_ids = frozenset((self.start_id, self.end_id))
        self._ends = [token.endswith(SUFFIX) for token in self.tokens]

    def __reduce__(self) -> tuple[type["BytePair"], tuple[Merges]]:
        return BytePair, (self._merges,)

    @classmethod
    def from_file(cls, path: str | Path) -> "BytePair":
        """Read OpenAI's `bpe_simple_vocab_16e6.txt.gz`, a `tokenizer.json`, `vocab.json` with `merges.txt`, or their folder.

        Raises:
            ValueError: no such file; damaged; not CLIP's kind of tokenizer.
        """
        try:
            return cls(read_merges(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, min_frequency: int = 2) -> "BytePair":
        """Learn a vocabulary; the same texts, in any order, give the same one.

        Args:
            texts: read once.
            vocab_size: the most tokens; few texts give fewer. The bytes and the special tokens are 514 of them.
            min_frequency: how often two pieces must stand side by side to be merged.

        Raises:
            ValueError: a vocab_size below 514, and something that is no str.
        """
        if isinstance(texts, str):
            raise ValueError(f"texts is one str, {texts[:40]!r}: give a list of captions")
        if vocab_size < 514:
            raise ValueError(f"vocab_size is {vocab_size}: the bytes and the special tokens alone need 514")
        splitter = _tokenizer(Merges([], []))
        return cls(learn_pairs(map(clean, texts), vocab_size, splitter=splitter, min_frequency=min_frequency))

    def encode(self, text: str, max_length: int) -> TokenizedText:
        """A text -> at most `max_length` ids; a longer text loses its end, not the special token behind it.

        Raises:
            ValueError: `text` is no str or no valid Unicode, or `max_length` is below 2.
        """
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}: the start and the end alone need 2")
        ids = self._first_ids(text, max_length - 2)
        return TokenizedText([self.start_id, *ids, self.end_id], [None, *self._words(ids), None])

    def encode_batch(self, texts: Sequence[str], max_length: int) -> list[TokenizedText]:
        """Texts -> `encode` of each."""
        if isinstance(texts, str):
            raise ValueError(f"texts is one str, {texts[:40]!r}: give a list, or call encode")
        return [self.encode(text, max_length) for text in texts]

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Ids -> text in small letters, with a space between words; bytes that are half a letter become U+FFFD.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        ids = [int(id) for id in ids]
        self.check_ids(ids)
        kept = [self.tokens[id] for id in ids if keep_special or id not in self.special_ids]
        spaced = [f"{token}{SUFFIX}" if token in SPECIAL else token for token in kept]
        return _decoder().decode(spaced).rstrip(" ")

    def check_ids(self, ids: Any) -> None:
        """Raise a ValueError if one of `ids` (a CPU tensor, an array, nested lists of equal lengths) is not a token's."""
        check_ids(ids, self.vocab_size)

    def save(self, path: str | Path) -> None:
        """Write the whole tokenizer as a `tokenizer.json`, which transformers' `CLIPTokenizer` reads too.

        Raises:
            ValueError: for a name that does not end in .json.
        """
        if Path(path).suffix != ".json":
            raise ValueError(f"{path}: a BPE is written as tokenizer.json")
        whole = _tokenizer(self._merges)
        whole.normalizer = normalizers.Sequence(  # what of `clean` such a file can say: all but the entities
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        whole.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
        whole.post_processor = processors.RobertaProcessing(
            (END, self.end_id), (START, self.start_id), trim_offsets=False, add_prefix_space=False
        )
        whole.save(str(path))

    def _first_ids(self, text: str, count: int) -> list[int]:
        """The first `count` ids of the text, from as little of it as needed, cut where there is white space."""
        span = 16 * count + 256
        while isinstance(text, str) and len(text) > span:
            cut = max(text.rfind(space, 0, span) for space in " \n\t")
            ids = self._ids(text[:cut]) if cut > 0 else []
            if len(ids) >= count:
                return ids[:count]
            span *= 4
        return self._ids(text)[:count]

    def _ids(self, text: str) -> list[int]:
        """All ids of a text. A batch of one lets other threads run, as WordPiece's."""
        try:
            return self._tokenizer.encode_batch_fast([clean(text)], add_special_tokens=False)[0].ids
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(complaint(text)) from error

    def _words(self, ids: list[int]) -> list[int]:
        """Of each piece the number of its word, of which the last piece tells that it ends."""
        words, word = [], 0
        for id in ids:
            words.append(word)
            word += self._ends[id]
        return words


def clean(text: str) -> str:
    """A text as CLIP reads it: entities resolved (twice, as some are escaped twice), composed, single spaces, small letters.

    Raises:
        ValueError: for what is no str.
    """
    if not isinstance(text, str):
        raise ValueError(complaint(text))
    return " ".join(unicodedata.normalize("NFC", html.unescape(html.unescape(text))).split()).lower()


def _tokenizer(merges: Merges) -> Tokenizer:
    """CLIP's way of splitting text that is clean, over these merges."""
    vocab = {token: id for id, token in enumerate(merges.tokens)}
    model = models.BPE(vocab, merges.pairs, end_of_word_suffix=SUFFIX, unk_token=END if vocab else None)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = _decoder()
    return tokenizer


def _decoder() -> Any:
    return decoders.Sequence([decoders.ByteLevel(), decoders.Replace(SUFFIX, " ")])
