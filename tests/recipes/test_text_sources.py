"""Scripts for the text corpora: documents packed without padding, borders kept, bad rows counted."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/ccnews.py` does

import bookcorpus
import ccnews
from building import Rejected
from documents import in_parts, rows_of, stretches_of
from packing import Packing, pack_corpus

from torchflava.data.lines import TextLines
from torchflava.transforms.wordpiece import WordPiece

ARTICLES = ["the cat sat on the mat and looked at the dog", "a storm is coming to the coast tonight", "rain, rain!"]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    WordPiece.train([*ARTICLES] * 3, 60).save(path)
    return path


# CC-News


def article(text: Any, title: Any = "Title", **more: Any) -> dict[str, Any]:
    told = {
        "domain": "example.org",
        "date": "2017-01-01 00:00:00",
        "description": "",
        "url": "http://x",
        "image_url": None,
    }
    return {"title": title, "text": text, **told, **more}


def news(folder: Path) -> Path:
    folder.mkdir()
    rows = [
        json.dumps(article(ARTICLES[0])).encode(),
        json.dumps(article(ARTICLES[1], title=None)).encode(),
        json.dumps(article(ARTICLES[0], url="http://elsewhere")).encode(),
        json.dumps(article("  ")).encode(),
        json.dumps(article(None)).encode(),
        json.dumps(article("half \ud83d")).encode(),
        json.dumps(article("LATIN")).encode().replace(b"LATIN", b"caf\xe9"),
        b"[" * 100_000,
        b"",
        b'"a string"',
        json.dumps({"title": "no text"}).encode(),
        json.dumps(article(ARTICLES[2] + "\n\n[SEP]")).encode(),
    ]
    (folder / "cc_news-00.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    (folder / "cc_news-01.JSONL").write_text(json.dumps(article("the last one", title="End")))
    (folder / "README.md").write_text("not read")
    (folder / "cc_news-02.jsonl").mkdir()
    return folder


PACKED = [
    "Title the cat sat on the",
    "mat and looked at the dog",
    "a storm is coming to the",
    "coast tonight [SEP] Title rain, rain!",
    "[ SEP ] [SEP] End the",
    "last one",
]


def test_cc_news_packed_by_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ccnews.Config(news(tmp_path / "news"), tmp_path / "out", Packing(6), workers=1)
    told = ccnews.main(config)
    assert lines(tmp_path / "out/ccnews.txt") == PACKED
    assert card(tmp_path / "out") == told.as_json()
    assert (told.pairs, told.documents, told.words) == (6, 4, 30)
    assert dict(told.rejected) == {"bad row": 4, "duplicate": 1, "empty text": 1, "not UTF-8": 2}
    texts = TextLines(tmp_path / "out/ccnews.txt")
    assert [texts[index].text for index in range(len(texts))] == PACKED
    assert sorted(path.name for path in (tmp_path / "out").glob("*.txt")) == ["ccnews.txt"]
    before = files(tmp_path / "out")
    monkeypatch.setattr("packing.in_slices", None)
    assert ccnews.main(config).as_json() == told.as_json()  # finished: nothing is done again
    assert files(tmp_path / "out") == before


def test_cc_news_from_parquet(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    ccnews.main(ccnews.Config(news(tmp_path / "news"), tmp_path / "lines", Packing(6), workers=1))
    told = [article(ARTICLES[0]), article(ARTICLES[1], title=None), article(None)]
    told += [article(ARTICLES[2] + "\n\n[SEP]"), article("the last one", title="End")]
    columns = {name: pa.array([row[name] for row in told], pa.string()) for name in told[0]}
    (tmp_path / "hub").mkdir()
    parquet.write_table(pa.table(columns), tmp_path / "hub/train-00000-of-00001.parquet", row_group_size=2)
    stretches = stretches_of([tmp_path / "hub/train-00000-of-00001.parquet"], 99, 4)
    keys = [row[0] for stretch in stretches for row in rows_of(stretch, ["text", "nothing"])]
    assert keys == [f"train-00000-of-00001.parquet/{number}" for number in range(4)]
    made = ccnews.main(ccnews.Config(tmp_path / "hub", tmp_path / "out", Packing(6), workers=1))
    assert lines(tmp_path / "out/ccnews.txt") == PACKED
    assert dict(made.rejected) == {"bad row": 1}
    made = ccnews.main(ccnews.Config(tmp_path / "hub", tmp_path / "less", Packing(6), workers=1, limit=3))
    assert (made.documents, made.rejected["bad row"]) == (2, 1)
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\4\0\0\0\x08\0\0\0"), pa.py_buffer(b"goodcaf\xe9")]
    )
    parquet.write_table(pa.table({"text": broken}), tmp_path / "broken.parquet")
    (stretch,) = stretches_of([tmp_path / "broken.parquet"], 99, None)
    assert list(rows_of(stretch, ["text"])) == [
        ("broken.parquet/0", {"text": "good"}),
        Rejected("broken.parquet/1", "not UTF-8"),
    ]
    (tmp_path / "hub/train-00000-of-00001.parquet").write_bytes(b"PAR1, cut off")
    with pytest.raises(ValueError, match=r"cannot be read as Parquet .*fetch it again"):
        ccnews.main(ccnews.Config(tmp_path / "hub", tmp_path / "x", workers=1))


def test_a_build_of_texts_that_was_killed_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ccnews, "ROWS", 5)
    folder = news(tmp_path / "news")
    whole = ccnews.main(ccnews.Config(folder, tmp_path / "whole", Packing(6), workers=1))
    assert len(list((tmp_path / "whole/records").glob("ccnews-0*.json"))) == 3

    config, slices = ccnews.Config(folder, tmp_path / "killed", Packing(6), workers=1), ccnews.Slices

    class Breaks(slices):  # type: ignore[misc, valid-type]
        def __call__(self, part: int) -> Any:
            for number, text in enumerate(super().__call__(part)):
                if (part, number) == (1, 1):
                    raise RuntimeError("the plug was pulled")
                yield text

    monkeypatch.setattr(ccnews, "Slices", Breaks)
    with pytest.raises(RuntimeError, match="plug"):
        ccnews.main(config)
    assert not (tmp_path / "killed/ccnews.txt").exists()
    monkeypatch.setattr(ccnews, "Slices", slices)
    assert ccnews.main(config).as_json() == whole.as_json()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_cc_news_counted_in_tokens_as_a_user_calls_it(tmp_path: Path, vocab: Path) -> None:
    flags = ["--news", str(news(tmp_path / "news")), "--out", str(tmp_path / "out"), "--length", "20"]
    config = tyro.cli(ccnews.Config, args=[*flags, "--vocab", str(vocab), "--workers", "1", "--limit", "11"])
    assert config.packing.unit == f"tokens of {vocab}"
    ccnews.main(config)
    tokenizer = WordPiece.from_file(vocab)
    found = lines(tmp_path / "out/ccnews.txt")
    assert len(found) > 2
    assert all(len(tokenizer.encode(line, 999).ids) <= 20 for line in found)
    words = [word for word in " ".join(found).split() if word != "[SEP]"]
    assert words == f"Title {ARTICLES[0]} {ARTICLES[1]} Title {ARTICLES[2]} [ SEP ]".split()


def test_text_scripts_say_what_is_wrong(tmp_path: Path) -> None:
    folder = news(tmp_path / "news")
    with pytest.raises(ValueError, match=r"no file .*nowhere; give --news"):
        ccnews.main(ccnews.Config(tmp_path / "nowhere", tmp_path / "x", workers=1))
    with pytest.raises(ValueError, match=r"README.md has no file that ends in .*give --news"):
        ccnews.main(ccnews.Config(folder / "README.md", tmp_path / "x", workers=1))
    with pytest.raises(ValueError, match="--length is 0; 1 or more words are due"):
        ccnews.main(ccnews.Config(folder, tmp_path / "x", Packing(0), workers=1))
    with pytest.raises(ValueError, match="--limit is 0"):
        ccnews.main(ccnews.Config(folder, tmp_path / "x", workers=1, limit=0))
    ccnews.main(ccnews.Config(folder, tmp_path / "out", Packing(6), workers=1))
    with pytest.raises(ValueError, match="choose another --out"):
        ccnews.main(ccnews.Config(folder, tmp_path / "out", Packing(7), workers=1))
    WordPiece.train(ARTICLES, 60).save(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="choose another --out"):
        ccnews.main(ccnews.Config(folder, tmp_path / "out", Packing(6, tmp_path / "vocab.txt"), workers=1))
    with pytest.raises(ValueError, match=r"vocab"):
        ccnews.main(ccnews.Config(folder, tmp_path / "x", Packing(9, tmp_path / "no-vocab.txt"), workers=1))


def test_rows_are_read_by_stretches(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([json.dumps({"text": str(number)}) + "\n" * (number % 3) for number in range(10)]))
    for size in (1, 3, 4, 10, 99):
        found = [row for stretch in stretches_of([path], size, None) for row in rows_of(stretch, ["text"])]
        assert found == [(f"a.jsonl/{number}", {"text": str(number)}) for number in range(10)]
    assert [stretch.rows for stretch in stretches_of([path, path], 4, 13)] == [4, 4, 2, 3]
    assert [[stretch.rows for stretch in part] for part in in_parts(stretches_of([path, path], 4, None), 6)] == [
        [4, 4],
        [2, 4],
        [4, 2],
    ]
    assert in_parts([], 5) == [[]]


# BookCorpus


def books(folder: Path) -> Path:
    (folder / "epubtxt").mkdir(parents=True)
    told = {
        "a": "\ufeffChapter one\n\nIt was a dark night.\n".encode(),
        "b": b"Chapter one\r\nIt was a bright day.",
        "c": b"Chapter  one\nIt was a bright day.",
        "d": b"",
        "e": b"caf\xe9",
        "f": b"PK\x03\x04\0\0",
    }
    for name, data in told.items():
        (folder / "epubtxt" / f"{name}.epub.txt").write_bytes(data)
    return folder


def test_a_folder_of_books(tmp_path: Path) -> None:
    config = bookcorpus.Config(books(tmp_path / "books"), out=tmp_path / "out", packing=Packing(8), workers=1)
    told = bookcorpus.main(config)
    assert lines(tmp_path / "out/bookcorpus.txt") == [
        "Chapter one It was a dark night. [SEP]".removesuffix(" [SEP]"),
        "Chapter one It was a bright day.",
    ]
    assert told.documents == 2
    assert dict(told.rejected) == {"duplicate": 1, "empty text": 1, "not UTF-8": 1, "not a text": 1}


def test_a_large_book_is_cut_between_lines_and_stays_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookcorpus, "PIECE", 40)
    text = "".join(f"this is sentence number {number} of the book .\n" for number in range(7))
    (tmp_path / "books_large_p1.txt").write_text(text)
    pieces = list(bookcorpus.pieces_of(tmp_path / "books_large_p1.txt", 40))
    data = text.encode()
    assert len(pieces) > 2
    assert b"".join(data[piece.start : piece.start + piece.size] for piece in pieces) == data
    assert all(data[piece.start + piece.size - 1 : piece.start + piece.size] == b"\n" for piece in pieces)
    config = bookcorpus.Config(tmp_path / "books_large_p1.txt", out=tmp_path / "out", packing=Packing(5), workers=1)
    told = bookcorpus.main(config)
    found = " ".join(lines(tmp_path / "out/bookcorpus.txt"))
    assert found.split() == text.split()
    assert told.documents == 1


def test_rows_that_are_sentences_or_books(tmp_path: Path) -> None:
    rows = ["usually , he would be tearing around .", "but just one look .", "", "a new book .", "but just one look ."]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows) + "no json\n")
    told = bookcorpus.main(bookcorpus.Config(tmp_path, out=tmp_path / "s", packing=Packing(99), workers=1))
    whole = "usually , he would be tearing around . but just one look . [SEP] a new book . but just one look ."
    assert lines(tmp_path / "s/bookcorpus.txt") == [whole]
    assert (told.documents, dict(told.rejected)) == (2, {"bad row": 1})
    told = bookcorpus.main(bookcorpus.Config(tmp_path / "b.jsonl", "documents", tmp_path / "d", Packing(99), workers=1))
    assert lines(tmp_path / "d/bookcorpus.txt") == [" [SEP] ".join([*rows[:2], rows[3]])]
    assert (told.documents, dict(told.rejected)) == (3, {"bad row": 1, "duplicate": 1, "empty text": 1})


def test_what_follows_a_row_that_was_lost_is_kept_apart(tmp_path: Path) -> None:
    rows = ['{"text": "one ,"}', "no json", '{"text": "two ."}', '{"text": "three ."}']
    (tmp_path / "b.jsonl").write_text("\n".join(rows))
    told = bookcorpus.main(bookcorpus.Config(tmp_path, out=tmp_path / "s", packing=Packing(99), workers=1))
    assert lines(tmp_path / "s/bookcorpus.txt") == ["one , [SEP] two . three ."]
    assert told.documents == 2


def test_books_of_two_kinds_are_refused(tmp_path: Path) -> None:
    folder = books(tmp_path / "books")
    (folder / "x.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"has both \.txt and other files"):
        bookcorpus.main(bookcorpus.Config(folder, out=tmp_path / "x", workers=1))
    with pytest.raises(ValueError, match="--limit is -1"):
        bookcorpus.main(bookcorpus.Config(folder / "epubtxt", out=tmp_path / "x", workers=1, limit=-1))


@pytest.mark.slow
def test_two_workers_write_what_one_writes(tmp_path: Path, vocab: Path) -> None:
    stretches = in_parts(stretches_of([news(tmp_path / "news") / "cc_news-00.jsonl"], 3, None), 3)
    for workers in (1, 2):
        pack_corpus(
            ccnews.Slices(stretches),
            len(stretches),
            tmp_path / str(workers),
            name="ccnews",
            packing=Packing(9, vocab),
            workers=workers,
            settings={},
        )
    assert len(stretches) == 4
    assert len(lines(tmp_path / "2/ccnews.txt")) > 4
    assert files(tmp_path / "2") == files(tmp_path / "1")
