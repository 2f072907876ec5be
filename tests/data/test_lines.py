"""Text files by the line: as Python's own reading of them, with an index and without."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from torchflava.data import lines as module
from torchflava.data.lines import TextLines, lines_index, scan_lines, write_lines
from torchflava.data.samples import TextSample
from torchflava.transforms.image import CorruptSample


def test_text_lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("first\n\n  \nsecond é\r\nthird".encode() + b" \xff\n")
    texts = TextLines(path, "glosses")
    assert [texts[i].text for i in range(len(texts))] == ["first", "second é", "third �"]
    assert pickle.loads(pickle.dumps(texts))[1] == texts[1]
    assert texts[1] == TextSample("second é", "texts.txt/1")
    with pytest.raises(IndexError, match="glosses: index 3"):
        texts[3]
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="no line with a text"):
        TextLines(path)
    with pytest.raises(ValueError, match=r"gone\.txt cannot be read"):
        TextLines(tmp_path / "gone.txt")


@given(
    st.lists(st.sampled_from([b"a", b"\n", b" ", b"\r", b"bc", b"\x0b", "é".encode()]), max_size=40), st.integers(1, 9)
)
def test_lines_are_those_that_python_reads(tmp_path_factory, parts, piece):
    path = tmp_path_factory.mktemp("lines") / "t.txt"
    path.write_bytes(b"".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE", piece)
        found = scan_lines(path)
    with open(path, "rb") as file:
        lines = file.readlines()
    starts = np.cumsum([0, *map(len, lines)])
    due = [(int(start), len(line)) for start, line in zip(starts, lines, strict=False) if line.strip()]
    assert list(zip(found.starts.tolist(), found.sizes.tolist(), strict=True)) == due


def indexed(path: Path) -> Path:
    with open(lines_index(path), "wb") as file:
        write_lines(file, scan_lines(path), path.stat().st_size)
    return path


def test_the_index_is_used_while_it_fits(tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    path.write_text("one\n\ntwo\nthree\n")
    assert load_file(lines_index(indexed(path)))["starts"].tolist() == [0, 5, 9]
    with monkeypatch.context() as patch:
        patch.delattr(module, "scan_lines")
        assert [TextLines(path)[i].text for i in range(3)] == ["one", "two", "three"]
    texts = TextLines(path)
    path.write_text("on\ne\ntwo\nthree\n")
    with pytest.raises(CorruptSample, match=r"t\.txt is not the file that was indexed, at line 0"):
        texts[0]
    path.write_text("four\n")
    assert TextLines(path)[0].text == "four"
    with pytest.raises(CorruptSample, match="has become shorter"):
        texts[2]
    lines_index(path).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"t\.txt\.index\.safetensors is damaged"):
        TextLines(path)


def test_an_endless_line_is_corrupt(tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    path.write_text("one\n" + "a" * 50 + "\n\u3000\n")
    monkeypatch.setattr(module, "_MOST", 40)
    texts = TextLines(path)
    assert texts[0].text == "one"
    with pytest.raises(CorruptSample, match="a line of 51 bytes"):
        texts[1]
    with pytest.raises(CorruptSample, match="a line of blanks"):
        texts[2]
