"""The size in a JPEG's header and the decoder behind the seam, against Pillow."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from torchflava.transforms import image as image_module
from torchflava.transforms import jpeg as jpeg_module
from torchflava.transforms.image import CorruptSample, decode_image
from torchflava.transforms.jpeg import jpeg_size

GREY = np.add.outer(np.arange(29) * 4, np.arange(37) * 3).astype(np.uint8)
PHOTO = Image.fromarray(np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1))


def encoded(image: Image.Image, file_format: str = "JPEG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


KINDS = {
    "plain": encoded(PHOTO, quality=90),
    "grey": encoded(PHOTO.convert("L")),
    "progressive": encoded(PHOTO, progressive=True),
    "progressive grey": encoded(PHOTO.convert("L"), progressive=True),
    "colour at full size": encoded(PHOTO, subsampling=0),
    "restart marks": encoded(PHOTO, restart_marker_blocks=2),
    "a comment": encoded(PHOTO, comment=b"x" * 3000),
    "a profile in two parts": encoded(PHOTO, icc_profile=b"x" * 70_000),
    "a small EXIF": encoded(PHOTO, exif=turned(1)),
    "a thumbnail in EXIF": encoded(PHOTO, exif=b"Exif\0\0" + encoded(PHOTO.resize((8, 8)))),
    "red, green, blue": encoded(PHOTO, keep_rgb=True),
    "two pictures": encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO]),
    "something behind it": encoded(PHOTO) + b"junk",
    "one pixel": encoded(PHOTO.crop((0, 0, 1, 1))),
}


def by_pillow(data: bytes) -> torch.Tensor:
    with Image.open(BytesIO(data)) as image:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_pixels_are_pillows(kind: str) -> None:
    data = KINDS[kind]
    with Image.open(BytesIO(data)) as image:
        assert jpeg_size(data) == (image.height, image.width)
    assert torch.equal(decode_image(data), by_pillow(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_stands_upright_as_pillow_turns_it(orientation: int, mode: str) -> None:
    data = encoded(PHOTO.convert(mode), exif=turned(orientation))
    assert torch.equal(decode_image(data), by_pillow(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        encoded(PHOTO, "PNG"),
        encoded(PHOTO.convert("CMYK")),
        KINDS["plain"][:150],
        KINDS["plain"][:2] + b"\xff\xff" + KINDS["plain"][2:],
        KINDS["plain"].replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        KINDS["plain"].replace(b"\xff\xc0", b"\xff\xc9"),
    ],
    ids=["nothing", "a start", "png", "cmyk", "cut", "fill bytes", "12 bits", "arithmetic coding"],
)
def test_what_is_no_plain_jpeg_is_left_to_pillow(data: bytes) -> None:
    assert jpeg_size(data) is None


def test_fill_bytes_before_a_marker_are_allowed() -> None:
    data = KINDS["plain"]
    assert torch.equal(decode_image(data[:2] + b"\xff\xff" + data[2:]), by_pillow(data))


@given(st.sampled_from(list(KINDS)), st.integers(2, 700), st.integers(0, 255))
@settings(max_examples=200)
def test_a_size_that_is_told_of_a_damaged_header_is_pillows(kind: str, at: int, value: int) -> None:
    data = bytearray(KINDS[kind])
    data[min(at, len(data) - 1)] = value
    size = jpeg_size(bytes(data))
    try:
        with Image.open(BytesIO(data)) as image:
            theirs = image.height, image.width
    except Exception:  # of many kinds: it asks more of tables and EXIF than that they have a length
        return
    assert size in (None, theirs)


def test_a_large_jpeg_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "decode_jpeg", lambda data: pytest.fail("decoded"))
    frame = b"\xff\xc0\x00\x11\x08" + (8192).to_bytes(2, "big") + (8193).to_bytes(2, "big")
    small = b"\xff\xc0\x00\x11\x08" + (29).to_bytes(2, "big") + (37).to_bytes(2, "big")
    with pytest.raises(CorruptSample, match="8193 x 8192 pixels are more than 67108864"):
        decode_image(KINDS["plain"].replace(small, frame))


@pytest.fixture
def torchcodec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Puts a module in torchcodec's place, whether that is installed or not."""

    def put(source: str) -> None:
        package = tmp_path / "torchcodec"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "decoders.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
            monkeypatch.delitem(sys.modules, name)
        jpeg_module._decoder.cache_clear()

    yield put
    jpeg_module._decoder.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        del sys.modules[name]  # monkeypatch would put it back


STAND_IN = """
import torch

def decode_jpeg(source, *, mode="RGB", output_dtype=torch.uint8, device="cpu"):
    assert source.dtype == torch.uint8 and source.ndim == 1 and mode == "RGB"
    if len(source) < 400:
        raise RuntimeError("the stand-in wants more")
    return torch.full((3, 2, 5), 7, dtype=torch.uint8)
"""


def test_torchcodec_decodes_where_it_is_installed(torchcodec) -> None:
    torchcodec(STAND_IN)
    for kind in ("plain", "grey", "progressive", "two pictures"):
        assert decode_image(KINDS[kind]).unique().tolist() == [7], kind
    cmyk = encoded(PHOTO.convert("CMYK"))
    assert torch.equal(decode_image(cmyk), by_pillow(cmyk))
    with pytest.raises(CorruptSample, match="RuntimeError: the stand-in wants more"):
        decode_image(KINDS["plain"][:300])


def test_torchvision_decodes_where_torchcodec_is_broken(torchcodec) -> None:
    torchcodec("raise RuntimeError('built for another torch')")
    assert torch.equal(decode_image(KINDS["plain"]), by_pillow(KINDS["plain"]))
