"""CLIP's BPE against an oracle in plain Python; tests/parity/test_clip_tokenizers.py has open_clip's and transformers'."""

import gzip
import json
import pickle
import random
import re
import threading
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchflava.transforms import BytePair, WordPiece, encode_joined, load_tokenizer
from torchflava.transforms.bpe_files import MERGES, alphabet, byte_letters, of_pairs

PAIRS = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("c", "at</w>"), ("a", "t</w>"), ("'", "s</w>")]
CAPTIONS = [
    "a red ball and a red box",
    "the red cat's ball",
    "A RED Ball",
    "two red balls, 12 boxes",
    "café au lait",
] * 3


@cache
def of_the_pairs() -> BytePair:
    return BytePair(of_pairs(PAIRS))


@pytest.fixture
def small() -> BytePair:
    return of_the_pairs()


def merged(word: str, pairs: list[tuple[str, str]]) -> list[str]:
    """The pieces of a word: each merge in its turn, from the left, as often as it can be."""
    letters = [byte_letters()[byte] for byte in word.encode()]
    pieces = [*letters[:-1], letters[-1] + "</w>"]
    while True:
        known = [pairs.index(pair) for pair in pairwise(pieces) if pair in pairs]
        if not known:
            return pieces
        left, right = pairs[min(known)]
        joined: list[str] = []
        for piece in pieces:
            if joined and joined[-1] == left and piece == right:
                joined[-1] = left + right
            else:
                joined.append(piece)
        pieces = joined


def words_of(text: str) -> list[str]:
    """Words of ASCII text without an ampersand."""
    text = " ".join(text.split()).lower()
    return re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", text)


@settings(max_examples=150, deadline=None)
@given(st.text("abcdeht's!? 01_THE\n\x1f", max_size=30))
def test_ids_are_those_of_merging_by_hand(text: str) -> None:
    small = of_the_pairs()
    due = [merged(word, PAIRS) for word in words_of(text)]
    found = small.encode(text, 1000)
    assert [small.tokens[id] for id in found.ids[1:-1]] == [piece for word in due for piece in word]
    assert found.word_ids[1:-1] == [number for number, word in enumerate(due) for _ in word]
    assert (found.ids[0], found.ids[-1]) == (small.start_id, small.end_id)


def test_the_ids_are_in_clip_s_order(small: BytePair) -> None:
    assert small.tokens[:3] == ["!", '"', "#"]
    assert small.tokens[256] == "!</w>"
    assert small.tokens[512:] == [
        "th",
        "the</w>",
        "ca",
        "cat</w>",
        "at</w>",
        "'s</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    assert (small.pad_id, small.vocab_size) == (0, 520)
    assert set(byte_letters()) == set(range(256))
    assert not any(letter.isspace() for letter in byte_letters().values())


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The  Cat\n", "the cat"),
        ("caf\u00e9", "cafe\u0301"),
        ("&amp;lt;b&gt; &eacute;", "<b> \u00e9"),
        ("\u0130X", "i\u0307x"),
    ],
)
def test_texts_are_cleaned(small: BytePair, text: str, same: str) -> None:
    assert small.encode(text, 99) == small.encode(same, 99)


def test_special_tokens_cannot_be_written_in_a_text(small: BytePair) -> None:
    ids = small.encode("a <|endoftext|> b", 99).ids
    assert ids.count(small.end_id) == 1
    assert small.decode(ids) == "a <| endoftext |> b"


def test_a_long_text_loses_its_end(small: BytePair) -> None:
    whole = small.encode("the cat's " * 400, 5000).ids
    assert small.encode("the cat's " * 400, 9).ids == [*whole[:8], small.end_id]
    assert small.encode("x" * 5000, 5).ids == [small.start_id, *[small.vocab["x"]] * 3, small.end_id]
    assert small.encode("", 5).ids == [small.start_id, small.end_id]


@pytest.mark.parametrize("text", ["the cat's", "caf\u00e9 \u4e2d \U0001f600", "a !! b"])
def test_decoding(small: BytePair, text: str) -> None:
    ids = small.encode(text, 99).ids
    assert small.decode(ids) == text.replace("'s", " 's")
    assert small.decode(ids, keep_special=True) == f"<|startoftext|> {small.decode(ids)} <|endoftext|>"
    assert small.decode([small.vocab[byte_letters()[0xC3]]]) == "\ufffd"


def test_every_file_gives_the_same_tokenizer(small: BytePair, tmp_path: Path) -> None:
    lines = ["#version: 0.2", *map(" ".join, PAIRS), ""]
    (tmp_path / MERGES).write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "merges.txt").write_text("\r\n".join(lines), encoding="utf-8")
    (tmp_path / "vocab.json").write_text(json.dumps(small.vocab))
    (tmp_path / "json").mkdir()
    small.save(tmp_path / "json" / "tokenizer.json")
    for path in (MERGES, "vocab.json", "merges.txt", "json/tokenizer.json", "json", ""):
        found = load_tokenizer(tmp_path / path)
        assert isinstance(found, BytePair), path
        assert found.tokens == small.tokens, path
        assert found.encode("The cat's", 9) == small.encode("The cat's", 9), path
    with pytest.raises(ValueError, match="is written as"):
        small.save(tmp_path / "vocab.txt")


def test_the_released_file_unpacked(tmp_path: Path) -> None:
    lines = "#version: 0.2\nt h\nth e</w>\n"
    (tmp_path / MERGES).write_bytes(gzip.compress(lines.encode()))
    (tmp_path / MERGES.removesuffix(".gz")).write_text(lines)
    packed, unpacked = (load_tokenizer(tmp_path / name) for name in (MERGES, MERGES.removesuffix(".gz")))
    assert isinstance(unpacked, BytePair)
    assert unpacked.tokens == packed.tokens


def test_wordpiece_is_told_apart(tmp_path: Path) -> None:
    words = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])
    for name in ("vocab.txt", "tokenizer.json"):
        words.save(tmp_path / name)
        assert isinstance(load_tokenizer(tmp_path / name), WordPiece)
    assert isinstance(load_tokenizer(tmp_path), WordPiece)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (MERGES, b"\x1f\x8bdamaged", "is damaged"),
        (MERGES, gzip.compress(b"#version: 0.2\n", mtime=0), "holds no merges"),
        (MERGES, gzip.compress(b"#version: 0.2\nt h e\n", mtime=0), "line 2, 't h e', is no merge"),
        (MERGES, gzip.compress(b"\xff\xfe", mtime=0), "no text in UTF-8"),
        (MERGES, gzip.compress(bytes(2**26 + 1)), "unpacks to more than"),
        (MERGES, gzip.compress(b"th e\n", mtime=0), "'th' is merged, and is no token"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}', "CLIP's is a BPE whose words end in"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "end_of_word_suffix": "</w>"}}', "no merges or no vocabulary"),
        ("vocab.json", b"{}", "go together"),
        ("merges.txt", b"t h", "go together"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_tokenizer(tmp_path / name)


def test_vocabularies_with_which_not_all_texts_have_ids_are_refused(tmp_path: Path) -> None:
    whole = of_pairs(PAIRS)
    with pytest.raises(ValueError, match="has no !"):
        BytePair(whole._replace(tokens=whole.tokens[1:]))
    with pytest.raises(ValueError, match="twice"):
        BytePair(whole._replace(tokens=[*whole.tokens, "a"]))
    vocab = {token: 2 * id for id, token in enumerate(whole.tokens)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="without a gap"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda small: small.encode("a", 1), "max_length is 1"),
        (lambda small: small.encode(3, 9), "3 is a int"),
        (lambda small: small.encode("\ud800", 9), "lone surrogate"),
        (lambda small: small.encode_batch("a cat", 9), "texts is one str"),
        (lambda small: small.decode([520]), "outside this vocabulary of 520"),
        (lambda small: small.check_ids(torch.tensor([0.5])), "whole numbers"),
        (lambda small: BytePair.train(["a"], 513), "vocab_size is 513"),
        (lambda small: BytePair.train("a b", 600), "texts is one str"),
        (lambda small: BytePair.train([3], 600), "3 is a int"),
        (lambda small: BytePair.train(["a", "\ud800"], 600), "text 1: the str holds half a character"),
        (lambda small: BytePair.from_file("nowhere"), "nowhere: there is no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(small: BytePair, ask, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        ask(small)


def test_learning_is_the_same_in_any_order() -> None:
    drawn = random.Random(0)  # equal counts everywhere, so that ties decide
    rare = ["".join(drawn.choice("abcdefgh ") for _ in range(60)) for _ in range(40)]
    assert len({tuple(BytePair.train(rare, 700, min_frequency=1).tokens) for _ in range(3)}) == 1
    learnt = BytePair.train(CAPTIONS, 560)
    for seed in range(3):
        texts = CAPTIONS[:]
        random.Random(seed).shuffle(texts)
        assert BytePair.train(iter(texts), 560).tokens == learnt.tokens
    assert learnt.tokens[:512] == alphabet()
    assert learnt.vocab_size <= 560
    assert {"red</w>", "ball</w>"} <= set(learnt.tokens)
    assert learnt.decode(learnt.encode("Red café", 20).ids) == "red café"


def test_the_first_merge_learnt_is_the_most_frequent_pair() -> None:
    """By counting the pairs of all words."""
    counts: Counter[tuple[str, str]] = Counter()
    for text in CAPTIONS:
        for word in words_of(text.replace("é", "")):
            pieces = merged(word, [])
            counts.update(pairwise(pieces))
    ((_, most),) = counts.most_common(1)
    learnt = BytePair.train(CAPTIONS, 515).tokens[512]
    assert [count for pair, count in counts.items() if "".join(pair) == learnt] == [most]


def test_pairs_of_texts_are_joined(small: BytePair) -> None:
    start, end = small.start_id, small.end_id
    first, second = (small.encode(text, 9).ids[1:-1] for text in ("the", "cat"))
    assert encode_joined(small, "the", "cat", max_length=9) == [start, *first, end, *second, end]


def test_it_can_be_pickled_and_shared(small: BytePair) -> None:
    again = pickle.loads(pickle.dumps(small))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(again.encode("the cat's", 9))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [small.encode("the cat's", 9)] * 4
