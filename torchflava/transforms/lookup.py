"""Labels and tokens to numbers, and which forms of input a text transform takes (torchtext 0.18's `transforms`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class UnsupportedInputError(TypeError, ValueError):
    """What a transform got has not the form that it takes (torchtext raises a TypeError)."""


@runtime_checkable
class Vocabulary(Protocol):
    """The one method of `torchtext.vocab.Vocab` that is asked for."""

    def lookup_indices(self, tokens: list[str]) -> list[int]:
        """Tokens -> ids."""
        ...


class VocabTransform(nn.Module):
    """Tokens -> ids: a list of str gives a list of int, a list of lists a list of lists.

    Args:
        vocab: a `torchtext.vocab.Vocab`, or (not in torchtext) a mapping as `WordPiece.vocab`.
    """

    def __init__(self, vocab: Vocabulary | Mapping[str, int]) -> None:
        super().__init__()
        if not isinstance(vocab, Vocabulary | Mapping):
            raise ValueError(f"vocab is a {type(vocab).__name__}: give a torchtext Vocab or a mapping of tokens to ids")
        self.vocab = vocab

    def forward(self, input: Any) -> Any:
        """list[str] or list[list[str]] -> the same of int."""
        return each_sequence("VocabTransform", input, (str,), change=self._lookup)

    def _lookup(self, tokens: list[str]) -> list[int]:
        if isinstance(self.vocab, Mapping):
            return _lookup(self.vocab, tokens, "the vocabulary")
        return self.vocab.lookup_indices(tokens)


class LabelToIndex(nn.Module):
    """A label -> its number; a list of labels -> a list of numbers.

    Args:
        label_names: the labels, none twice; or
        label_path: a file with one label a line.
        sort_names: number them in alphabetical order.

    Raises:
        ValueError: both or none of the two, a label twice; in a call, a label that is not among them.
    """

    def __init__(
        self, label_names: list[str] | None = None, label_path: str | None = None, sort_names: bool = False
    ) -> None:
        super().__init__()
        if bool(label_names) == bool(label_path):
            raise ValueError(f"label_names is {label_names!r} and label_path {label_path!r}: give one of the two")
        if label_path:
            lines = Path(label_path).read_text(encoding="utf-8").splitlines()
            label_names = [line.strip() for line in lines if line.strip()]
        names = sorted(label_names or ()) if sort_names else list(label_names or ())
        self._index = {name: place for place, name in enumerate(names)}
        if len(self._index) < len(names):
            raise ValueError(f"of {len(names)} labels only {len(self._index)} differ: remove the repeated ones")

    @property
    def label_names(self) -> list[str]:
        """The labels by number."""
        return list(self._index)

    def forward(self, input: Any) -> Any:
        """A str or list[str] -> int or list[int]."""
        if isinstance(input, str):
            return _lookup(self._index, [input], "the labels")[0]
        if is_list(input, str):
            return _lookup(self._index, input, "the labels")
        raise UnsupportedInputError(f"LabelToIndex takes a str or a list of str, not {form(input)}")


def _lookup(index: Mapping[str, int], names: list[str], where: str) -> list[int]:
    if unknown := [name for name in names if name not in index]:
        raise ValueError(f"{unknown[0]!r} is not among {where}: add it, or map it to one that is")
    return [index[name] for name in names]


def is_list(input: Any, kind: type) -> bool:
    """A list (no tuple, as in torchtext) with nothing but `kind` in it; an empty one is of every kind."""
    return isinstance(input, list) and all(isinstance(element, kind) for element in input)


def is_nested(input: Any, kind: type) -> bool:
    """A list of such lists."""
    return isinstance(input, list) and all(is_list(row, kind) for row in input)


def each_sequence(name: str, input: Any, kinds: tuple[type, ...], *, change: Callable[[list[Any]], list[Any]]) -> Any:
    """`change` of a list, or of each list in a list, whose elements are all of one of the `kinds`."""
    for kind in kinds:
        if is_list(input, kind):
            return change(input)
        if is_nested(input, kind):
            return [change(row) for row in input]
    names = " or ".join(kind.__name__ for kind in kinds)
    raise UnsupportedInputError(f"{name} takes a list of {names}, or a list of such lists, not {form(input)}")


def form(input: Any) -> str:
    """What an input is, in a few words for an error."""
    if isinstance(input, Tensor):
        return f"a tensor {tuple(input.shape)} {input.dtype}"
    if isinstance(input, list):
        inside = sorted({type(element).__name__ for element in input})
        return f"a list of {' and '.join(inside) or 'nothing'}"
    return f"{input!r:.80}, a {type(input).__name__}"
