"""The WordPiece tokenizer of BERT and FLAVA (paper §4.1: BERT's uncased vocabulary of 30,522), on the Rust `tokenizers`.

Letters: T tokens, [CLS] and [SEP] included.
"""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from torchflava.transforms.vocabulary import (
    CLS,
    LONGEST_WORD,
    PAD,
    SEP,
    SPECIAL,
    bert_tokenizer,
    check_ids,
    complaint,
    configured_lowercase,
    fetch_tokenizer,
    has_space,
    learn_tokens,
    read_tokenizer,
    read_vocabulary,
    tokenizer_file,
)


class TokenizedText(NamedTuple):
    """A text as ids."""

    ids: list[int]
    """T ids, [CLS] first and [SEP] last."""
    word_ids: list[int | None]
    """T numbers, equal for the pieces of one word and counted from 0; None for a special token."""


class WordPiece:
    """Text to ids and back. It never changes once it is made: threads may share it, and it can be pickled.

    A special token written in a text becomes its id, as in `transformers`; `torchflava.transforms.text.BERTTokenizer`
    splits it, as torchtext does.

    Args:
        tokenizer: BERT's normaliser and word splitter over a WordPiece model whose ids have no gaps and whose five
            special tokens ([PAD] is 0) are there. It is copied, without its truncation and padding.

    Raises:
        ValueError: for any other tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokens = _checked_tokens(tokenizer)
        """Every token, by id."""
        self._tokenizer = tokenizer = copy.deepcopy(tokenizer)
        # sentence-transformers' files cut and pad to 128, which here would be 126 words of text and a flood of [PAD].
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
        tokenizer.post_processor = processors.BertProcessing(*((name, self.tokens.index(name)) for name in (SEP, CLS)))
        tokenizer.decoder = decoders.WordPiece("##", cleanup=True)
        self.vocab = {token: id for id, token in enumerate(self.tokens)}
        self.vocab_size = len(self.tokens)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self.vocab[name] for name in SPECIAL)
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self._continues = [token.startswith("##") for token in self.tokens]
        self._longest_added = max(len(token.content) for token in added.values())

    def __reduce__(self) -> tuple[type["WordPiece"], tuple[Tokenizer]]:
        return WordPiece, (self._tokenizer,)

    @classmethod
    def from_tokens(
        cls, tokens: Sequence[str], *, lowercase: bool = True, strip_accents: bool | None = None
    ) -> "WordPiece":
        """A tokenizer whose ids are the places of `tokens`; accents go with the capitals unless `strip_accents` says."""
        return cls(bert_tokenizer(tokens, lowercase=lowercase, strip_accents=strip_accents))

    @classmethod
    def from_file(cls, path: str | Path, *, lowercase: bool | None = None) -> "WordPiece":
        """Read `vocab.txt` (one token a line), `tokenizer.json`, or a directory that holds one of them.

        Args:
            path: of a directory, `tokenizer.json` is taken first, then `vocab.txt`.
            lowercase: for a `vocab.txt`, which cannot say; None asks the `tokenizer_config.json` beside it and then
                takes True. A `tokenizer.json` says it itself.

        Raises:
            ValueError: no such file; a duplicate, a blank line, a missing special token; not BERT's tokenizer.
        """
        path = tokenizer_file(path)
        try:
            if path.suffix != ".json":
                tokens = read_vocabulary(path)
                return cls.from_tokens(tokens, lowercase=configured_lowercase(path) if lowercase is None else lowercase)
            if lowercase is not None:
                raise ValueError(f"the file itself says whether to lower case: leave out lowercase={lowercase}")
            return cls(read_tokenizer(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_hub(
        cls,
        name: str,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        lowercase: bool | None = None,
    ) -> "WordPiece":
        """Fetch the tokenizer of a model of the Hugging Face hub, or find it in the cache (all that happens under
        `HF_HUB_OFFLINE=1`).

        Args:
            name: as "bert-base-uncased" or "organisation/model".
            revision: a branch, tag or commit; None is the main branch.
            cache_dir: None is the hub library's own.
            lowercase: as in `from_file`.

        Raises:
            ValueError: it is neither there nor in the cache, or has no `tokenizer.json` and no `vocab.txt`.
        """
        path = fetch_tokenizer(name, revision=revision, cache_dir=cache_dir)
        return cls.from_file(path, lowercase=lowercase)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool = True, min_frequency: int = 2
    ) -> "WordPiece":
        """Learn a vocabulary; the same texts, in any order, give the same one.

        The five special tokens come first, then the characters (each also as "##x" where it can continue a word), then
        the merged pieces. Characters beyond the 1,000 most frequent, or beyond `vocab_size`, are left to [UNK].

        Args:
            texts: read twice; a one-way iterator is kept in memory.
            vocab_size: the most tokens; few texts give fewer.
            min_frequency: how often two pieces must stand side by side to be merged.

        Raises:
            ValueError: no text with a letter in it, something that is not a str, a vocab_size below 7.
        """
        if vocab_size < len(SPECIAL) + 2:
            raise ValueError(f"vocab_size is {vocab_size}: the five special tokens and a character need at least 7")
        tokens = learn_tokens(texts, vocab_size, lowercase=lowercase, min_frequency=min_frequency)
        return cls.from_tokens(tokens, lowercase=lowercase)

    def encode(self, text: str, max_length: int) -> TokenizedText:
        """A text -> at most `max_length` ids; a longer text loses its end, not its [SEP].

        No more of a long text is read than those ids need.

        Raises:
            ValueError: `text` is no str or no valid Unicode, or `max_length` is below 2.
        """
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}: [CLS] and [SEP] alone need 2")
        ids = self._first_ids(text, max_length - 2)
        return TokenizedText([self.cls_id, *ids, self.sep_id], [None, *self._words(ids), None])

    def encode_batch(self, texts: Sequence[str], max_length: int) -> list[TokenizedText]:
        """Texts -> `encode` of each."""
        if isinstance(texts, str):
            raise ValueError(f"texts is one str, {texts[:40]!r}: give a list, or call encode")
        return [self.encode(text, max_length) for text in texts]

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Ids -> text, pieces joined and no space before punctuation; capitals and accents are gone for good.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        ids = [int(id) for id in ids]
        self.check_ids(ids)
        return self._tokenizer.decode(ids, skip_special_tokens=not keep_special)

    def check_ids(self, ids: Any) -> None:
        """Raise a ValueError if one of `ids` (a CPU tensor, an array, nested lists of equal lengths) is not a token's."""
        check_ids(ids, self.vocab_size)

    def save(self, path: str | Path) -> None:
        """Write `vocab.txt`, or with a name that ends in .json the whole tokenizer, for `transformers` too.

        Raises:
            ValueError: a `vocab.txt` would not say all (capitals kept, tokens added by a `tokenizer.json`).
        """
        if Path(path).suffix == ".json":
            self._tokenizer.save(str(path))
            return
        if not self._is_plain() or any(map(has_space, self.tokens)):
            raise ValueError(f"{path} could not say how this tokenizer treats text: save it as tokenizer.json")
        Path(path).write_text("".join(token + "\n" for token in self.tokens), encoding="utf-8", newline="\n")

    def _is_plain(self) -> bool:
        """Whether the tokens say all: `from_tokens` of them would be the same."""
        model, normalizer = self._tokenizer.model, self._tokenizer.normalizer
        assert isinstance(model, models.WordPiece)
        assert isinstance(normalizer, normalizers.BertNormalizer)
        cleans = normalizer.clean_text and normalizer.handle_chinese_chars
        small = normalizer.lowercase and normalizer.strip_accents is not False
        added = len(self._tokenizer.get_added_tokens_decoder()) > len(SPECIAL)
        return cleans and small and not added and model.max_input_chars_per_word == LONGEST_WORD

    def _first_ids(self, text: str, count: int) -> list[int]:
        """The first `count` ids of the text, from as little of it as needed."""
        span = 16 * count + 256
        while isinstance(text, str) and len(text) > span:
            ids = self._ids(text[:span])
            # What the cut may have changed: the last word, and the words in what may be half an added token.
            starts = [place for place, id in enumerate(ids) if not self._continues[id]]
            whole = starts[-self._longest_added - 1] if len(starts) > self._longest_added else 0
            if whole >= count:
                return ids[:count]
            span *= 4
        return self._ids(text)[:count]

    def _ids(self, text: str) -> list[int]:
        """All ids of a text. A batch of one: unlike `encode` it lets other threads run (2.0 times the rate on two)."""
        try:
            return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(complaint(text)) from error

    def _words(self, ids: list[int]) -> list[int | None]:
        words: list[int | None] = []
        word = -1
        for id in ids:
            # An unknown word is a word: only it among the special tokens comes from the model and not from the text.
            special = id in self.special_ids and id != self.unk_id
            word += not special and not self._continues[id]
            words.append(None if special else word)
        return words


def _checked_tokens(tokenizer: Tokenizer) -> list[str]:
    """The tokens by id of a tokenizer that is BERT's in kind."""
    parts = (
        (tokenizer.model, models.WordPiece),
        (tokenizer.normalizer, normalizers.BertNormalizer),
        (tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer),
    )
    for part, due in parts:
        if not isinstance(part, due):
            raise ValueError(
                f"a {due.__name__} is due where the tokenizer has a {type(part).__name__}: give BERT's kind"
            )
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocab, key=vocab.__getitem__)
    for place, token in enumerate(tokens):
        if vocab[token] != place:
            raise ValueError(f"the token {token!r} has the id {vocab[token]} where {place} is due: number without gaps")
    if missing := [name for name in SPECIAL if name not in vocab]:
        raise ValueError(f"the vocabulary of {len(tokens)} tokens has no {', '.join(missing)}: add them")
    if vocab[PAD]:
        raise ValueError(f"{PAD} has the id {vocab[PAD]} where 0 is due: make it the first token")
    return tokens
