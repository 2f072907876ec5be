"""Shards from afar, through fsspec's memory:// file system: cached within bounds, tried again, shared by processes."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from made_tars import make_tar, pairs

from torchflava.data import remote as module
from torchflava.data.index import INDEX_NAME, scan, write_index
from torchflava.data.remote import DiskCache, Ranged
from torchflava.data.shards import ShardPairs
from torchflava.data.storage import Span
from torchflava.stores import Retries
from torchflava.transforms.image import CorruptSample

SHARD = 10_240  # bytes of a tar with one sample
URLS = [f"memory://bucket/{n}.tar" for n in range(5)]
QUICK = Retries(3, 0.0)


class Flaky(MemoryFileSystem):
    """Fails as often as it is told to, and counts."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012  # as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012
    failures, asked = 0, 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        type(self).asked += 1
        if type(self).failures:
            type(self).failures -= 1
            raise TimeoutError("no answer")
        return super().cat_file(path, start=start, end=end, **more)


class Counted(LocalFileSystem):
    """Notes every shard that is fetched, for all processes, and takes its time."""

    protocol = "counted"

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        with open(Path(path).parent / "fetched", "a") as file:
            file.write(f"{Path(path).name}\n")
        time.sleep(0.01)
        return super().cat_file(path, start=start, end=end, **more)


@pytest.fixture(autouse=True)
def bucket(tmp_path: Path) -> Iterator[Path]:
    """Five shards of one sample, and the index of four of them; on the local disk and afar."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    fsspec.register_implementation("counted", Counted, clobber=True)
    folder = tmp_path / "there"
    folder.mkdir()
    paths = [make_tar(folder / f"{n}.tar", pairs(f"{n}")) for n in range(5)]
    assert all(path.stat().st_size == SHARD for path in paths)
    with open(folder / INDEX_NAME, "wb") as file:
        write_index(file, [lambda path=path: scan(path) for path in paths[:4]])
    for scheme in ("memory", "flaky"):
        system = fsspec.filesystem(scheme)
        for path in folder.iterdir():
            system.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    Flaky.failures = Flaky.asked = 0
    yield folder
    MemoryFileSystem.store.clear()
    Flaky.store.clear()


def cached(folder: Path, limit: int = 1 << 20) -> DiskCache:
    return DiskCache(folder / "cache", limit, retries=QUICK)


def kept(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "cache").iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize("way", ["cache", "ranges"])
def test_afar_as_on_the_local_disk(tmp_path, bucket, way):
    local = ShardPairs([bucket / f"{n}.tar" for n in range(5)])
    afar = ShardPairs(URLS, storage=cached(tmp_path) if way == "cache" else Ranged(QUICK))
    expected = [local[i] for i in range(5)]
    assert [afar[i] for i in range(5)] == expected
    assert [afar.caption(i) for i in range(5)] == [sample.caption for sample in expected]
    with ThreadPoolExecutor(4) as pool:
        again = pickle.loads(pickle.dumps(afar))
        assert list(pool.map(again.__getitem__, [*range(5)] * 4)) == expected * 4


def test_a_place_is_needed_for_what_comes_from_afar(bucket):
    with pytest.raises(ValueError, match=r"memory://bucket/0\.tar is not on the local disk; give storage=DiskCache"):
        ShardPairs(URLS)
    with pytest.raises(ValueError, match="local shards to a source of their own"):
        ShardPairs([*URLS, bucket / "0.tar"], storage=Ranged())
    with pytest.raises(ValueError, match=r"gone\.tar cannot be read \(FileNotFoundError"):
        ShardPairs(["memory://bucket/gone.tar"], storage=Ranged(QUICK))
    with pytest.raises(ValueError, match="a cache of 0 bytes"):
        DiskCache(bucket, 0)
    with pytest.raises(ValueError, match=r"tries=0.* cannot be kept"):
        Ranged(Retries(0))


def test_the_cache_keeps_within_its_bytes_those_that_were_read_last(tmp_path):
    cache = cached(tmp_path, 3 * SHARD)
    for n in (0, 1, 2):
        cache.open_whole(URLS[n], SHARD).close()
        time.sleep(0.002)
    cache.open_whole(URLS[0], SHARD).close()
    with cache.open_whole(URLS[1], SHARD) as file:
        for n in (3, 4, 3):
            cache.open_whole(URLS[n], SHARD).close()
        assert len(list((tmp_path / "cache").glob("*.shard"))) == 3
        assert kept(tmp_path) == 3 * SHARD
        assert len(file.read()) == SHARD  # whoever reads it still, reads on
    MemoryFileSystem.store.clear()
    there = []
    for n in range(5):
        try:
            cache.open_whole(URLS[n], SHARD).close()
            there.append(n)
        except FileNotFoundError:
            continue
    assert there == [1, 3, 4]


def test_a_shard_larger_than_the_cache_is_corrupt_not_a_loop(tmp_path):
    pairs = ShardPairs(URLS[:4], storage=Ranged())
    pairs.storage = cached(tmp_path, SHARD - 1)
    with pytest.raises(CorruptSample, match=r"10240 bytes do not fit into a cache of 10239; raise its limit"):
        pairs[0]


def test_failed_reads_are_tried_again_with_growing_pauses(tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    urls = [url.replace("memory", "flaky") for url in URLS[:4]]
    for storage in (DiskCache(tmp_path / "c", 1 << 20, retries=Retries(4, 0.5)), Ranged(Retries(4, 0.5))):
        found = ShardPairs(urls, storage=storage)
        Flaky.failures = 3
        assert found[0].caption == "0 txt"
        assert pauses == [0.5, 1.0, 2.0]
        Flaky.failures, Flaky.asked = 99, 0
        with pytest.raises(
            CorruptSample, match=r"flaky://bucket/1\.tar cannot be fetched.*4 tries, the last: TimeoutError"
        ):
            found[1]
        assert Flaky.asked == 4
        Flaky.failures = 0
        assert found[1].caption == "1 txt"
        pauses.clear()
    assert [path.suffix for path in (tmp_path / "c").iterdir() if path.suffix == ".part"] == []


@pytest.mark.parametrize("way", ["cache", "ranges"])
def test_what_is_gone_shorter_or_another_is_corrupt(tmp_path, bucket, way):
    found = ShardPairs(URLS[:4], storage=cached(tmp_path) if way == "cache" else Ranged(QUICK))
    system = fsspec.filesystem("memory")
    system.rm("/bucket/0.tar")
    system.pipe_file("/bucket/1.tar", (bucket / "1.tar").read_bytes()[:700])
    system.pipe_file("/bucket/2.tar", (bucket / "3.tar").read_bytes())
    with pytest.raises(CorruptSample, match=r"0\.tar cannot be fetched.*FileNotFoundError"):
        found[0]
    with pytest.raises(CorruptSample, match=r"1\.tar .*(700 bytes, 10240 when it was indexed|has become shorter)"):
        found[1]
    with pytest.raises(CorruptSample, match=r"2\.tar is not the one that was indexed"):
        found[2]
    assert found[3].caption == "3 txt"


def test_large_shards_come_in_pieces_and_servers_without_ranges_give_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 1_000)
    with cached(tmp_path).open_whole(URLS[0]) as file:
        assert file.read() == MemoryFileSystem.store["/bucket/0.tar"].getvalue()
    monkeypatch.setattr(DiskCache, "_range", lambda self, url, start, end: b"1" * SHARD)
    with cached(tmp_path).open_whole(URLS[1]) as file:
        assert file.read() == b"1" * SHARD


def test_what_a_dead_process_left_is_deleted_and_what_a_living_one_fetches_counts(tmp_path):
    cache = cached(tmp_path, 2 * SHARD)
    cache.open_whole(URLS[0], SHARD).close()
    (tmp_path / "cache/dead.1.part").write_bytes(b"0" * SHARD)
    living = cache._room(tmp_path / "cache/living.shard", SHARD)
    assert living is not None
    with living:
        assert not (tmp_path / "cache/dead.1.part").exists()
        assert cache._room(tmp_path / "cache/more.shard", 2 * SHARD) is None  # it would have to wait
        assert not list((tmp_path / "cache").glob("*.shard"))
        cache.open_whole(URLS[1], SHARD).close()
        assert kept(tmp_path) == 2 * SHARD
    cache.open_whole(URLS[2], SHARD).close()
    assert not (tmp_path / f"cache/living.{os.getpid()}.part").exists()


def read_all(folder: Path, limit: int, turns: int) -> list[bytes]:
    found = ShardPairs([f"counted://{folder}/{n}.tar" for n in range(4)], storage=DiskCache(folder / "cache", limit))
    return [found[(i * 3 + os.getpid()) % 4].image for i in range(turns)]


def in_processes(folder: Path, limit: int, turns: int) -> None:
    """Two processes read at once; both must get what is there."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=checked, args=(folder, limit, turns)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]


def checked(folder: Path, limit: int, turns: int) -> None:
    due = [f"{(i * 3 + os.getpid()) % 4} jpg".encode() for i in range(turns)]
    os._exit(0 if read_all(folder, limit, turns) == due else 1)


def test_two_processes_fetch_each_shard_once(bucket):
    in_processes(bucket, 1 << 20, 8)
    fetched = (bucket / "fetched").read_text().split()
    assert sorted(name for name in fetched if name != INDEX_NAME) == ["0.tar", "1.tar", "2.tar", "3.tar"]


def test_two_processes_share_a_cache_that_holds_half(bucket):
    size = (bucket / INDEX_NAME).stat().st_size
    in_processes(bucket, 2 * SHARD + size, 12)
    assert kept(bucket) <= 2 * SHARD + size
    assert len((bucket / "fetched").read_text().split()) > 5


def test_indexes_and_lists_are_fetched_each_time_and_other_versions_too(tmp_path):
    """A file written again in place, as long as before: what tells what is up to date must be so itself."""
    system, cache = fsspec.filesystem("memory"), cached(tmp_path)
    for name in (INDEX_NAME, "codes.json", "codes.safetensors"):
        url = f"memory://bucket/{name}"
        for content in (b"one", b"two"):
            system.pipe_file(f"/bucket/{name}", content)
            with cache.at_version(content.decode()).open_whole(url, 3 if name == "codes.safetensors" else None) as file:
                assert file.read() == content
    assert len(list((tmp_path / "cache").glob("*.shard"))) == 2
    assert cache.at_version("one").read("memory://bucket/codes.safetensors", Span(0, 3), 3) == b"one"
