"""The script that keeps codes: what it must notice, what it must leave undone, and how much it holds at once."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "data"))

import codes_settings
import encode_shards
import encoding
import kept_files

from torchflava.codebooks import PatchCodebook, fingerprint, fit_patches
from torchflava.data.coded import CodedShards
from torchflava.data.codes import CodesOf
from torchflava.data.remote import DiskCache
from torchflava.data.shards import ShardImages
from torchflava.data.tars import write_tar
from torchflava.transforms.image import CorruptSample, TrainViews, decoded

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12), dtype=np.uint8))
CODEBOOK = fit_patches(IMAGES, num_codes=7, patch_size=4)
VIEWS = TrainViews(12, 12)
OF = CodesOf(fingerprint(CODEBOOK), 7, CODEBOOK.grid, VIEWS.told())


def picture(seed: int, kind: str = "BMP") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 18, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def shard(path: Path, first: int, broken: tuple[int, ...] = (), num: int = 20) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    images = [b"<html>" if i in broken else picture(first + i) for i in range(num)]
    with path.open("wb") as file:
        write_tar(file, [(f"{i:04}", {"bmp": image}) for i, image in enumerate(images)])
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    CODEBOOK.save(tmp_path / "book.safetensors")
    return tmp_path / "book.safetensors"


def encode(book: Path, *arguments: object) -> list:
    config = codes_settings.parse([*map(str, arguments), "--codebook", str(book), "--threads", "2"])
    return encode_shards.run(config)


def right(paths: list[Path]) -> bool:
    source = CodedShards(ShardImages(paths), OF)
    crops = [(i, crop) for i in range(len(source)) for crop in range(source.crops)]
    views = [VIEWS.target(VIEWS.crop(decoded(source[i].image), source.crop_rng(i, crop))) for i, crop in crops]
    return all(
        torch.equal(source.codes(*at), CODEBOOK.encode(view[None])[0]) for at, view in zip(crops, views, strict=True)
    )


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("codes-*/crops-*/*.safetensors")}


def test_bitmaps_written_again_are_refused_and_encoded_anew(book: Path, tmp_path: Path) -> None:
    paths = [shard(tmp_path / "set" / f"{n}.tar", 100 * n) for n in range(2)]
    encode(book, tmp_path / "set")
    assert right(paths)
    shard(paths[0], 5000)
    with pytest.raises(ValueError, match=r"0\.tar was written after its codes were made"):
        right(paths)
    encode(book, tmp_path / "set")
    assert right(paths)


def test_a_copy_of_the_same_images_is_not_encoded(book: Path, tmp_path: Path, monkeypatch) -> None:
    path = shard(tmp_path / "set" / "0.tar", 0, broken=(3,))
    (before,) = encode(book, tmp_path / "set")
    os.utime(path, (1, 1))
    monkeypatch.setattr(PatchCodebook, "encode", lambda self, images: pytest.fail("encoded"))
    (after,) = encode(book, tmp_path / "set")
    assert after.shard == before.shard._replace(modified=10**9)
    assert (after.codes, after.unreadable) == (before.codes, 1)
    CodedShards(ShardImages([path]), OF)


def test_a_zeroed_file_is_mended(book: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "set" / "0.tar", 0)
    (kept,) = encode(book, tmp_path / "set")
    (codes,) = files(tmp_path / "set")
    codes.write_bytes(codes.read_bytes()[: kept.first] + bytes(kept.num_bytes - kept.first))
    with pytest.raises(ValueError, match="another hash"):
        right([path])
    assert encode(book, tmp_path / "set") == [kept]
    assert right([path])


def test_other_crops_leave_an_open_source_what_it_reads(book: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "set" / "0.tar", 0)
    encode(book, tmp_path / "set")
    source = CodedShards(ShardImages([path]), OF)
    encode(book, tmp_path / "set", "--crops", 2)
    view = VIEWS.target(VIEWS.crop(decoded(source[4].image), source.crop_rng(4, 0)))
    assert torch.equal(source.codes(4, 0), CODEBOOK.encode(view[None])[0])
    assert right([path])


def test_what_cannot_be_read_now_is_left_undone_and_told(book: Path, tmp_path: Path, monkeypatch) -> None:
    paths = [shard(tmp_path / name / "0.tar", 0) for name in ("one", "two")]
    there = ShardImages.__getitem__

    def flaky(self: ShardImages, index: int) -> object:
        if "one" in self.paths[0] and index == 7:
            raise CorruptSample("shard cannot be fetched (TimeoutError)")
        return there(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(ShardImages, "__getitem__", flaky)
        with pytest.raises(OSError, match=r"1 of 2 shards could not be read .*one/0\.tar \(CorruptSample: .*Timeout"):
            encode(book, tmp_path / "one", tmp_path / "two")
    assert right(paths[1:])
    assert not files(tmp_path / "one")
    with pytest.raises(FileNotFoundError):
        right(paths[:1])
    assert [kept.unreadable for kept in encode(book, tmp_path / "one", tmp_path / "two")] == [0, 0]
    assert right(paths[:1])
    assert not list(tmp_path.rglob("*.failed"))


def test_too_many_broken_images_stop_it(book: Path, tmp_path: Path) -> None:
    for n in range(3):
        shard(tmp_path / "set" / f"{n}.tar", 0, broken=tuple(range(15)), num=200)
    with pytest.raises(
        ValueError, match=r"45 of 600 images cannot be decoded, --max-corrupt-fraction is 0.05: 0.tar/0"
    ):
        encode(book, tmp_path / "set")
    assert len(files(tmp_path / "set")) == 2
    assert sum(kept.unreadable for kept in encode(book, tmp_path / "set", "--max-corrupt-fraction", 0.2)) == 45


def test_the_codebook_sees_so_many_crops_and_little_is_decoded_ahead(book: Path, tmp_path: Path, monkeypatch) -> None:
    shard(tmp_path / "set" / "0.tar", 0)
    sizes, cut, ahead = [], [0], []
    plain, plain_cut = PatchCodebook.encode, encoding.Encoding._cut

    def noted(self: PatchCodebook, images: Tensor) -> Tensor:
        sizes.append(len(images))
        ahead.append(8 * cut[0] - sum(sizes))
        return plain(self, images)

    def counted(*of: object) -> object:
        cut[0] += 1
        return plain_cut(*of)

    monkeypatch.setattr(PatchCodebook, "encode", noted)
    monkeypatch.setattr(encoding.Encoding, "_cut", counted)
    encode(book, tmp_path / "set", "--batch-size", 12, "--crops", 8)
    assert sizes == [12] * 13 + [4]
    assert max(ahead) <= 12 + 8
    monkeypatch.undo()
    assert right([tmp_path / "set" / "0.tar"])


def test_over_urls_a_folder_is_made(book: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "set" / "0.tar", 0)
    for url in (f"file://{path}", "memory://codes-test/0.tar"):
        if url.startswith("memory"):
            import fsspec

            fsspec.filesystem("memory").pipe_file("/codes-test/0.tar", path.read_bytes())
        assert [kept.images for kept in encode(book, url)] == [20]
        assert kept_files.exists(f"{url.rpartition('/')[0]}/{OF.folder}/codes.json")


def test_a_file_is_replaced_without_a_moment_in_which_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def content(file: object) -> None:
        assert path.read_bytes() == b"old"
        file.write(b"new")  # type: ignore[attr-defined]

    for place in (str(path), f"file://{path}"):
        path.write_bytes(b"old")
        kept_files.write(place, content)
        assert path.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError):
        kept_files.write(str(path), lambda file: 1 / 0)
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_by_two_names_is_encoded_once(book: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "set" / "0.tar", 0)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    names = (tmp_path / "set", tmp_path / "link", f"{tmp_path}/./set", f"file://{path}")
    assert len(encode(book, *names)) == 1


def test_too_many_codes_are_told_before_anything_is_encoded(book: Path, tmp_path: Path, monkeypatch) -> None:
    shard(tmp_path / "set" / "0.tar", 0)
    monkeypatch.setattr(encode_shards, "_shards", lambda *of: pytest.fail("looked for shards"))
    monkeypatch.setattr("torchflava.data.codes.UNREADABLE", 6)
    with pytest.raises(ValueError, match="a codebook of 7 codes cannot be kept"):
        encode(book, tmp_path / "set")


def test_a_cache_gives_no_codes_of_before(book: Path, tmp_path: Path) -> None:
    """Codes made anew, as long as those before, from a cache that holds a copy of these."""
    import fsspec

    path, system = shard(tmp_path / "set" / "0.tar", 0), fsspec.filesystem("memory")
    for first in (0, 500):
        shard(path, first)
        encode(book, path.parent)
        system.pipe_file("/codes-cache/0.tar", path.read_bytes())
        for made in [*files(path.parent), *path.parent.glob("codes-*/codes.json")]:
            system.pipe_file(f"/codes-cache/{made.relative_to(path.parent)}", made.read_bytes())
        afar = ShardImages(["memory://codes-cache/0.tar"], storage=DiskCache(tmp_path / "cache", 1 << 20))
        local = CodedShards(ShardImages([path]), OF)
        assert all(torch.equal(CodedShards(afar, OF).codes(i, 0), local.codes(i, 0)) for i in range(20))
