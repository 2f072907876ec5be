"""The headers of tars as Python's tarfile reads them; damage at every byte, and hostile headers."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tars import FORMATS, add, make_tar, pairs

from torchflava.data.headers import DamagedTarError, read_headers
from torchflava.data.index import scan


def headers(path: Path) -> list[tuple[str, int, int]]:
    with open(path, "rb") as file:
        found = list(read_headers(file, path.stat().st_size))
    return [(member.name, member.offset, member.size) for member in found if member.kind == "file"]


def by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path, "r:") as tar:
        return [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200).map(
    lambda name: f"{name}.x"
)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=6), st.sampled_from(FORMATS[1:]))
def test_headers_are_read_as_tarfile_reads_them(tmp_path_factory, members, tar_format):
    path = make_tar(tmp_path_factory.mktemp("tar") / "s.tar", members, tar_format)
    assert headers(path) == by_tarfile(path)


@pytest.mark.parametrize("tar_format", FORMATS)
def test_prefixes_folders_links_and_great_sizes(tmp_path, tar_format):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tar_format) as tar:
        add(tar, "folder", kind=tarfile.DIRTYPE)
        add(tar, "p" * 90 + "/" + "n" * 90 + ".jpg", b"1" * 700)
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("link.jpg")
            member.type, member.linkname, member.size = kind, "elsewhere", 5
            tar.addfile(member)
        add(tar, "last.jpg", b"2")
    assert headers(path) == by_tarfile(path)
    assert len(headers(path)) == 2
    assert scan(path).counts() == {"link or device": 4, "no caption": 2}


def test_sizes_of_more_than_eight_gigabytes(tmp_path):
    path = tmp_path / "s.tar"
    for tar_format in FORMATS[1:]:
        member = tarfile.TarInfo("great.jpg")
        member.size = 9 << 30
        header = member.tobuf(tar_format)
        path.write_bytes(header)
        end = len(header) + member.size
        with open(path, "r+b") as file:  # holes take no room
            file.truncate(end)
            file.seek(end)
            file.write(make_tar(tmp_path / "small.tar", pairs("1")).read_bytes()[:-8704] + bytes(1024))
        assert headers(path) == by_tarfile(path)
        assert (len(scan(path)), scan(path).counts()["too large"]) == (1, 1)


def test_a_tar_cut_at_any_byte_is_refused(tmp_path):
    """Unless all that is cut off is zeros after the end mark's first block."""
    for tar_format in FORMATS:
        path = make_tar(tmp_path / "s.tar", [("k" * 120 + "/é.jpg", b"1" * 600), ("2.txt", b"t")], tar_format)
        data, whole = path.read_bytes(), headers(path)
        end = whole[-1][1] + 512
        for keep in [*range(0, end + 512, 7), end - 1, end, end + 511]:
            with pytest.raises(DamagedTarError, match=r"cut short|end-of-archive"):
                list(read_headers(io.BytesIO(data[:keep]), keep))
        assert len(list(read_headers(io.BytesIO(data[: end + 512]), end + 512))) == 2


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_broken_byte_in_a_header_is_noticed(tmp_path_factory, at, change):
    folder = tmp_path_factory.mktemp("broken")
    data = bytearray(make_tar(folder / "s.tar", pairs("1", "2")).read_bytes())
    data[1024 + at] ^= change  # the second member's header
    (folder / "b.tar").write_bytes(data)
    blanks = 148 <= at < 156  # the checksum's own field has blanks and zeros that mean nothing
    try:
        found = headers(folder / "b.tar")
    except DamagedTarError:
        return
    assert blanks
    assert found == headers(folder / "s.tar")


def pax(words: bytes, kind: bytes = b"x") -> bytes:
    member = tarfile.TarInfo("words")
    member.type, member.size = kind, len(words)
    return member.tobuf() + words + bytes(-len(words) % 512)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (pax(b"99 path=a\n"), "a pax header that cannot be read"),
        (pax(b"path=a\n"), "a pax header that cannot be read"),
        (pax(b"0 path=a\n"), "a pax header that cannot be read"),
        (pax(b"11 size=-7\n"), "a size of '-7'"),
        (pax(b"16 size=9999999\n"), "cut short"),
        (pax(b"10 path=a\n", b"g"), "a global header that renames"),
        (tarfile.TarInfo("a").tobuf()[:124] + b"\xff" * 12 + bytes(376), "no header"),
        (b"\x1f\x8b" + bytes(700), "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(700), "compressed with zstd"),
        (bytes(1024) + b"x", "something stands after the end-of-archive mark"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, before, told):
    path = tmp_path / "s.tar"
    path.write_bytes(before + make_tar(path, pairs("1")).read_bytes())
    with pytest.raises(ValueError, match=rf"s\.tar cannot be read \(.*{told}.*must be a whole, uncompressed tar"):
        scan(path)


def test_a_name_as_long_as_memory_is_refused(tmp_path):
    path = tmp_path / "s.tar"
    member = tarfile.TarInfo("words")
    member.type, member.size = b"L", 1 << 30
    path.write_bytes(member.tobuf())
    os.truncate(path, 2 << 30)
    with pytest.raises(ValueError, match="name or pax header of 1073741824 bytes"):
        scan(path)
