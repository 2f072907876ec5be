"""CLIP's tokenizer beside open_clip's and transformers': the same ids, and what makes the difference where they differ.

open_clip repairs broken encodings with ftfy first, which is left to the user here; transformers resolves no HTML entities and
takes special tokens written in a text for special. Letters that Unicode gained lately are letters to open_clip alone.
"""

import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchflava.transforms import BytePair

pytestmark = pytest.mark.slow

HARD = [
    "A photo of a cat.",
    "  two\tspaces\n\n",
    "don't can't WE'RE they'll I'd 'S",
    "3.14159 and 2024",
    "e\u0301 caf\u00e9 \u00c5ngstr\u00f6m",
    "\U0001f600\U0001f603\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "\u4e2d\u6587\u5b57\u7b26 \u6d4b\u8bd5",
    "\u65e5\u672c\u8a9e \u30ab\u30bf\u30ab\u30ca",
    "!!?! \u200b zero",
    "\u0130stanbul",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "x" * 300,
    "",
    "   ",
    "_a_b-c",
    "half\u00a0space",
    "\u00bd \u00b2 \u2167",
    "tonnes of words " * 60,
]
OF_OPEN_CLIP = [
    "&amp;lt;b&amp;gt; &eacute; &#65;",
    "a\x00b\x07c\x1cd\x85e",
    "<|endoftext|> <|startoftext|>",
    "\u039f\u0394\u039f\u03a3 \u03a3\u0391\u03a3",
    "'\u017f",
    "\u201ccurly\u2019s\u201d",
    "\ufb01 \uff21",
    "\u00e2\u20ac\u2122s",
]


def assigned(text: str) -> bool:
    """Whether all tables of Unicode know each letter; U+0345 is a letter to one that ignores case."""
    return not any(unicodedata.category(letter) == "Cn" or letter == "\u0345" for letter in text)


@pytest.fixture(scope="module")
def original() -> object:
    """open_clip's tokenizer; imported here, for it takes seconds."""
    reason = "open_clip is not installed: pip install '.[test]'"
    return pytest.importorskip("open_clip.tokenizer", reason=reason).SimpleTokenizer()


@pytest.fixture(scope="module")
def ours(original) -> BytePair:
    return BytePair.from_file(sys.modules["open_clip.tokenizer"].default_bpe())


@pytest.fixture(scope="module")
def clip_tokenizer() -> type:
    """transformers' class."""
    reason = "transformers is not installed: pip install '.[parity]'"
    return pytest.importorskip("transformers", reason=reason).CLIPTokenizer


@pytest.fixture(scope="module")
def theirs(ours: BytePair, clip_tokenizer: type) -> object:
    """transformers' tokenizer over the same vocabulary."""
    return clip_tokenizer(vocab=ours.vocab, merges=ours._merges.pairs)


@pytest.fixture(scope="module")
def repaired(original) -> Callable[[str], str]:
    """What open_clip does first; ftfy comes with it."""
    return sys.modules["ftfy"].fix_text


@pytest.mark.parametrize("text", HARD + OF_OPEN_CLIP, ids=lambda text: ascii(text[:12]))
def test_hard_texts_as_open_clip(text: str, ours: BytePair, original, repaired: Callable[[str], str]) -> None:
    assert ours.encode(repaired(text), 10**4).ids[1:-1] == original.encode(text)
    ids = ours.encode(repaired(text), 77).ids
    assert original(text)[0].tolist() == [*ids, *[0] * (77 - len(ids))]


@pytest.mark.parametrize("text", HARD, ids=lambda text: ascii(text[:12]))
def test_hard_texts_as_transformers(text: str, ours: BytePair, theirs) -> None:
    assert ours.encode(text, 10**4).ids == theirs(text)["input_ids"]


def test_any_text_as_open_clip(ours: BytePair, original, repaired: Callable[[str], str]) -> None:
    @settings(max_examples=400, deadline=None)
    @given(st.text(max_size=40).filter(assigned))
    def same(text: str) -> None:
        whole = repaired(text)
        if assigned(whole):
            assert ours.encode(whole, 10**4).ids[1:-1] == original.encode(text)

    same()


def test_any_text_as_transformers(ours: BytePair, theirs) -> None:
    letters = st.characters(exclude_categories=["Cn", "Cs", "Cc"], exclude_characters="&\u03a3\u0345\u017f\u0130<")

    @settings(max_examples=300, deadline=None)
    @given(st.text(letters, max_size=40))
    def same(text: str) -> None:
        assert ours.encode(text, 10**4).ids == theirs(text)["input_ids"]

    same()


def test_decoding_as_open_clip(ours: BytePair, original) -> None:
    for text in HARD:
        ids = ours.encode(text, 10**4).ids
        assert ours.decode(ids) == original.decode(ids[1:-1]).rstrip(" ")


def test_the_released_vocabulary(ours: BytePair, original) -> None:
    assert (ours.vocab_size, ours.start_id, ours.end_id, ours.pad_id) == (49408, 49406, 49407, 0)
    assert ours.tokens[:-2] == list(original.encoder)[:-2]


def test_what_is_saved_transformers_reads(ours: BytePair, clip_tokenizer: type, tmp_path: Path) -> None:
    ours.save(tmp_path / "tokenizer.json")
    read = clip_tokenizer.from_pretrained(tmp_path)
    for text in HARD:
        assert read(text)["input_ids"] == ours.encode(text, 10**4).ids
    read.save_pretrained(tmp_path / "again")
    assert BytePair.from_file(tmp_path / "again").tokens == ours.tokens
