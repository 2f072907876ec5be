"""The torchtext-named transforms: known answers, refusals, shares."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from torch import Tensor, nn

from torchflava.transforms.text import (
    AddToken,
    BERTTokenizer,
    LabelToIndex,
    MaskTransform,
    PadTransform,
    StrToIntTransform,
    ToTensor,
    Truncate,
    UnsupportedInputError,
    VocabTransform,
)

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "red", "ball", "##s", "mask", "Red", "é", "e", "!"]


@pytest.fixture
def vocab(tmp_path: Path) -> str:
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return str(path)


def exactly(value: Any, kind: Any) -> bool:
    if kind in (int, str):
        return type(value) is kind
    return type(value) is list and all(exactly(element, kind.__args__[0]) for element in value)


def test_bert_tokenizer_known_answers(vocab: str) -> None:
    assert BERTTokenizer(vocab)("Red balls!") == ["7", "8", "9", "14"]
    assert BERTTokenizer(vocab)(["Red", "", "x"]) == [["7"], [], ["1"]]
    assert BERTTokenizer(vocab)([]) == []
    tokens = BERTTokenizer(vocab, return_tokens=True)
    assert tokens("Red É [MASK]") == ["red", "e", "[", "mask", "]"]
    assert BERTTokenizer(vocab, False, return_tokens=True)("Red red é") == ["Red", "red", "é"]
    assert BERTTokenizer(vocab, True, False, True)("Red é") == ["red", "é"]
    assert BERTTokenizer(vocab, False, True, True)("Red é") == ["Red", "e"]


def test_never_split(vocab: str) -> None:
    tokens = BERTTokenizer(vocab, return_tokens=True, never_split=["[MASK]", "Red", "gone"])
    assert tokens(" [MASK]  Red RED balls gone") == ["[MASK]", "Red", "red", "ball", "##s", "[UNK]"]
    assert tokens("[MASK]! Red!") == ["[", "mask", "]", "!", "red", "!"]


@pytest.mark.parametrize("text", [5, None, ("red",), ["red", 5], [["red"]], b"red", torch.ones(2), "half \ud83d"])
def test_bert_tokenizer_refuses(vocab: str, text: object) -> None:
    with pytest.raises(UnsupportedInputError, match="str"):
        BERTTokenizer(vocab)(text)
    assert issubclass(UnsupportedInputError, TypeError)  # as in torchtext
    assert issubclass(UnsupportedInputError, ValueError)  # as all over this package


def test_pickle_and_copy(vocab: str) -> None:
    tokenizer = BERTTokenizer(vocab, never_split=["[MASK]"])
    for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert again("Red [MASK] balls") == tokenizer("Red [MASK] balls") == ["7", "4", "8", "9"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/vocab.txt", "no such file"),
        ("tokenizer.json", "no such file"),
        ("not a name", "no model's name"),
        ("https://example.org/some/model/resolve/main/vocab.txt", "'some/model'"),
    ],
)
def test_no_vocabulary(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BERTTokenizer(name)


def test_bad_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[UNK]\nred\nred\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: line 3 repeats 'red' of line 2"):
        BERTTokenizer(str(path))
    path.write_text("red\n")
    with pytest.raises(ValueError, match=r"no \[UNK\]"):
        BERTTokenizer(str(path))


def test_vocabulary_from_the_hub_or_a_directory(vocab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--some--bert" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    (snapshot / "vocab.txt").write_bytes(Path(vocab).read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert BERTTokenizer("some/bert")("Red") == BERTTokenizer(str(snapshot))("Red") == ["7"]
    BERTTokenizer(vocab)._tokenizer.save(str(snapshot / "tokenizer.json"))
    assert BERTTokenizer("some/bert", do_lower_case=False)("Red") == ["11"]
    with pytest.raises(ValueError, match="some/other"):
        BERTTokenizer("some/other")


@pytest.mark.parametrize(
    ("transform", "input", "due"),
    [
        (Truncate(2), [1, 2, 3], [1, 2]),
        (Truncate(2), ["a", "b", "c"], ["a", "b"]),
        (Truncate(2), [[1], [1, 2, 3], []], [[1], [1, 2], []]),
        (Truncate(0), [["a"]], [[]]),
        (Truncate(2), [], []),
        (AddToken(0), [1, 2], [0, 1, 2]),
        (AddToken(0, begin=False), [[1], []], [[1, 0], [0]]),
        (AddToken("x"), ["a"], ["x", "a"]),
        (AddToken("x", False), [["a"], []], [["a", "x"], ["x"]]),
        (AddToken("x"), [], ["x"]),
        (AddToken(5), [], [5]),
        (StrToIntTransform(), ["1", "22"], [1, 22]),
        (StrToIntTransform(), [["1"], []], [[1], []]),
        (StrToIntTransform(), [], []),
        (VocabTransform({"a": 3, "b": 5}), ["b", "a"], [5, 3]),
        (VocabTransform({"a": 3, "b": 5}), [["b"], []], [[5], []]),
        (LabelToIndex(["test", "label", "indices"]), ["indices", "test"], [2, 0]),
        (LabelToIndex(["test", "label", "indices"], sort_names=True), "test", 2),
    ],
)
def test_on_lists(transform: nn.Module, input: Any, due: Any) -> None:
    before = copy.deepcopy(input)
    assert transform(input) == due
    assert input == before
    assert exactly(transform(input), type(due)) if isinstance(due, int) else type(due) is list


@pytest.mark.parametrize(
    ("transform", "input"),
    [
        (Truncate(2), (1, 2)),
        (Truncate(2), "abc"),
        (Truncate(2), [1, "a"]),
        (Truncate(2), [[1], ["a"]]),
        (Truncate(2), [1.5]),
        (Truncate(2), torch.ones(3)),
        (AddToken(0), ["a"]),
        (AddToken("x"), [1]),
        (StrToIntTransform(), [1]),
        (StrToIntTransform(), "1"),
        (ToTensor(), ["1"]),
        (ToTensor(), [[1], 2]),
        (ToTensor(), [[[1]]]),
        (PadTransform(3, 0), [1]),
        (VocabTransform({}), "a"),
        (LabelToIndex(["a"]), 5),
        (MaskTransform(9, 4, 2, 0), [[1, 2]]),
        (MaskTransform(9, 4, 2, 0), torch.ones(3, dtype=torch.long)),
        (MaskTransform(9, 4, 2, 0), torch.ones(0, 3, dtype=torch.long)),
    ],
)
def test_refused_input(transform: nn.Module, input: Any) -> None:
    with pytest.raises(UnsupportedInputError, match=type(transform).__name__):
        transform(input)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Truncate(-1), "-1"),
        (lambda: StrToIntTransform()(["red"]), "red"),
        (lambda: VocabTransform({"a": 1})(["b"]), "'b'"),
        (lambda: VocabTransform(5), "int"),
        (lambda: LabelToIndex(), "one of the two"),
        (lambda: LabelToIndex(["a"], "path"), "one of the two"),
        (lambda: LabelToIndex(["a", "a"]), "repeated"),
        (lambda: LabelToIndex(["a"])(""), "''"),
        (lambda: MaskTransform(9, 4, 2, 0, mask_prob=1.5), "1.5"),
        (lambda: ToTensor()([[1], [1, 2, 3]]), "from 1 to 3"),
    ],
)
def test_bad_values(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_label_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("no\n\n yes \n")
    labels = LabelToIndex(label_path=str(path))
    assert (labels.label_names, labels("yes")) == (["no", "yes"], 1)


def test_tokens_to_ids_two_ways(vocab: str) -> None:
    text = ["Red [MASK] balls", "x!"]
    by_vocab = VocabTransform({token: i for i, token in enumerate(TOKENS)})
    assert by_vocab(BERTTokenizer(vocab, return_tokens=True)(text)) == StrToIntTransform()(BERTTokenizer(vocab)(text))


def test_to_tensor() -> None:
    assert ToTensor()([1, 2]).equal(torch.tensor([1, 2]))
    assert ToTensor()([[1, 2], [3, 4]]).equal(torch.tensor([[1, 2], [3, 4]]))
    assert ToTensor(9)([[1], [], [2, 3]]).equal(torch.tensor([[1, 9], [9, 9], [2, 3]]))
    for input, shape in (([], (0,)), ([[]], (1, 0))):
        assert ToTensor(0)(input).shape == shape
    for input in ([1], [[1], [2, 3]]):
        assert ToTensor(0, torch.int32)(input).dtype == torch.int32


def test_pad_transform() -> None:
    for shape in ((2,), (3, 2), (5, 3, 2)):
        x = torch.ones(shape, dtype=torch.long)
        padded = PadTransform(5, 7)(x)
        assert padded.dtype == torch.long
        assert padded.equal(torch.cat([x, torch.full((*shape[:-1], 3), 7)], -1))
        assert PadTransform(2, 7)(x) is x
        assert PadTransform(1, 7)(x) is x


IDS = torch.tensor([[6, 0, 1, 2, 3], [6, 0, 1, 4, 4]])
"""[BOS] is 6, [PAD] is 4, [MASK] is 5."""


@pytest.mark.parametrize("mask_bos", [False, True])
def test_mask_everything(mask_bos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskTransform, "mask_mask_prob", 1.0)
    monkeypatch.setattr(MaskTransform, "rand_mask_prob", 0.0)
    before = IDS.clone()
    masked, targets, mask = MaskTransform(7, 5, 6, 4, mask_bos, 1.0)(IDS)
    first = 5 if mask_bos else 6
    assert masked.tolist() == [[first, 5, 5, 5, 5], [first, 5, 5, 4, 4]]
    assert targets.equal(IDS[mask.bool()])
    assert mask.tolist() == [[int(mask_bos), 1, 1, 1, 1], [int(mask_bos), 1, 1, 0, 0]]
    assert (mask.dtype, masked.dtype) == (torch.int32, torch.int64)
    assert IDS.equal(before)


def test_mask_nothing_hides_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskTransform, "mask_mask_prob", 1.0)
    monkeypatch.setattr(MaskTransform, "rand_mask_prob", 0.0)
    masked, targets, mask = MaskTransform(7, 5, 6, 4, mask_prob=0.0)(IDS)
    assert masked.tolist() == [[5, 0, 1, 2, 3], [6, 0, 1, 4, 4]]
    assert (targets.tolist(), int(mask.sum())) == ([6], 1)


def test_mask_shares() -> None:
    ids = torch.full((400, 40), 7)
    masked, targets, mask = MaskTransform(1000, 5, 6, 4, generator=torch.Generator().manual_seed(3))(ids)
    assert mask.sum(1).unique().tolist() == [6]  # int(40 * .15) in every row
    assert len(targets) == 2400
    chosen = masked[mask.bool()]
    assert abs((chosen == 5).float().mean() - 0.8) < 0.03
    assert abs((chosen == 7).float().mean() - 0.1) < 0.03
    assert chosen.max() > 900
    assert bool((masked == 7)[~mask.bool()].all())
    assert mask.sum(0).min() > 30  # no place is left out


def test_mask_randomness_is_the_generators() -> None:
    ids = torch.randint(7, 100, (8, 30), generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()

    def draw(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return MaskTransform(100, 5, 6, 4, generator=generator)(ids)[0]

    assert draw(1).equal(draw(1))
    assert draw(None).equal(draw(None))
    assert not draw(1).equal(draw(2))
    transform = MaskTransform(100, 5, 6, 4)
    assert not transform(ids)[0].equal(transform(ids)[0])
    assert torch.get_rng_state().equal(state)
