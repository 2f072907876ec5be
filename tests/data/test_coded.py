"""Codes beside shards: equal to those that the codebook gives for the very crop that the encoder is shown."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from made_tars import make_tar
from PIL import Image
from safetensors.numpy import load_file

from torchflava.codebooks import fingerprint, fit_patches
from torchflava.data.coded import CodedRows, CodedShards
from torchflava.data.codes import (
    HEAD,
    CodesOf,
    Kept,
    KeptList,
    ShardMark,
    codes_path,
    crop_rng,
    kept_in,
    list_path,
    read_list,
    shard_mark,
    write_codes,
)  # fmt: skip
from torchflava.data.order import keyed_rng
from torchflava.data.rows import PairRows, TextRows
from torchflava.data.shards import ShardImages, ShardPairs
from torchflava.transforms.augment import Augment
from torchflava.transforms.image import CorruptSample, TrainViews, decoded

CROPS, SIDE = 2, 3
VIEWS = TrainViews(24, 12, scale=(0.3, 0.9), flip=0.5)
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12), dtype=np.uint8))
CODEBOOK = fit_patches(IMAGES, num_codes=7, patch_size=4)
MARK = ShardMark("", 0, "")
OF = CodesOf(fingerprint(CODEBOOK), CODEBOOK.num_codes, CODEBOOK.grid, VIEWS.told())


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 31, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write(shards: list[Path], source: ShardImages, broken: frozenset[int] = frozenset()) -> None:
    """As the script does, but written out: one image, one crop at a time, named by the shard and the key."""
    kept = {}
    for number, shard in enumerate(shards):
        start, stop = source.starts[number : number + 2]
        codes = np.full((stop - start, CROPS, SIDE * SIDE), -1)
        for index in range(start, stop):
            for crop in range(CROPS):
                if index not in broken:
                    image = decoded(source[index].image)
                    target = VIEWS(image, keyed_rng("crop", source[index].key, crop))[1]
                    codes[index - start, crop] = CODEBOOK.encode(target[None])[0].numpy()
        path = Path(codes_path(str(shard), OF, CROPS))
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = shard_mark(source.catalog.part(number))
        with path.open("wb") as file:
            write_codes(file, codes, OF, mark=mark)
        kept[shard.name] = kept_in(path.read_bytes()[:HEAD], path.stat().st_size, OF, crops=CROPS)
    Path(list_path(str(shards[0].parent), OF)).write_bytes(KeptList(CROPS, kept).as_json(OF))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two shards: images with captions and without, and captions without images, in an order that the index changes."""
    made = []
    for number in range(2):
        members = []
        for i in range(5):
            key = f"{number}{i}"
            members += [] if i == 3 else [(f"{key}.jpg", jpeg(10 * number + i))]
            members += [] if i == 1 else [(f"{key}.txt", f"caption {key}".encode())]
        made.append(make_tar(tmp_path / f"{number:05}.tar", members))
    return made


@pytest.mark.parametrize("kind", [ShardPairs, ShardImages])
def test_codes_are_those_of_the_crop_that_the_encoder_sees(shards: list[Path], kind: type) -> None:
    write(shards, ShardImages(shards))
    source = CodedShards(kind(shards, "mine"), OF)
    assert (source.name, source.crops, len(source)) == ("mine", CROPS, len(kind(shards)))
    rows, seen = CodedRows(VIEWS, lambda rng: rng.random((SIDE, SIDE)) < 0.5), set()
    for index in range(len(source)):
        for draw in range(12):
            row = rows(source, index, keyed_rng("run", index, draw))
            again = [VIEWS(decoded(source[index].image), crop_rng(source[index].key, crop)) for crop in range(CROPS)]
            (crop,) = [at for at, (pixels, _) in enumerate(again) if torch.equal(pixels, row.pixels)]
            assert torch.equal(row.target, CODEBOOK.encode(again[crop][1][None])[0])
            seen.add((index, crop))
    assert seen == {(index, crop) for index in range(len(source)) for crop in range(CROPS)}


def test_augmenting_and_masks_are_the_runs_own(shards: list[Path]) -> None:
    """The crop is fixed, what else is random is not: two epochs show the same crop in other colours."""
    write(shards, ShardImages(shards))
    source = CodedShards(ShardImages(shards), OF)
    views = TrainViews(24, 12, scale=(0.3, 0.9), flip=0.5, augment=Augment(contrast=0.4, saturation=0.4, hue=0.1))
    rows = CodedRows(views, lambda rng: rng.random((SIDE, SIDE)) < 0.5)
    found = [rows(source, 0, keyed_rng(epoch)) for epoch in range(8)]
    same = [row for row in found[1:] if torch.equal(row.target, found[0].target)]
    assert same
    assert not any(torch.equal(row.pixels, found[0].pixels) for row in same)
    assert any((row.masked != found[0].masked).any() for row in same)


def test_pairs_of_coded_shards(shards: list[Path]) -> None:
    class Words:
        def encode(self, text, max_length):
            from types import SimpleNamespace

            return SimpleNamespace(ids=[ord(c) for c in text], word_ids=[0 for _ in text])

    write(shards, ShardImages(shards))
    source = CodedShards(ShardPairs(shards), OF)
    texts = TextRows(Words(), lambda tokens, rng: (tokens.ids, [0]), 99)
    row = PairRows(CodedRows(VIEWS, lambda rng: np.ones(9, bool)), texts, 0.0)(source, 2, keyed_rng(3))
    assert row.ids == [ord(c) for c in source.caption(2)]
    assert row.image.target.shape == (9,)
    assert source.told() == ShardPairs(shards).told() | {"codes": OF.folder, "crops": CROPS}


def test_an_image_that_could_not_be_decoded_is_replaced(shards: list[Path]) -> None:
    write(shards, ShardImages(shards), broken=frozenset([1]))
    source = CodedShards(ShardImages(shards), OF)
    with pytest.raises(CorruptSample, match=r"00000.tar/00 could not be decoded when its codes were made"):
        source.codes(1, 0)
    assert int(source.codes(2, 1).max()) < 7
    assert kept_of(shards[0]).unreadable == 1


def kept_of(shard: Path) -> Kept:
    data = Path(codes_path(str(shard), OF, CROPS)).read_bytes()
    kept = kept_in(data[:HEAD], len(data), OF, crops=CROPS)
    assert kept is not None
    return kept


def test_a_file_of_codes_is_plain_safetensors(shards: list[Path]) -> None:
    write(shards, ShardImages(shards))
    codes = load_file(codes_path(str(shards[0]), OF, CROPS))["codes"]
    assert (codes.dtype, codes.shape) == (np.uint16, (4, CROPS, 9))
    source = CodedShards(ShardImages(shards), OF)
    assert all((source.codes(i, c).numpy() == codes[i, c]).all() for i in range(4) for c in range(CROPS))
    assert codes.tobytes() == Path(codes_path(str(shards[0]), OF, CROPS)).read_bytes()[kept_of(shards[0]).first :]


def test_other_codebooks_and_crops_have_other_folders() -> None:
    other = fit_patches(IMAGES.flip(0), num_codes=7, patch_size=4, seed=1)
    named = [OF, OF._replace(codebook=fingerprint(other)), OF._replace(views=TrainViews(24, 12).told())]
    named += [OF._replace(views=TrainViews(24, 12, scale=(0.3, 0.9)).told()), OF._replace(grid=(1, 9))]
    assert len({of.folder for of in named}) == len(named)
    assert (
        OF._replace(views=TrainViews(99, 12, scale=(0.3, 0.9), flip=0.5).told()).folder == OF.folder
    )  # the encoder's size
    with pytest.raises(ValueError, match="leave it out where codes are kept"):
        TrainViews(24, 12, warp=lambda image, rng: image).told()


def test_the_fingerprint_is_of_every_number() -> None:
    first = fingerprint(CODEBOOK)
    assert fingerprint(fit_patches(IMAGES, num_codes=7, patch_size=4)) == first
    changed = fit_patches(IMAGES, num_codes=7, patch_size=4)
    changed.prototypes[6, 2, 3, 3] += 1e-12
    assert fingerprint(changed) != first
    changed = fit_patches(IMAGES, num_codes=7, patch_size=4)
    changed.image_size = 24
    assert fingerprint(changed) != first


def test_codes_of_changed_shards_are_refused(shards: list[Path]) -> None:
    write(shards, ShardImages(shards))
    with pytest.raises(FileNotFoundError):
        CodedShards(ShardImages(shards), OF._replace(num_codes=8))
    make_tar(shards[1], [("10.jpg", jpeg(3))])
    with pytest.raises(
        ValueError, match=r"the codes beside .*00001.tar are not of all its images; run recipes/data/codes.py"
    ):
        CodedShards(ShardImages(shards), OF)
    make_tar(shards[1], [(f"1{i}.jpg", jpeg(i)) for i in range(4)])  # as many, but others
    with pytest.raises(ValueError, match=r"00001.tar was written after its codes were made, or copied; run recipes"):
        CodedShards(ShardImages(shards), OF)
    at = kept_of(shards[1]).shard.modified
    os.utime(shards[1], ns=(at, at))
    source = CodedShards(ShardImages(shards), OF)
    assert source.codes(3, 0).shape == (9,)
    with pytest.raises(ValueError, match=r"00001.tar.safetensors has the codes of other images than its shard"):
        source.codes(4, 0)
    make_tar(shards[0].parent / "00002.tar", [("20.jpg", jpeg(3))])
    with pytest.raises(ValueError, match=r"the codes beside .*00002.tar are not of all"):
        CodedShards(ShardImages([*shards, shards[0].parent / "00002.tar"]), OF)


def test_damaged_files_are_told(shards: list[Path]) -> None:
    write(shards, ShardImages(shards))
    path, listed = Path(codes_path(str(shards[0]), OF, CROPS)), Path(list_path(str(shards[0].parent), OF))
    whole, text = path.read_bytes(), listed.read_bytes()
    first = kept_of(shards[0]).first
    path.write_bytes(whole[:first] + b"\x07\x00" + whole[first + 2 :])
    with pytest.raises(ValueError, match=r"is damaged: its codes have another hash than codes.json tells; run"):
        CodedShards(ShardImages(shards), OF).codes(0, 0)
    path.write_bytes(whole[:-2])
    assert kept_in(whole[:HEAD], len(whole) - 2, OF, crops=CROPS) is None
    with pytest.raises(CorruptSample, match="shorter"):
        CodedShards(ShardImages(shards), OF).codes(3, 1)
    for head in (b"", whole[:7], b"\xff" * 9, whole[:200], b"\x02\0\0\0\0\0\0\0{}"):
        assert kept_in(head, len(whole), OF, crops=CROPS) is None
    assert kept_in(whole[:HEAD], len(whole), OF, crops=1) is None
    for damaged in (
        b"",
        b"[]",
        text[:-9],
        text.replace(b'"crops": 2', b'"crops": null'),
        text.replace(b'"crops": 2', b'"crops": 0'),
        text.replace(b"codes 2", b"codes 0"),
    ):
        with pytest.raises(ValueError, match=r"codes\.json is damaged"):
            read_list(damaged, str(listed), OF)


def test_what_cannot_be_written_is_refused() -> None:
    for codes, match in (
        (np.zeros((2, 9)), r"codes have shape \(R, C, 9\)"),
        (np.zeros((2, 1, 8)), r"codes have shape \(R, C, 9\)"),
        (np.full((2, 1, 9), 7), "codes go from 0 to 6, got 7 to 7"),
        (np.full((2, 1, 9), -2), "got -2"),
    ):
        with pytest.raises(ValueError, match=match):
            write_codes(io.BytesIO(), codes.astype(np.int64), OF, mark=MARK)
    with pytest.raises(ValueError, match="a codebook of 65536 codes cannot be kept"):
        write_codes(io.BytesIO(), np.zeros((1, 1, 9), np.int64), OF._replace(num_codes=65536), mark=MARK)


def test_folders_with_different_numbers_of_crops_are_told(shards: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    more = make_tar(other / "00000.tar", [("0.jpg", jpeg(1))])
    write(shards, ShardImages(shards))
    write([more], ShardImages([more]))
    listed = Path(list_path(str(other), OF))
    assert len(CodedShards(ShardImages([*shards, more]), OF)) == 9
    listed.write_text(json.dumps(json.loads(listed.read_text()) | {"crops": 1}))
    with pytest.raises(ValueError, match=r"its folders keep codes of \[1, 2\] crops"):
        CodedShards(ShardImages([*shards, more]), OF)


def test_another_process_reads_the_same(shards: list[Path]) -> None:
    write(shards, ShardImages(shards))
    source = CodedShards(ShardImages(shards), OF)
    copy = pickle.loads(pickle.dumps(source))
    assert all(torch.equal(copy.codes(i, 1), source.codes(i, 1)) for i in range(len(source)))


def swapped(first: Path, second: Path) -> None:
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def zeroed(first: Path, second: Path) -> None:
    start = kept_in(first.read_bytes()[:HEAD], first.stat().st_size, OF, crops=CROPS).first
    first.write_bytes(first.read_bytes()[:start] + bytes(first.stat().st_size - start))


def of_other_images(first: Path, second: Path) -> None:
    """As codes.py would write them for other images of the same lengths at the same places."""
    kept = kept_in(first.read_bytes()[:HEAD], first.stat().st_size, OF, crops=CROPS)
    with first.open("wb") as file:
        write_codes(file, np.ones((kept.images, CROPS, 9), np.int64), OF, mark=kept.shard._replace(contents="0" * 16))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (swapped, "is not the file that codes.json lists"),
        (zeroed, "is damaged: its codes have another hash"),
        (of_other_images, "is not the file that codes.json lists"),
    ],
)
def test_files_that_are_not_those_listed_are_refused_by_name(shards: list[Path], change, told: str) -> None:
    write(shards, ShardImages(shards))
    change(*(Path(codes_path(str(shard), OF, CROPS)) for shard in shards))
    source = CodedShards(ShardImages(shards), OF)
    for _ in range(2):  # the second time too
        with pytest.raises((ValueError, CorruptSample), match=f"00000.tar.safetensors.*{told}"):
            source.codes(0, 0)


def test_codes_of_so_many_crops_have_a_folder_of_their_own() -> None:
    one, two = (codes_path("a/b.tar", OF, crops) for crops in (1, 2))
    assert (one, two) == (f"a/{OF.folder}/crops-1/b.tar.safetensors", f"a/{OF.folder}/crops-2/b.tar.safetensors")
