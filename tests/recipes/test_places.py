"""Places in large annotation files: counted in bytes, whatever the line ends; damage is named."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/coco.py` does

from places import Entries, Place, elements_of, first_file, lines_of, read_json

ELEMENTS = [{"id": 1, "t": "ä]}"}, [1, 2], 1234567890, 'x\\"', {}, "last"]


@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("between", [",", " ,\r\n", "\r,\n\t"])
def test_elements_lie_where_they_are_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, between: str
) -> None:
    monkeypatch.setattr("places._PIECE", piece)
    path = tmp_path / "a.json"
    path.write_bytes(f"[{between.join(json.dumps(each, ensure_ascii=False) for each in ELEMENTS)}\r\n]".encode())
    found = list(elements_of(path, "fetch it"))
    entries = Entries([path], [Place(0, offset, size) for offset, size, _ in found])
    assert [json.loads(entries[index]) for index in range(len(entries))] == ELEMENTS
    assert [entries[index] for index in (1, 2, 4)] == [b"[1, 2]", b"1234567890", b"{}"]


def test_an_element_without_an_end_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("places._PIECE", 8)
    monkeypatch.setattr("places._MOST", 40)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["short", "x" * 100]))
    elements = elements_of(path, "fetch it")
    assert next(elements)[2] == "short"
    with pytest.raises(ValueError, match=r"damaged at byte 10 .*fetch it"):
        next(elements)


def test_entries_and_lines_of_several_files(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", b"\n1\r\n \n22"), ("b.jsonl", b"333\n\n4")):
        (tmp_path / name).write_bytes(text)
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    places = [Place(file, at, len(line)) for file, path in enumerate(paths) for at, line in lines_of(path)]
    entries = Entries(paths, places)
    assert [entries[index] for index in range(4)] == [b"1\r\n", b"22", b"333\n", b"4"]
    assert [entries.key(index) for index in range(4)] == ["a.jsonl@1", "a.jsonl@6", "b.jsonl@0", "b.jsonl@5"]
    assert len(Entries(paths, [])) == 0


def test_the_first_folder_that_has_a_file_is_taken(tmp_path: Path) -> None:
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    (tmp_path / "two/x.jpg").write_bytes(b"")
    (tmp_path / "three/x.jpg").write_bytes(b"")
    assert first_file(folders, "x.jpg") == tmp_path / "two/x.jpg"
    assert first_file(folders, "y.jpg") == tmp_path / "three/y.jpg"


@pytest.mark.parametrize("data", [b"{", b'"\xff"', b"[" * 100_000])
def test_what_is_no_json_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.json is no JSON .*fetch it"):
        read_json(tmp_path / "a.json", "fetch it")
