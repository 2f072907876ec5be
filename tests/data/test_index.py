"""The index of shards against plain lists and the safetensors package; what it passes over; its memory."""

import io
import json
import os
import pickle
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tars import add, make_tar, pairs
from safetensors.numpy import load_file

from torchflava.data import catalog
from torchflava.data.columns import Column, map_columns, write_columns
from torchflava.data.index import INDEX_NAME, Index, join, open_index, scan, write_index
from torchflava.data.shards import ShardImages, ShardPairs
from torchflava.data.sorting import Endings


def write(path: Path, *parts: Index) -> Path:
    with open(path, "wb") as file:
        write_index(file, [lambda part=part: part for part in parts])
    return path


def test_what_is_passed_over_is_listed_by_reason(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("../up.jpg", "/root.jpg", "a/../../b.jpg", "..\\w.jpg", "C:/w.jpg", "new\nline.jpg"):
            add(tar, name, b"h")
        for name, data in [
            *pairs("1"),
            ("2.txt", b"t"),
            ("3.png", b"i"),
            ("4.json", b"{}"),
            ("5.jpg", b""),
            ("5.txt", b"t"),
        ]:
            add(tar, name, data)
        sparse = tarfile.TarInfo("6.jpg")
        sparse.size, sparse.pax_headers = 3, {"GNU.sparse.major": "1", "GNU.sparse.name": "x"}
        tar.addfile(sparse, io.BytesIO(b"abc"))
        add(tar, "7.jpg", kind=tarfile.SYMTYPE)
    index = scan(path)
    listed = {(entry.name, entry.reason) for entry in index.incomplete(0)}
    assert listed == {
        ("../up.jpg", "hostile path"),
        ("/root.jpg", "hostile path"),
        ("a/../../b.jpg", "hostile path"),
        ("..\\w.jpg", "hostile path"),
        ("C:/w.jpg", "hostile path"),
        ("new\nline.jpg", "hostile path"),
        ("2", "no image"),
        ("5", "no image"),
        ("3", "no caption"),
        ("4", "no image and no caption"),
        ("5.jpg", "empty file"),
        ("6.jpg", "sparse file"),
        ("7.jpg", "link or device"),
    }
    assert index.counts() == Counter(reason for _, reason in listed)
    assert {entry.shard for entry in index.incomplete(0)} == {"s.tar"}
    assert (ShardPairs([path]).num_incomplete, ShardImages([path]).num_incomplete) == (4, 3)


LAYOUTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["jpg", "png", "txt", "json", "x.jpg"])), max_size=14
)


@given(st.lists(LAYOUTS, min_size=1, max_size=3))
def test_samples_are_those_of_a_plain_reading(tmp_path_factory, layouts):
    folder = tmp_path_factory.mktemp("layout")
    due, shards = [], []
    for shard, layout in enumerate(layouts):
        members = [(f"{key}.{ending}", f"{shard} {at}".encode()) for at, (key, ending) in enumerate(layout)]
        shards.append(scan(make_tar(folder / f"{shard}.tar", members)))
        samples: list[tuple[str, dict[str, bytes]]] = []
        for name, data in members:
            key, _, ending = name.partition(".")
            if not samples or samples[-1][0] != key:
                samples.append((key, {}))
            samples[-1][1][ending] = data
        for wanted in ((True, False), (True, True), (False, True)):
            due += [(shard, *sample) for sample in samples if has(sample[1]) == wanted]
    index = open_index(write(folder / "i.safetensors", *shards))
    assert len(index) == len(due)
    for row, (shard, key, parts) in enumerate(due):
        assert (index.shard_of(row), index.key(row)) == (shard, key)
        image = parts.get("jpg", parts.get("png"))
        data = (folder / f"{shard}.tar").read_bytes()
        for (block, size, _), part in zip(
            index.columns["members"][row].tolist(), (image, parts.get("txt"), parts.get("json")), strict=True
        ):
            assert (data[block * 512 : block * 512 + size] if block else None) == part
    assert all(index.part(i).same_as(shard) for i, shard in enumerate(shards))
    assert join(shards).same_as(index)


def has(parts: dict[str, bytes]) -> tuple[bool, bool]:
    return "jpg" in parts or "png" in parts, "txt" in parts


def test_the_file_is_safetensors(tmp_path):
    shards = [scan(make_tar(tmp_path / f"{n}.tar", pairs(*map(str, range(n))))) for n in (1, 2, 3)]
    path = write(tmp_path / INDEX_NAME, *shards)
    found, mapped = load_file(path), open_index(path).columns
    assert found.keys() == mapped.keys()
    assert all(np.array_equal(found[name], mapped[name]) and not mapped[name].flags.writeable for name in found)


@pytest.mark.parametrize("part", ["bytes", "header", "length", "format", "short"])
def test_a_damaged_index_is_named(tmp_path, part):
    path = write(tmp_path / INDEX_NAME, scan(make_tar(tmp_path / "s.tar", pairs("1"))))
    data = path.read_bytes()
    bad = {
        "bytes": b"",
        "header": data.replace(b"{", b"[", 1),
        "length": b"\xff" * 8 + data[8:],
        "format": data.replace(b"shards 1", b"shards 0"),
        "short": data[:-1],
    }
    path.write_bytes(bad[part])
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is .*; delete it and build it again"):
        ShardPairs([tmp_path / "s.tar"])


def test_a_column_is_what_its_shape_says(tmp_path):
    with open(tmp_path / "c", "wb") as file, pytest.raises(ValueError, match="a: 8 bytes were given for a shape of"):
        write_columns(file, {"a": Column("I64", (2,), [np.array([1])])}, {})
    with open(tmp_path / "c", "wb") as file:
        write_columns(file, {"a": Column("U32", (0, 3), [])}, {})
    with open(tmp_path / "c", "rb") as file:
        assert map_columns(file, "c")[0]["a"].shape == (0, 3)


def test_an_index_beside_the_shards_is_used_for_any_choice_of_them(tmp_path, monkeypatch):
    paths = [make_tar(tmp_path / f"{n}.tar", pairs(*(f"{n}{i}" for i in range(n + 1)))) for n in range(4)]
    write(tmp_path / INDEX_NAME, *map(scan, paths))
    expected = [ShardPairs([path])[i] for path in (paths[3], paths[1]) for i in range(len(ShardPairs([path])))]
    monkeypatch.delattr(catalog, "scan")
    monkeypatch.chdir(tmp_path)
    for chosen in ([paths[3], paths[1]], ["3.tar", "1.tar"]):
        found = ShardPairs(chosen)
        assert [found[i] for i in range(len(found))] == expected
        assert found.starts.tolist() == [0, 4, 6]


def test_shards_that_changed_or_are_not_in_the_index_are_scanned_and_told(tmp_path, caplog):
    paths = [make_tar(tmp_path / f"{n}.tar", pairs(str(n))) for n in range(2)]
    index = open_index(write(tmp_path / INDEX_NAME, *map(scan, paths)))
    paths.append(make_tar(tmp_path / "2.tar", pairs("2")))
    make_tar(paths[1], pairs(*"abcdefghij"))
    found = ShardPairs(paths)
    assert [found.key(i) for i in (0, 1, 10, 11)] == ["0.tar/0", "1.tar/a", "1.tar/j", "2.tar/2"]
    assert "1 of 3 shards, such as " + str(paths[1]) + ", have changed" in caplog.text
    index.refuse_changed(0, paths[0])
    with pytest.raises(ValueError, match=r"1\.tar has 40960 bytes, 10240 when it was indexed; fetch it again"):
        index.refuse_changed(1, paths[1])
    paths[0].unlink()
    with pytest.raises(ValueError, match=r"0\.tar cannot be read"):
        ShardPairs(paths)


def test_other_endings(tmp_path):
    path = make_tar(tmp_path / "s.tar", [("1.gif", b"i"), ("1.seg.png", b"s"), ("1.cap", b"c"), ("1.jpg", b"j")])
    write(tmp_path / INDEX_NAME, scan(path))
    found = ShardPairs([path], endings=Endings(("seg.png", "gif"), ("cap",)))
    assert found[0][:2] == (b"s", "c")
    with pytest.raises(ValueError, match=r"none of 1 samples .* an image \(gif\) and a \.cup"):
        ShardPairs([path], endings=Endings(("gif",), ("cup",)))


def test_another_process_maps_the_same_file_or_says_that_it_has_changed(tmp_path):
    path = make_tar(tmp_path / "s.tar", pairs(*map(str, range(200))))
    write(tmp_path / INDEX_NAME, scan(path))
    found = ShardPairs([path])
    sent = pickle.dumps(found)
    assert len(sent) < 2_000
    assert pickle.loads(sent)[199] == found[199]
    write(tmp_path / INDEX_NAME, scan(make_tar(path, pairs("1"))))
    with pytest.raises(ValueError, match="has been built anew since it was opened"):
        pickle.loads(sent)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_opening_and_reading_take_no_memory_for_five_million_samples(tmp_path):
    """A file of holes, as large as the index of 1,000 shards of 5,000 samples; one sample is filled in."""
    shards, each = 1_000, 5_000
    small = scan(make_tar(tmp_path / "s.tar", pairs("7")))
    header = {"__metadata__": {"format": "torchflava shards 1", "endings": small.endings.told()}}
    given: dict[str, np.ndarray] = {}
    end = 0
    for name, column in small.columns.items():
        by_shard = column.dtype == np.int64 or name == "names"
        if by_shard:
            given[name] = np.repeat(column, shards, axis=0) * (each if name in ("groups", "key_bytes") else 1)
        shape = [len(column) * shards * (1 if by_shard else each), *column.shape[1:]]
        size = column.itemsize * int(np.prod(shape))
        dtype = {"int64": "I64", "uint32": "U32", "uint8": "U8"}[column.dtype.name]
        header[name], end = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}, end + size
    told = json.dumps(header).encode()
    row, sample = 2_160_500, small.columns["members"][0]
    with open(tmp_path / INDEX_NAME, "wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name, array in given.items():
            file.seek(8 + len(told) + header[name]["data_offsets"][0])
            file.write(array.tobytes())
        file.seek(8 + len(told) + header["members"]["data_offsets"][0] + row * sample.nbytes)
        file.write(sample.tobytes())
        file.truncate(8 + len(told) + end)
    before = resident()
    index = open_index(tmp_path / INDEX_NAME)
    assert (len(index), index.num_shards, index.shard_of(row)) == (shards * each, shards, row // each)
    assert index.columns["members"][row].tolist() == sample.tolist()
    assert index.columns["members"].nbytes == 180_000_000
    assert resident() - before < 4 << 20
