"""Shards: read by position what the standard library's tarfile wrote, from threads too; damage is named."""

import io
import json
import os
import pickle
import signal
import tarfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchflava.data.index import scan
from torchflava.data.samples import ImageSample, PairSample
from torchflava.data.shards import ShardImages, ShardPairs, ShardTexts
from torchflava.data.storage import LocalFiles, Span
from torchflava.data.tars import read_members, write_shards, write_tar, write_whole
from torchflava.transforms.image import CorruptSample

IMAGE = bytes(range(256)) * 4  # longer than a block

Member = tuple[str, bytes]


def make_tar(path: Path, members: list[Member], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def pair(key: str, number: int) -> list[Member]:
    image = bytes([number]) * (511 + number)
    return [
        (f"{key}.jpg", image),
        (f"{key}.txt", f" caption {number}é\n".encode()),
        (f"{key}.json", b'{"n": %d}' % number),
    ]


@pytest.fixture
def two_shards(tmp_path: Path) -> list[Path]:
    first = make_tar(tmp_path / "a-00000.tar", pair("0001", 1) + pair("0002", 2) + pair("0003", 3))
    return [first, make_tar(tmp_path / "a-00001.tar", pair("0001", 4) + pair("0002", 5))]


def test_samples_are_what_the_tars_hold(two_shards):
    pairs = ShardPairs(two_shards, "emoji")
    expected = [PairSample(bytes([n]) * (511 + n), f"caption {n}é", "") for n in range(1, 6)]
    assert [pairs[i]._replace(key="") for i in range(len(pairs))] == expected
    assert [pairs.caption(i) for i in range(5)] == [sample.caption for sample in expected]
    assert [pairs.meta(i) for i in range(5)] == [{"n": n} for n in range(1, 6)]
    assert pairs[3].key == "a-00001.tar/0001"
    assert (pairs.name, pairs.num_incomplete) == ("emoji", 0)


def test_images_of_pairs_without_their_captions(two_shards):
    images = ShardImages(two_shards)
    assert images[4] == ImageSample(bytes([5]) * 516, "a-00001.tar/0002")
    assert len(images) == 5


def test_a_storage_is_told_each_shards_own_length(two_shards):
    class Asked(LocalFiles):
        def read(self, path: str, span: Span, num_bytes: int) -> bytes:
            asked[path] = num_bytes
            return super().read(path, span, num_bytes)

    two_shards[1].write_bytes(two_shards[1].read_bytes() + bytes(512))
    asked: dict[str, int] = {}
    pairs = ShardPairs(two_shards, storage=Asked())
    assert [pairs[i].image[0] for i in range(5)] == [1, 2, 3, 4, 5]
    assert asked == {str(path): path.stat().st_size for path in two_shards}


def test_equal_names_in_two_shards_stay_two_samples(two_shards):
    assert len({ShardPairs(two_shards)[i].image for i in range(5)}) == 5


def test_incomplete_samples_are_counted_and_left_out(tmp_path):
    members = [("1.txt", b"no image"), ("2.png", b"no caption"), *pair("3", 3)]
    path = make_tar(tmp_path / "s.tar", members)
    pairs, images = ShardPairs([path]), ShardImages([path])
    assert (len(pairs), pairs.num_incomplete) == (1, 2)
    assert (len(images), images.num_incomplete) == (2, 1)
    assert images.meta(0) == {}


def test_folders_capitals_and_many_dots(tmp_path):
    members = [
        ("x.y/a.PNG", b"1"),
        ("x.y/a.seg.png", b"2"),
        ("x.y/a.txt", b"t"),
        ("z/a.webp", b"3"),
        ("z/a.txt", b"u"),
    ]
    pairs = ShardPairs([make_tar(tmp_path / "s.tar", members)])
    assert [(sample.key, sample.image) for sample in (pairs[0], pairs[1])] == [
        ("s.tar/x.y/a", b"1"),
        ("s.tar/z/a", b"3"),
    ]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(tmp_path, tar_format):
    key = "k" * 300 + "é"
    assert ShardPairs([make_tar(tmp_path / "s.tar", pair(key, 1), tar_format)])[0].key == f"s.tar/{key}"


def test_links_and_devices_are_passed_over(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo("0.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        write_members(tar, [("0.txt", b"t"), ("../../1.jpg", b"h"), ("../../1.txt", b"u"), *pair("2", 2)])
    pairs = ShardPairs([path])
    assert (len(pairs), pairs.num_incomplete, pairs[0].caption) == (1, 1, "caption 2é")


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_image_with_several_captions_is_stored_once(tmp_path, tar_format):
    """Hard links within the shard, as tarfile itself writes and follows them; those that lead elsewhere are passed over."""
    path, deep = tmp_path / "s.tar", ("d" * 90 + "/" if tar_format else "") + "k" * 80
    with tarfile.open(path, "w", format=tar_format) as tar:
        write_members(tar, [(f"{deep}-0.jpg", IMAGE), (f"{deep}-0.txt", b"first")])
        for number, target in ((1, f"{deep}-0.jpg"), (2, f"{deep}-0.jpg"), (3, f"{deep}-9.jpg"), (4, f"{deep}-0.txt")):
            member = tarfile.TarInfo(f"{deep}-{number}.jpg")
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
            write_members(tar, [(f"{deep}-{number}.txt", f"caption {number}".encode())])
        write_members(tar, [(f"{deep}-9.jpg", b"comes too late")])
    pairs = ShardPairs([path])
    with tarfile.open(path) as tar:
        told = [
            (tar.extractfile(f"{deep}-{n}.jpg").read(), tar.extractfile(f"{deep}-{n}.txt").read()) for n in (0, 1, 2, 4)
        ]
    assert [(pairs[i].image, pairs[i].caption.encode()) for i in range(len(pairs))] == told
    assert told[1] == (IMAGE, b"caption 1")
    assert [pairs[i].key[-1] for i in range(4)] == ["0", "1", "2", "4"]
    assert pairs.num_incomplete == 2  # the caption whose link leads to what comes later, and the image that comes later


def test_equal_images_become_links_only_if_asked_and_only_where_they_follow_each_other(tmp_path):
    great, small = IMAGE, b"small"
    samples = [
        ("a", {"jpg": great, "txt": b"1"}),
        ("b", {"jpg": great, "txt": b"2"}),
        ("c", {"jpg": small, "txt": b"3"}),
    ]
    samples += [("d", {"jpg": small, "txt": b"4"}), ("e", {"jpg": great, "txt": b"5"})]
    samples.append(("f", {"jpg": great[::-1], "txt": b"6"}))
    sizes = {}
    for copies in (True, False):
        path = tmp_path / f"{copies}.tar"
        write_whole(path, lambda file, copies=copies: write_tar(file, samples, copies=copies))
        pairs = ShardPairs([path])
        assert [(pairs[i].image, pairs[i].caption) for i in range(6)] == [
            (parts["jpg"], parts["txt"].decode()) for _, parts in samples
        ]
        with tarfile.open(path) as tar:
            sizes[copies] = [(member.name, member.linkname) for member in tar if member.islnk()]
    assert sizes == {True: [], False: [("b.jpg", "a.jpg")]}


def write_members(tar: tarfile.TarFile, members: list[Member]) -> None:
    for name, data in members:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("keep", [100, 700, 1024, 1536, 3 * 512 + 1])
def test_a_truncated_tar_is_named(two_shards, keep):
    data = two_shards[1].read_bytes()
    assert keep < len(data)
    two_shards[1].write_bytes(data[:keep])
    with pytest.raises(ValueError, match=r"a-00001\.tar cannot be read"):
        ShardPairs(two_shards)


def test_a_broken_header_in_the_middle_is_named(two_shards):
    offset = (int(scan(two_shards[0]).columns["members"][1, 0, 0]) - 1) * 512
    data = bytearray(two_shards[0].read_bytes())
    data[offset : offset + 4] = b"\xff\xff\xff\xff"
    two_shards[0].write_bytes(data)
    with pytest.raises(ValueError, match=rf"a-00000\.tar cannot be read.*byte {offset}"):
        ShardPairs(two_shards)


def test_what_is_no_tar_is_named(tmp_path):
    path = tmp_path / "page.tar"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match=r"page\.tar cannot be read"):
        ShardPairs([path])
    with pytest.raises(ValueError, match=r"gone\.tar cannot be read"):
        ShardPairs([tmp_path / "gone.tar"])
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        write_members(tar, pair("1", 1))
    with pytest.raises(ValueError, match="uncompressed"):
        ShardPairs([tmp_path / "z.tar"])


def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match="no shards"):
        ShardPairs([])
    with pytest.raises(ValueError, match=r"none of 1 samples .* a \.txt"):
        ShardPairs([make_tar(tmp_path / "s.tar", [("1.png", b"1")])])


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside(two_shards, index):
    with pytest.raises(IndexError, match=rf"index {index} lies outside \[0, 5\)"):
        ShardPairs(two_shards)[index]


def test_bad_captions_and_json_name_the_sample(tmp_path):
    bad = [
        ("1.jpg", b"i"),
        ("1.txt", b"\xff\xfe"),
        ("1.json", b"[1]"),
        ("2.jpg", b"i"),
        ("2.txt", b" \n"),
        ("2.json", b"{"),
        ("3.jpg", b"i"),
        ("3.txt", b"a" * 65_537),
        ("3.json", b"[" * 100_000),
    ]
    pairs = ShardPairs([make_tar(tmp_path / "s.tar", bad)])
    with pytest.raises(CorruptSample, match=r"s\.tar/1: its caption is not UTF-8"):
        pairs[0]
    with pytest.raises(CorruptSample, match=r"s\.tar/2: its caption is empty"):
        pairs.caption(1)
    with pytest.raises(CorruptSample, match=r"s\.tar/3: its caption has 65537 bytes; at most 65536"):
        pairs[2]
    with pytest.raises(CorruptSample, match=r"s\.tar/1: its \.json holds a list"):
        pairs.meta(0)
    for i in (1, 2):
        with pytest.raises(CorruptSample, match=rf"s\.tar/{i + 1}: its \.json cannot be read"):
            pairs.meta(i)


def test_a_shard_that_became_shorter(two_shards):
    pairs = ShardPairs(two_shards)
    os.truncate(two_shards[0], 600)
    with pytest.raises(CorruptSample, match=r"a-00000\.tar has become shorter .* byte 600"):
        pairs[0]
    assert pairs[3].caption == "caption 4é"


def test_a_shard_that_is_gone_or_another(two_shards):
    pairs = ShardPairs(two_shards)
    two_shards[0].unlink()
    with pytest.raises(CorruptSample, match=r"a-00000\.tar cannot be read any more"):
        pairs[0]
    make_tar(two_shards[0], pair("0007", 1) + pair("0008", 2) + pair("0009", 3))
    with pytest.raises(CorruptSample, match=r"a-00000\.tar is not the one that was indexed"):
        ShardPairs.caption(pickle.loads(pickle.dumps(pairs)), 1)


def test_texts_of_pairs_and_texts_alone(tmp_path):
    members = [("1.txt", b"alone"), ("2.png", b"no caption"), *pair("3", 3), ("4.json", b"{}")]
    texts = ShardTexts([make_tar(tmp_path / "s.tar", members)])
    assert [texts[i].text for i in range(len(texts))] == ["caption 3é", "alone"]
    assert texts.num_incomplete == 2
    assert texts.starts.tolist() == [0, 2]


def test_threads_and_pickling_change_nothing(two_shards):
    pairs = ShardPairs(two_shards)
    indices = np.random.default_rng(0).integers(0, 5, 400).tolist()
    alone = [pairs[i] for i in indices]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pickle.loads(pickle.dumps(pairs)).__getitem__, indices)) == alone


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_few_files_stay_open_and_none_without_the_source(tmp_path):
    paths = [make_tar(tmp_path / f"{n:02}.tar", pair("1", n)) for n in range(40)]
    before = num_open()
    pairs = ShardPairs(paths)
    with ThreadPoolExecutor(4) as pool:
        assert [len(sample.image) for sample in pool.map(pairs.__getitem__, [*range(40)] * 3)] == [*range(511, 551)] * 3
    assert before < num_open() <= before + 32
    del pairs
    assert num_open() == before


def test_a_forked_process_reads_beside_its_parent(two_shards):
    pairs = ShardPairs(two_shards)
    alone = [pairs[i] for i in range(5)]
    with pairs.storage._kept.lock, warnings.catch_warnings():  # as if another thread held it at the fork
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of threads
        child = os.fork()
        if not child:
            signal.alarm(20)  # ends it where it waits for the lock
            os._exit(0 if [pairs[i] for i in range(5)] == alone else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


TEXTS = st.text(st.characters(codec="utf-8"), max_size=9).filter(str.strip)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=1100), TEXTS), min_size=1, max_size=7), st.integers(1, 8))
def test_what_was_written_is_read(tmp_path_factory, content, size):
    folder = tmp_path_factory.mktemp("shards")
    samples = [(f"{i:03}", {"png": image, "txt": text.encode()}) for i, (image, text) in enumerate(content)]
    paths = write_shards(samples, folder / "s", size)
    assert len(paths) == -(-len(content) // size)
    pairs = ShardPairs(paths)
    assert [(sample.image, sample.caption) for sample in map(pairs.__getitem__, range(len(pairs)))] == [
        (image, text.strip()) for image, text in content
    ]


def test_shards_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "s.tar"

    def fail(file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_whole(path, fail)
    assert not path.exists()
    assert write_whole(path, lambda file: write_tar(file, [("1", {"png": b"1"})]))
    assert not write_whole(path, fail)
    assert len(ShardImages([path])) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.tar"]


def test_writing_refuses_what_could_not_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"the key 'a\.b' has a dot"):
        write_shards([("a.b", {"png": b"1"})], tmp_path / "s", 1)
    with pytest.raises(ValueError, match="shard of 0 samples"):
        write_shards([], tmp_path / "s", 0)


def test_members_are_read_only_if_they_match_and_are_files(tmp_path):
    path = tmp_path / "p.tgz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("p/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        write_members(tar, [("../p/up.png", b"1"), ("/p/root.png", b"2"), ("p/ok.png", b"3"), ("p/ok.png.exe", b"4")])
    assert list(read_members(path, r"p/(\w+)\.png")) == [("ok", b"3")]
    with pytest.raises(ValueError, match=r"'p/ok\.png' has 1 bytes; at most 0"):
        list(read_members(path, r"p/(\w+)\.png", limit=0))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"p\.tgz cannot be read"):
        list(read_members(path, r"p/(\w+)\.png"))


def test_json_is_left_as_it_is(two_shards):
    assert json.dumps(ShardImages(two_shards).meta(0)) == '{"n": 1}'


def test_threads_that_read_more_files_than_are_kept_open_read_the_right_ones(tmp_path):
    """A descriptor that was closed under a reader would be refused, or be another file's by then."""
    paths = [tmp_path / f"{n:03}" for n in range(60)]
    for n, path in enumerate(paths):
        path.write_bytes(bytes([n]) * 4096)
    files = LocalFiles(num_open=3)

    def read(seed):
        order = np.random.default_rng(seed).integers(0, len(paths), 1500)
        return [(n, set(files.read(str(paths[n]), Span(int(n) * 7, 512), 4096))) for n in order.tolist()]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, range(8)):
            assert all(data == {n} for n, data in found)


def test_a_run_goes_on_with_shards_of_the_same_names_and_sizes_alone(tmp_path):
    def told(folder, *sizes):
        (tmp_path / folder).mkdir()
        shards = []
        for n, size in enumerate(sizes):
            shards.append(tmp_path / folder / f"{n}.tar")
            members = [member for i in range(size) for member in pair(f"{n}{i}", i)]
            make_tar(shards[-1], members)
        return ShardPairs(shards).told()

    first = told("a", 2, 2)
    assert told("b", 2, 2) == first
    assert told("c", 1, 3) != first
    assert told("d", 1, 1, 2) != first
    assert (first["name"], first["length"]) == ("pairs", 4)
