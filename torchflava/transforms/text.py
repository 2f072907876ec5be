"""Text transforms with the names, signatures and behaviour of torchtext 0.18's `torchtext.transforms`.

They are `nn.Module`s from str and lists to str, lists and tensors, so that they go into torchtext's `Sequential` and its
modules go into ours; torchtext itself is not needed. What differs is said in each docstring and in docs/torchtext.md.
Letters: B batch, T tokens.
"""

import re
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from torch import Tensor, nn

from torchflava.transforms.lookup import (
    LabelToIndex,
    UnsupportedInputError,
    VocabTransform,
    each_sequence,
    form,
    is_list,
    is_nested,
)
from torchflava.transforms.vocabulary import (
    bert_tokenizer,
    complaint,
    fetch_tokenizer,
    read_tokenizer,
    read_vocabulary,
    tokenizer_file,
)

__all__ = [
    "AddToken",
    "BERTTokenizer",
    "LabelToIndex",
    "MaskTransform",
    "PadTransform",
    "Sequential",
    "StrToIntTransform",
    "ToTensor",
    "Truncate",
    "UnsupportedInputError",
    "VocabTransform",
]


class BERTTokenizer(nn.Module):
    """Text -> the ids of its WordPieces, as strings: a str gives a list, a list of str a list of lists.

    Special tokens are neither added nor, when written in the text, kept whole, unless `never_split` names them.

    Args:
        vocab_path: a `vocab.txt`, a `tokenizer.json` (its vocabulary only), their directory, or the name of a model of
            the Hugging Face hub, as "bert-base-uncased".
        do_lower_case: capitals become small letters.
        strip_accents: None does as `do_lower_case`. (torchtext 0.18 takes False for True.)
        return_tokens: the pieces instead of their ids.
        never_split: words between spaces that stay as they are written.

    Raises:
        ValueError: no such vocabulary, or a bad one.
    """

    def __init__(
        self,
        vocab_path: str,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        return_tokens: bool = False,
        never_split: list[str] | None = None,
    ) -> None:
        super().__init__()
        self._return_tokens = return_tokens
        self._never_split = frozenset(never_split or ())
        strip_accents = do_lower_case if strip_accents is None else strip_accents
        self._tokens = tokens = _tokens(vocab_path)
        self._tokenizer = bert_tokenizer(tokens, lowercase=do_lower_case, strip_accents=strip_accents)
        self._verbatim = bert_tokenizer(tokens)
        clean = normalizers.BertNormalizer(strip_accents=False, lowercase=False)
        self._verbatim.normalizer = normalizers.Sequence([normalizers.NFD(), clean] if strip_accents else [clean])
        self._verbatim.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def forward(self, input: Any) -> Any:
        """A str or a list of str -> list[str] or list[list[str]]."""
        if isinstance(input, str):
            return self._pieces(input)
        if is_list(input, str):
            return [self._pieces(text) for text in input]
        raise UnsupportedInputError(f"BERTTokenizer takes a str or a list of str, not {form(input)}")

    def _pieces(self, text: str) -> list[str]:
        text = text.strip()
        if not self._never_split.intersection(words := text.split(" ")):
            return self._read(self._tokenizer, text)
        pieces: list[str] = []
        for word in words:
            pieces += self._read(self._verbatim if word in self._never_split else self._tokenizer, word)
        return pieces

    def _read(self, tokenizer: Tokenizer, text: str) -> list[str]:
        try:
            ids = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except (TypeError, UnicodeEncodeError) as error:
            raise UnsupportedInputError(complaint(text)) from error
        return [self._tokens[id] if self._return_tokens else str(id) for id in ids]


class StrToIntTransform(nn.Module):
    """Numbers written as str -> int; lists and lists of lists."""

    def forward(self, input: Any) -> Any:
        """list[str] or list[list[str]] -> the same of int."""
        return each_sequence("StrToIntTransform", input, (str,), change=lambda row: [int(number) for number in row])


class Truncate(nn.Module):
    """The first `max_seq_len` of each sequence. A [SEP] that is already there is cut off: truncate first, then add it."""

    def __init__(self, max_seq_len: int) -> None:
        super().__init__()
        if max_seq_len < 0:
            raise ValueError(f"max_seq_len is {max_seq_len}: a length from 0 is due")
        self.max_seq_len = max_seq_len

    def forward(self, input: Any) -> Any:
        """A list of int or of str, or a list of such lists -> the same, shorter."""
        return each_sequence("Truncate", input, (int, str), change=lambda row: row[: self.max_seq_len])


class AddToken(nn.Module):
    """Adds one token to each sequence, at its begin or its end.

    Args:
        token: an int goes into sequences of int, a str into those of str.
        begin: False adds it at the end.
    """

    def __init__(self, token: int | str, begin: bool = True) -> None:
        super().__init__()
        self.token = token
        self.begin = begin

    def forward(self, input: Any) -> Any:
        """A list of the token's type, or a list of such lists -> the same, one longer."""
        kind = str if isinstance(self.token, str) else int
        token = [self.token]
        return each_sequence("AddToken", input, (kind,), change=lambda row: token + row if self.begin else row + token)


class PadTransform(nn.Module):
    """Fills a tensor's last dimension up to `max_length` with `pad_value`; a longer one stays as it is."""

    def __init__(self, max_length: int, pad_value: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.pad_value = float(pad_value)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T) -> (..., max(T, max_length))."""
        if not isinstance(x, Tensor):
            raise UnsupportedInputError(f"PadTransform takes a tensor, not {form(x)}: put ToTensor before it")
        missing = self.max_length - x.size(-1)
        return nn.functional.pad(x, (0, missing), value=self.pad_value) if missing > 0 else x


class ToTensor(nn.Module):
    """Ids -> a tensor: a list (T,), a list of lists (B, T).

    Args:
        padding_value: fills shorter rows up to the longest; None wants rows of one length.
        dtype: of the tensor. (torchtext 0.18 ignores it for a single list.)
    """

    def __init__(self, padding_value: int | None = None, dtype: torch.dtype = torch.long) -> None:
        super().__init__()
        self.padding_value = padding_value
        self.dtype = dtype

    def forward(self, input: Any) -> Tensor:
        """list[int] -> (T,); list[list[int]] -> (B, T)."""
        if is_list(input, int):
            return torch.tensor(input, dtype=self.dtype)
        if not is_nested(input, int):
            raise UnsupportedInputError(f"ToTensor takes a list of int or a list of such lists, not {form(input)}")
        lengths = {len(row) for row in input}
        if self.padding_value is None and len(lengths) > 1:
            raise ValueError(f"rows have from {min(lengths)} to {max(lengths)} ids: give ToTensor a padding_value")
        filler = [self.padding_value] * max(lengths)
        return torch.tensor([row + filler[len(row) :] for row in input], dtype=self.dtype)


class Sequential(nn.Sequential):
    """Transforms one after the other: ours, torchtext's, or any module."""

    def forward(self, input: Any) -> Any:
        """Whatever the first takes -> whatever the last gives."""
        for module in self:
            input = module(input)
        return input


class MaskTransform(nn.Module):
    """Hides tokens as torchtext does: `int(T * mask_prob)` places of each row, drawn among all of them.

    Places that fall on [PAD] (or [BOS]) are then given up, so a padded row has fewer; if none is left at all, the first
    token is hidden. Of the chosen 80 % become the mask token, 10 % a random id, 10 % stay. It sees single positions: it
    **cannot hide whole words**, for which `torchflava.transforms.masking.mask_whole_words` is there.

    Args:
        vocab_len: random ids are below it.
        mask_idx: the mask token's id.
        bos_idx: the first token's id ([CLS]).
        pad_idx: the padding's id.
        mask_bos: the first token may be hidden.
        mask_prob: the share of places.
        generator: where the randomness comes from; None makes one with seed 0 (torchtext draws from the global state).
            Ranks and workers that are to differ need a generator each.
    """

    mask_mask_prob = 0.8
    rand_mask_prob = 0.1

    def __init__(
        self,
        vocab_len: int,
        mask_idx: int,
        bos_idx: int,
        pad_idx: int,
        mask_bos: bool = False,
        mask_prob: float = 0.15,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= mask_prob <= 1:
            raise ValueError(f"mask_prob is {mask_prob}: a share from 0 to 1 is due")
        self.vocab_len = vocab_len
        self.mask_idx = mask_idx
        self.bos_idx = bos_idx
        self.pad_idx = pad_idx
        self.mask_bos = mask_bos
        self.mask_prob = mask_prob
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) int64 -> tokens with some hidden (B, T), the true ids of the chosen (K,), the choice (B, T) int32 0/1."""
        if not isinstance(tokens, Tensor) or tokens.dim() != 2 or not tokens.numel():
            raise UnsupportedInputError(f"MaskTransform takes ids (B, T) with at least one token, not {form(tokens)}")
        chosen = self._choose(tokens)
        draw = self._uniform(tokens)
        random_ids = torch.randint(self.vocab_len, tokens.shape, generator=self.generator, device=self.generator.device)
        masked = torch.where(chosen & (draw >= 1 - self.mask_mask_prob), self.mask_idx, tokens)
        masked = torch.where(chosen & (draw < self.rand_mask_prob), random_ids.to(tokens), masked)
        return masked, tokens[chosen], chosen.int()

    def _choose(self, tokens: Tensor) -> Tensor:
        """(B, T) -> bool: True for the places to predict."""
        share = int(tokens.size(1) * self.mask_prob)
        places = self._uniform(tokens).argsort(1)[:, :share]
        chosen = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, places, True)
        chosen &= tokens != self.pad_idx
        if not self.mask_bos:
            chosen &= tokens != self.bos_idx
        if not chosen.any():
            chosen[0, 0] = True
        return chosen

    def _uniform(self, tokens: Tensor) -> Tensor:
        draw = torch.rand(tokens.shape, generator=self.generator, device=self.generator.device)
        return draw.to(tokens.device)


def _tokens(vocab_path: str) -> list[str]:
    """The tokens by id of a file, of a directory or of a model of the hub."""
    path = Path(vocab_path)
    if not path.exists():
        if web := re.fullmatch(r"https?://[^/]+/(.+)/resolve/.+", vocab_path):
            raise ValueError(f"vocab_path is the address {vocab_path}: give the model's name, {web[1]!r}, or a file")
        if path.suffix in (".txt", ".json") or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", vocab_path):
            raise ValueError(f"vocab_path is {vocab_path!r}: there is no such file, and it is no model's name")
        path = fetch_tokenizer(vocab_path)
    path = tokenizer_file(path)
    try:
        if path.suffix != ".json":
            return read_vocabulary(path)
        vocab = read_tokenizer(path).get_vocab(with_added_tokens=True)
        return sorted(vocab, key=vocab.__getitem__)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
