"""Vocabularies: a learned one against a slow twin, files good and bad, the hub's cache in a folder of the test."""

import json
import random
from collections import Counter
from pathlib import Path

import huggingface_hub.constants
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from torchflava.transforms.vocabulary import SPECIAL, bert_tokenizer, learn_tokens, read_vocabulary
from torchflava.transforms.wordpiece import WordPiece

TOKENS = [*SPECIAL, *"abcdr!.'#0", "##a", "##b", "##bc", "##d", "##r", "ab", "abc", "bad", "##ad", "red", "ball"]
CAPTIONS = [
    "a red ball on a blue cube",
    "two red cubes",
    "a small blue ball",
    "Ein großer roter Würfel",
    "red, redder!",
] * 2


@pytest.fixture(scope="module")
def tiny() -> WordPiece:
    return WordPiece.from_tokens(TOKENS)


def merges(words: Counter[str], tokens: list[str], vocab_size: int, min_frequency: int) -> list[str]:
    """The slow twin: merge the pair that stands side by side most often; the lower ids win among equals."""
    tokens = list(tokens)
    split = {word: [word[0], *("##" + character for character in word[1:])] for word in words}
    while len(tokens) < vocab_size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in zip(split[word], split[word][1:], strict=False):
                pairs[pair] += times
        rank = {token: place for place, token in enumerate(tokens)}
        if not pairs or max(pairs.values()) < min_frequency:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], rank[pair[0]], rank[pair[1]]))
        tokens.append(left + right.removeprefix("##"))
        for pieces in split.values():
            place = 0
            while place < len(pieces) - 1:
                if (pieces[place], pieces[place + 1]) == (left, right):
                    pieces[place : place + 2] = [tokens[-1]]
                place += 1
    return tokens


@pytest.mark.parametrize("seed", range(3))
def test_training_equals_the_slow_twin(seed: int) -> None:
    rng = random.Random(seed)
    texts = [" ".join("".join(rng.choices("abcd", k=rng.randint(1, 6))) for _ in range(9)) for _ in range(30)]
    alphabet = [*SPECIAL, *"abcd", "##a", "##b", "##c", "##d"]
    words = Counter(word for text in texts for word in text.split())
    assert learn_tokens(texts, 60) == merges(words, alphabet, 60, 2)


def test_training_is_deterministic() -> None:
    """The Rust trainer by itself fails this: it numbers pieces in the order of a hash map."""
    rng = random.Random(0)
    texts = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz   ") for _ in range(40)) for _ in range(60)] + CAPTIONS
    first = WordPiece.train(texts, 300)
    assert first.vocab_size == 300
    for _ in range(3):
        rng.shuffle(texts)
        assert WordPiece.train(iter(texts), 300).tokens == first.tokens


def test_a_trained_vocabulary() -> None:
    tokenizer = WordPiece.train(CAPTIONS, 4000)
    assert tuple(tokenizer.tokens[:5]) == SPECIAL
    assert (tokenizer.pad_id, tokenizer.special_ids) == (0, {0, 1, 2, 3, 4})
    assert tokenizer.vocab_size < 200
    for text in CAPTIONS:
        words = tokenizer.encode(text, 77)
        assert tokenizer.unk_id not in words.ids
        assert len(words.ids) == words.word_ids[-2] + 3  # each word is one piece by now
    assert tokenizer.decode(tokenizer.encode("Würfel, großer", 77).ids) == "wurfel, großer"
    assert tokenizer.unk_id not in tokenizer.encode("bdulbr", 77).ids


@pytest.mark.parametrize("texts", [["a"], ["red ball"], ["世界 red"], ["🙂 smile", "🙂"], ["x" * 500 + " red"]])
def test_training_on_next_to_nothing(texts: list[str]) -> None:
    tokenizer = WordPiece.train(texts, 100)
    ids = tokenizer.encode(texts[0].split()[-1], 8).ids
    assert len(ids) > 2
    assert tokenizer.unk_id not in ids


def test_training_with_a_small_vocabulary_keeps_the_frequent_characters() -> None:
    tokenizer = WordPiece.train(["aaa aaa bbb bbb", "aab bba c!"], 10)
    assert tokenizer.tokens == [*SPECIAL, "!", "a", "b", "##a", "##b"]
    assert tokenizer.encode("ab c", 8).ids[-2] == tokenizer.unk_id
    assert WordPiece.train(["zy zy zy abc"], 9).tokens == [*SPECIAL, "y", "z", "##y", "##z"]
    assert WordPiece.train(["zy zy zy", "zaza"], 11).tokens == [*SPECIAL, "a", "y", "z", "##a", "##y", "##z"]
    capitals = WordPiece.train(["Red Ball Éa"] * 3, 100, lowercase=False)
    assert {"Red", "Ball", "Éa"} <= set(capitals.tokens)


def test_training_keeps_a_thousand_characters() -> None:
    common, rare = (" ".join(map(chr, range(start, start + 600))) for start in (0x5000, 0x4E00))
    tokens = WordPiece.train([common, common, rare], 5000).tokens
    assert len(tokens) == 1005
    assert set(common.split()) <= set(tokens)


def test_training_leaves_endless_words_out() -> None:
    """They are [UNK] anyway, and would cost their length times the number of merges."""
    tokenizer = WordPiece.train(["x" * 100_000 + " red," + "y" * 101 + " red", "z" * 100], 300)
    assert not {"x", "xx", "y", "yy"} & set(tokenizer.tokens)
    assert {"red", "##zzzz"} <= set(tokenizer.tokens)


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [([], 50, "no text"), ([" ", "\x00"], 50, "no text"), (["red"], 6, "at least 7"), ("red ball", 50, "one str")],
)
def test_training_on_nothing(texts: list[str], vocab_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordPiece.train(texts, vocab_size)


def test_save_and_load(tiny: WordPiece, tmp_path: Path) -> None:
    for name in ("vocab.txt", "tokenizer.json"):
        tiny.save(tmp_path / name)
        assert same(WordPiece.from_file(tmp_path / name), tiny)
    assert (tmp_path / "vocab.txt").read_bytes() == "".join(f"{token}\n" for token in TOKENS).encode()
    assert same(WordPiece.from_file(tmp_path), tiny)
    whole = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("Red zz")
    assert whole.ids == tiny.encode("Red zz", 8).ids
    capitals = WordPiece.from_tokens([*TOKENS, "Red"], lowercase=False)
    accents = WordPiece.from_tokens(TOKENS, strip_accents=False)
    wordy = bert_tokenizer([*TOKENS, "[NEW]"])
    wordy.add_special_tokens(["[NEW]"])
    for special in (capitals, accents, WordPiece(wordy)):
        with pytest.raises(ValueError, match=r"save it as tokenizer\.json"):
            special.save(tmp_path / "cased.txt")
    capitals.save(tmp_path / "cased.json")
    assert same(WordPiece.from_file(tmp_path / "cased.json"), capitals)
    assert WordPiece.from_file(tmp_path / "cased.json").encode("Red", 8).ids[1] == len(TOKENS)


def same(one: WordPiece, other: WordPiece) -> bool:
    text = "Red BALL, abcd [MASK] é zzz"
    return one.tokens == other.tokens and one.encode(text, 32) == other.encode(text, 32)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*SPECIAL, "a", "b", "a"], r"line 8 repeats 'a' of line 6"),
        ([*SPECIAL, "a", "", "b"], r"line 7 is blank"),
        ([*SPECIAL, "a", ""], r"line 7 is blank"),
        ([*SPECIAL, "a 17"], r"line 6 is 'a 17'"),
        ([*SPECIAL[:2], "a"], r"no \[CLS\], \[SEP\], \[MASK\]"),
        (["[PAD]", "a"], r"no \[UNK\]"),
        (["a", *SPECIAL], r"\[PAD\] has the id 1"),
        ([], r"line 1 is blank"),
    ],
)
def test_bad_vocabulary(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        WordPiece.from_file(path)
    assert str(path) in str(caught.value)


def test_vocabulary_bytes(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*SPECIAL, "é\u0085"[:1]]).encode())
    assert read_vocabulary(path) == [*SPECIAL, "é"]
    path.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(ValueError, match="byte 6"):
        WordPiece.from_file(path)
    for missing in (tmp_path / "nothing.txt", tmp_path / "nothing.json"):
        with pytest.raises(ValueError, match="no such file"):
            WordPiece.from_file(missing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no tokenizer"):
        WordPiece.from_file(tmp_path / "empty")


def json_tokenizer(path: Path, tokens: list[str], **parts: object) -> None:
    """A tokenizer.json as sentence-transformers has them: it cuts and pads to 128."""
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = parts.get("normalizer", normalizers.BertNormalizer())
    tokenizer.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.BertPreTokenizer())
    if "[CLS]" in tokens:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(path))


def test_tokenizer_json_neither_cuts_nor_pads(tiny: WordPiece, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    json_tokenizer(path, TOKENS)
    tokenizer = WordPiece.from_file(path)
    assert same(tokenizer, tiny)
    assert len(tokenizer.encode("red", 512).ids) == 3
    assert len(tokenizer.encode("red " * 400, 512).ids) == 402
    tokenizer.save(tmp_path / "vocab.txt")
    assert read_vocabulary(tmp_path / "vocab.txt") == TOKENS
    with pytest.raises(ValueError, match="leave out lowercase=True"):
        WordPiece.from_file(path, lowercase=True)


def test_a_tokenizer_is_not_changed() -> None:
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(5)
    before = tokenizer.to_str()
    WordPiece(tokenizer)
    assert tokenizer.to_str() == before


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": normalizers.Lowercase()}, "BertNormalizer is due where the tokenizer has a Lowercase"),
        (
            {"pre_tokenizer": pre_tokenizers.Whitespace()},
            "BertPreTokenizer is due where the tokenizer has a Whitespace",
        ),
    ],
)
def test_a_foreign_tokenizer_json(tmp_path: Path, parts: dict[str, object], message: str) -> None:
    path = tmp_path / "tokenizer.json"
    json_tokenizer(path, TOKENS, **parts)
    with pytest.raises(ValueError, match=message):
        WordPiece.from_file(path)


def test_more_bad_tokenizer_jsons(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for content in ("", "{}", "[PAD]\n", json.dumps({"model": 5})):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"no tokenizer\.json"):
            WordPiece.from_file(path)
    json_tokenizer(path, TOKENS)
    content = json.loads(path.read_text())
    content["model"]["vocab"]["red"] = 500
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="gaps"):
        WordPiece.from_file(path)


def cache(folder: Path, name: str, files: dict[str, str]) -> None:
    """The layout that the hub's library keeps its files in."""
    model = folder / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(snapshot.name)
    for file, content in files.items():
        (snapshot / file).write_text(content, encoding="utf-8")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with HF_HUB_OFFLINE=1, which is read when the library is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_from_hub(tiny: WordPiece, tmp_path: Path) -> None:
    lines = "".join(f"{token}\n" for token in [*TOKENS, "Red"])
    cache(tmp_path, "some/lines", {"vocab.txt": lines})
    cache(tmp_path, "some/cased", {"vocab.txt": lines, "tokenizer_config.json": '{"do_lower_case": false}'})
    cache(tmp_path, "whole", {"tokenizer.json": tiny._tokenizer.to_str(), "vocab.txt": "no"})
    cache(tmp_path, "some/empty", {"config.json": "{}"})
    red, capital = TOKENS.index("red"), len(TOKENS)
    assert WordPiece.from_hub("some/lines", cache_dir=tmp_path).encode("Red", 8).ids[1] == red
    assert WordPiece.from_hub("some/lines", cache_dir=tmp_path, lowercase=False).encode("Red", 8).ids[1] == capital
    assert WordPiece.from_hub("some/cased", cache_dir=tmp_path).encode("Red", 8).ids[1] == capital
    assert same(WordPiece.from_hub("whole", cache_dir=tmp_path), tiny)
    assert same(WordPiece.from_hub("whole", cache_dir=tmp_path, revision="0123456789" * 4), tiny)
    for name in ("some/empty", "not/there", "some/lines/too/deep"):
        with pytest.raises(ValueError, match=name):
            WordPiece.from_hub(name, cache_dir=tmp_path)
    with pytest.raises(ValueError, match="nothing-like-it"):
        WordPiece.from_hub("whole", cache_dir=tmp_path, revision="nothing-like-it")
