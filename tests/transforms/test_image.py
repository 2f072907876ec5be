"""Decoding against Pillow and arrays of known pixels; views against Pillow's resizing and a crop's own formula."""

from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from torchflava.transforms.image import (
    MEAN,
    STD,
    CorruptSample,
    EvalView,
    TrainViews,
    crop_box,
    decode_image,
    normalise,
)

GREY = np.add.outer(np.arange(29) * 4, np.arange(37) * 3).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / 17 + c) * np.cos(y / (13 + c)) for c in range(3)]
    return torch.from_numpy(np.stack(waves).astype(np.uint8))


def encoded(image: Image.Image | np.ndarray, file_format: str, **options: object) -> bytes:
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, file_format, **options)
    return file.getvalue()


def chw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_files_give_their_pixels(file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    decoded = decode_image(encoded(RGB, file_format, **options))
    assert decoded.dtype == torch.uint8
    assert decoded.is_contiguous()
    assert torch.equal(decoded, chw(RGB))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_equals_pillow(mode):
    data = encoded(Image.fromarray(RGB).convert(mode), "JPEG", quality=90)
    assert torch.equal(decode_image(data), chw(np.array(Image.open(BytesIO(data)).convert("RGB"))))


def test_other_modes_become_rgb():
    grey = chw(np.stack([GREY] * 3, axis=-1))
    assert torch.equal(decode_image(encoded(GREY, "PNG")), grey)
    assert torch.equal(decode_image(encoded(GREY.astype(np.uint16) * 257, "PNG")), grey)  # 16 bits
    palette = Image.fromarray((GREY > 90).astype(np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    wanted = np.where((GREY > 90)[..., None], [200, 100, 50], [10, 20, 30]).astype(np.uint8)
    assert torch.equal(decode_image(encoded(palette, "PNG")), chw(wanted))


def test_transparency_lies_over_white():
    alpha = (GREY.astype(int) * 255 // GREY.max()).astype(np.uint8)
    decoded = decode_image(encoded(np.concatenate([RGB, alpha[..., None]], axis=-1), "PNG"))
    share = alpha[..., None] / 255
    assert_close(decoded.float(), chw(255 * (1 - share) + RGB * share).float(), atol=1, rtol=0)
    palette = Image.fromarray((GREY > 90).astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 200, 100, 50])
    decoded = decode_image(encoded(palette, "PNG", transparency=0))
    assert decoded[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(file_format):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert torch.equal(decode_image(data), chw(np.array(frames[0])))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_turned_photo_stands_upright(file_format):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    upright = decode_image(encoded(RGB, file_format, exif=exif))
    lying = decode_image(encoded(RGB, file_format))
    assert upright.shape == (3, 37, 29)
    assert torch.equal(upright, lying.flip(1).transpose(1, 2))


JPEG = encoded(RGB, "JPEG")
PNG = encoded(RGB, "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>not found</html>", "<!DOCTYPE"),
        (JPEG[:-60], "truncated"),
        (JPEG[:40], "40 bytes"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:20], "20 bytes"),
        (PNG[:60] + bytes(40) + PNG[100:], "no readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PS-Adobe"),
        (encoded(Image.new("1", (8193, 8192)), "PNG"), "8193 x 8192 pixels"),
    ],
)
def test_what_cannot_be_read_is_one_error_with_its_reason(data, reason):
    with pytest.raises(CorruptSample, match=reason):
        decode_image(data)


@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=6), st.sampled_from([JPEG, PNG]))
@settings(max_examples=150, deadline=None)
def test_damage_never_raises_anything_else(at, junk, data):
    with suppress(CorruptSample):
        assert decode_image(data[:at] + junk + data[at + len(junk) :]).shape[0] == 3


def test_normalise_is_the_formula():
    pixels = torch.arange(2 * 5 * 3 * 7 * 11).reshape(2, 5, 3, 7, 11).mul(37).to(torch.uint8)
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    wanted = (pixels.double() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert_close(normalise(pixels), wanted.float(), atol=1e-6, rtol=1e-6)
    assert torch.equal(normalise(pixels[1, 2]), normalise(pixels)[1, 2])


@pytest.mark.parametrize("pixels", [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_normalise_refuses_what_is_not_pixels(pixels):
    with pytest.raises(ValueError, match=r"shape \("):
        normalise(pixels)


def test_views_are_one_crop_at_two_sizes():
    source = smooth(151, 211)
    views = TrainViews(64, 32, scale=(0.3, 0.5))
    for seed in range(12):
        view, target = views(source, np.random.default_rng(seed))
        top, left, height, width = crop_box(
            151, 211, np.random.default_rng(seed), scale=(0.3, 0.5), ratio=(3 / 4, 4 / 3)
        )
        for given_view, size, resample in ((view, 64, Image.BICUBIC), (target, 32, Image.LANCZOS)):
            whole = Image.fromarray(source.permute(1, 2, 0).numpy())
            cut = whole.crop((left, top, left + width, top + height)).resize((size, size), resample)
            assert_close(given_view.float(), chw(np.array(cut)).float(), atol=2, rtol=0)


LAYOUTS = {
    "planes": lambda image: image,
    "pixels": lambda image: image.permute(1, 2, 0).contiguous().permute(2, 0, 1),  # as decoders give it
    "a part": lambda image: torch.nn.functional.pad(image, (3, 2, 1, 4))[:, 1:-4, 3:-2],
}


@given(
    st.integers(2, 90), st.integers(2, 90), st.integers(2, 60), st.sampled_from(list(LAYOUTS)), st.sampled_from([0, 1])
)
@settings(max_examples=60)
def test_views_equal_torchvisions_resize_in_every_bit_whatever_the_layout(height, width, side, layout, flip):
    source = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(side))
    views = TrainViews(side, side // 2, scale=(0.3, 0.9), flip=flip)
    view, target = views(LAYOUTS[layout](source), np.random.default_rng(side))
    top, left, h, w = crop_box(height, width, np.random.default_rng(side), scale=(0.3, 0.9), ratio=(3 / 4, 4 / 3))
    crop = source[:, top : top + h, left : left + w]
    crop = crop.flip(-1) if flip else crop
    for seen, size, kind in ((view, side, InterpolationMode.BICUBIC), (target, side // 2, InterpolationMode.LANCZOS)):
        # To a side of 1 torch can only resize what holds pixel after pixel.
        plain = v2.resize(LAYOUTS["pixels"](crop), [size, size], interpolation=kind, antialias=True)
        assert torch.equal(seen, plain)
        assert seen.is_contiguous()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_a_crop_lies_within_the_image(height, width, seed):
    top, left, h, w = crop_box(height, width, np.random.default_rng(seed), scale=(0.1, 1.0), ratio=(0.5, 2.0))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) >= 1


def test_crops_have_the_areas_and_shapes_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(400, 400, rng, scale=(0.2, 0.4), ratio=(0.5, 2.0)) for _ in range(3000)])
    area, aspect = boxes[:, 2] * boxes[:, 3] / 400**2, np.log(boxes[:, 3] / boxes[:, 2])
    assert np.quantile(area, [0, 0.5, 1]) == pytest.approx([0.2, 0.3, 0.4], abs=0.01)
    assert np.quantile(aspect, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx(
        np.log(2) * np.array([-1, -0.5, 0, 0.5, 1]), abs=0.04
    )
    assert (boxes[:, 0] / (400 - boxes[:, 2])).mean() == pytest.approx(0.5, abs=0.02)


def test_an_image_too_long_for_any_crop_is_cut_in_its_centre():
    assert crop_box(20, 200, np.random.default_rng(0), scale=(0.9, 1), ratio=(3 / 4, 4 / 3)) == (0, 86, 20, 27)


def test_flip_mirrors_both_views():
    source = smooth(40, 40)
    plain, mirrored = (TrainViews(40, 20, scale=(1, 1), ratio=(1, 1), flip=flip) for flip in (0.0, 1.0))
    for one, other in zip(
        plain(source, np.random.default_rng(0)), mirrored(source, np.random.default_rng(0)), strict=True
    ):
        assert_close(one.flip(-1).float(), other.float(), atol=1, rtol=0)
        assert not torch.equal(one, other)


def test_only_the_encoder_sees_the_augmentation():
    views = TrainViews(24, 12, augment=lambda image, rng: 255 - image)
    plain = TrainViews(24, 12)
    source = smooth(31, 43)
    before = source.clone()
    (view, target), (wanted, same) = (v(source, np.random.default_rng(1)) for v in (views, plain))
    assert torch.equal(view, 255 - wanted)
    assert torch.equal(target, same)
    assert torch.equal(source, before)


def test_both_views_see_the_warp():
    views = TrainViews(24, 12, warp=lambda image, rng: image.flip(-1))
    plain = TrainViews(24, 12)
    source = smooth(31, 43)
    for seen, wanted in zip(
        views(source, np.random.default_rng(1)), plain(source.flip(-1), np.random.default_rng(1)), strict=True
    ):
        assert torch.equal(seen, wanted)


def test_views_leave_the_global_generators_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    TrainViews(16, 8, flip=0.5)(smooth(31, 43), np.random.default_rng(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("shape", [(101, 57), (57, 101)])
def test_eval_view_equals_pillow(shape):
    source = smooth(*shape)
    view = EvalView(19)(source)
    whole = Image.fromarray(source.permute(1, 2, 0).numpy())
    left, top = (shape[1] - 57) // 2, (shape[0] - 57) // 2
    wanted = whole.crop((left, top, left + 57, top + 57)).resize((19, 19), Image.BICUBIC)
    assert_close(view.float(), chw(np.array(wanted)).float(), atol=1, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainViews(0, 8), "0 pixels"),
        (lambda: TrainViews(8, 8, scale=(0.9, 1.1)), r"scale \(0\.9, 1\.1\)"),
        (lambda: TrainViews(8, 8, ratio=(2, 1)), r"ratio \(2, 1\)"),
        (lambda: TrainViews(8, 8, flip=2), "flip 2"),
        (lambda: EvalView(8)(torch.zeros(3, 8, 8)), "float32"),
        (lambda: TrainViews(8, 8)(torch.zeros(4, 8, 8, dtype=torch.uint8), np.random.default_rng(0)), r"\(4, 8, 8\)"),
    ],
)
def test_views_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
