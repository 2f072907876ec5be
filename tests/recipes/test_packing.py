"""Documents packed into texts of one length: nothing lost, nothing padded, every border told."""

import sys
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/ccnews.py` does

from building import Rejected
from packing import Text, WordLength, distinct, pack, plain

from torchflava.transforms.wordpiece import WordPiece

ARTICLES = ["the cat sat on the mat and looked at the dog", "a storm is coming to the coast tonight", "rain, rain!"]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    WordPiece.train([*ARTICLES] * 3, 60).save(path)
    return path


DOCUMENTS = st.lists(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), min_size=1, max_size=9), min_size=1, max_size=6
)


@given(DOCUMENTS, st.integers(4, 13))
def test_packing_keeps_words_and_borders_and_fills_every_text(documents: list[list[str]], room: int) -> None:
    """By another way of saying it: the texts laid end to end are the documents, [SEP] or a text's end at each border."""
    texts = [Text(str(number), " ".join(words), True) for number, words in enumerate(documents)]
    size = {"[SEP]": 1, "a": 1, "bb": 2, "ccc": 3, "dddd": 4}
    packed = [line.split() for line in pack(texts, size.__getitem__, room)]

    assert [word for line in packed for word in line if word != "[SEP]"] == [*chain.from_iterable(documents)]
    ends = {sum(map(len, documents[: number + 1])) for number in range(len(documents))}
    told, borders = 0, set()
    for line in packed:
        assert line[0] != "[SEP]" != line[-1]
        assert sum(size[word] for word in line) <= room
        for word in line:
            if word == "[SEP]":
                borders.add(told)
            told += word != "[SEP]"
        borders.add(told)
    assert ends <= borders
    for line, following in pairwise(packed):  # one more word, or mark and word, would not fit
        assert sum(size[word] for word in line) + 1 + size[following[0]] > room


def test_a_document_goes_on_in_the_next_text_and_so_does_a_piece() -> None:
    texts = [Text("0", "one two three four five", True), Text("0+", "six", False), Text("1", "seven", True)]
    assert list(pack(texts, lambda word: 1, 4)) == ["one two three four", "five six [SEP] seven"]
    assert list(pack(texts, lambda word: 1, 3)) == ["one two three", "four five six", "seven"]
    assert list(pack(texts, lambda word: 1, 100)) == ["one two three four five six [SEP] seven"]


def test_a_word_longer_than_a_text_is_taken_apart() -> None:
    assert list(pack([Text("0", "abcdefgh ij", True)], len, 3)) == ["ab", "cd", "ef", "gh", "ij"]
    endless = "x" * 9000
    packed = list(pack([Text("0", endless, True)], lambda word: 1, 2))
    assert "".join(packed).replace(" ", "") == endless
    assert max(map(len, " ".join(packed).split())) <= 1 << 12
    assert list(pack([Text("0", "a b", True)], lambda word: 3, 2)) == ["a", "b"]  # a letter is no longer taken apart


def test_lengths_in_tokens_are_those_of_the_whole_text(vocab: Path) -> None:
    tokenizer = WordPiece.from_file(vocab)
    count = WordLength(vocab)
    texts = [Text(str(number), text, True) for number, text in enumerate([*ARTICLES, "Ünseen: wörds-and [MASK] 東京"])]
    packed = list(pack((text._replace(text=plain(text.text)) for text in texts), count, 20 - count.frame))
    lengths = [len(tokenizer.encode(line, 10_000).ids) for line in packed]
    assert len(lengths) > 2
    assert all(14 < length <= 20 for length in lengths[:-1])
    assert lengths == [2 + sum(map(count, line.split())) for line in packed]
    assert "[MASK]" not in " ".join(packed)
    assert " ".join(packed).count("[SEP]") == 2  # and a border where the second text ends


def test_the_lengths_of_only_so_many_words_are_kept(vocab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packing._KNOWN", 2)
    count = WordLength(vocab)
    lengths = [count(word) for word in ("cat", "storm", "coast", "cat", "coast")]
    assert lengths == [WordLength(vocab)(word) for word in ("cat", "storm", "coast", "cat", "coast")]
    assert sorted(count._known) == ["cat", "storm"]


def test_special_tokens_in_a_document_are_no_borders() -> None:
    assert plain("a [SEP] b [PAD]") == "a [ SEP ] b [ PAD ]"


def test_equal_documents_are_rejected_but_not_the_empty() -> None:
    texts: list[Text | Rejected] = [
        Text("0", "a  b", True),
        Text("1", "a b\n", True),
        Text("2", "", True),
        Text("3", " ", True),
    ]
    assert [each.key for each in distinct(texts) if isinstance(each, Rejected)] == ["1"]
