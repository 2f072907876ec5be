"""Each movement against its own definition, and the whole against torch's grid_sample."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from torchflava.transforms.warp import Warp

NONE = dict.fromkeys(inspect.signature(Warp).parameters, 0.0)

KNOTS = np.stack(np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)), axis=-1)


def only(**settings: float) -> Warp:
    return Warp(**{**NONE, **settings})


def spot(x: int = 52, y: int = 32) -> torch.Tensor:
    """A dark spot on grey."""
    image = torch.full((3, 65, 65), 200, dtype=torch.uint8)
    image[:, y - 2 : y + 3, x - 2 : x + 3] = 0
    return image


def darkness(image: torch.Tensor) -> tuple[float, float, float]:
    """How dark, and the centroid, x and y from the centre."""
    dark = (200 - image[0].float()).clamp(min=0)
    at = torch.arange(65) - 32
    return float(dark.sum()), float((dark.sum(0) * at).sum() / dark.sum()), float((dark.sum(1) * at).sum() / dark.sum())


def moved(**settings: float) -> list[tuple[float, float, float]]:
    return [darkness(only(**settings)(spot(), np.random.default_rng(seed))) for seed in range(80)]


def test_zeros_change_nothing():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 29, 37)).astype(np.uint8))
    assert_close(only()(image, np.random.default_rng(0)), image, atol=1, rtol=0)  # Pillow cuts fractions off


def test_turns_within_its_degrees_both_ways():
    angles = [math.degrees(math.atan2(y, x)) for _, x, y in moved(turn=20.0)]
    assert 15 < max(angles) < 20.5
    assert -20.5 < min(angles) < -15
    assert [math.hypot(x, y) for _, x, y in moved(turn=20.0)] == pytest.approx([20] * 80, abs=0.6)


@pytest.mark.parametrize(("height", "width"), [(65, 129), (129, 65)])
def test_turns_by_degrees_whatever_the_shape(height, width):
    image = torch.full((3, height, width), 200, dtype=torch.uint8)
    cx, cy = width // 2, height // 2
    image[:, cy - 2 : cy + 3, cx + 18 : cx + 23] = 0
    angles = []
    for seed in range(60):
        dark = (200 - only(turn=20.0)(image, np.random.default_rng(seed))[0].float()).clamp(min=0)
        x = float((dark.sum(0) * (torch.arange(width) - cx)).sum() / dark.sum())
        y = float((dark.sum(1) * (torch.arange(height) - cy)).sum() / dark.sum())
        angles.append(math.degrees(math.atan2(y, x)))
        assert math.hypot(x, y) == pytest.approx(20, abs=0.8)
    assert 15 < max(angles) < 21
    assert -21 < min(angles) < -15


def test_zooms_both_ways():
    seen = moved(zoom=0.4)
    sizes = np.array([x / 20 for _, x, _ in seen])
    assert 1.3 < sizes.max() < math.exp(0.4) + 0.03
    assert math.exp(-0.4) - 0.03 < sizes.min() < 0.75
    areas = np.array([dark / darkness(spot())[0] for dark, _, _ in seen])
    assert areas == pytest.approx(sizes**2, rel=0.2)


def test_stretches_one_axis_as_the_other_shrinks():
    across = np.array([x for _, x, _ in moved(stretch=0.3)]) / 20
    down = np.array([darkness(only(stretch=0.3)(spot(32, 52), np.random.default_rng(s)))[2] for s in range(80)]) / 20
    assert across * down == pytest.approx(np.ones(80), abs=0.04)
    assert across.max() > 1.2


def test_shears_rows_and_leaves_them_level():
    below = [darkness(only(shear=0.3)(spot(32, 52), np.random.default_rng(seed))) for seed in range(60)]
    assert [y for _, _, y in below] == pytest.approx([20] * 60, abs=0.5)
    slid = np.array([x for _, x, _ in below]) / 20
    assert 0.25 < slid.max() < 0.32
    assert -0.32 < slid.min() < -0.25


def test_shifts_within_its_share_of_the_side():
    seen = np.array([(x - 20, y) for _, x, y in moved(shift=0.1)]) / 65
    assert np.abs(seen).max() < 0.11
    assert (np.abs(seen).max(0) > 0.08).all()


@pytest.mark.parametrize("across", [True, False])
def test_perspective_makes_one_side_larger(across):
    near, far = (
        np.array(
            [
                darkness(only(perspective=0.3)(spot(*((x, 32) if across else (32, x))), np.random.default_rng(s)))[0]
                for s in range(60)
            ]
        )
        for x in (12, 52)
    )
    assert np.corrcoef(near, far)[0, 1] < -0.7
    assert far.max() > 1.2 * far.min()


def test_bends_knots_by_their_standard_deviation():
    warp, rng = only(bend=0.03), np.random.default_rng(0)
    knots = np.stack([warp.sources(KNOTS, rng.uniform(-1, 1, 8), rng.standard_normal((5, 5, 2))) for _ in range(200)])
    assert knots.std(0) / 2 == pytest.approx(np.full((5, 5, 2), 0.03), rel=0.2)  # of a side that reaches from -1 to 1
    assert knots.mean(0)[0, 4] == pytest.approx([1, -1], abs=0.02)


def test_equals_grid_sample_at_the_same_knots():
    image = F.interpolate(torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)), (64, 64), mode="bicubic")
    image = (255 * image[0].clamp(0, 1)).round().to(torch.uint8)
    warp, rng = Warp(zoom=0.0, shift=0.0, turn=8.0), np.random.default_rng(5)
    knots = warp.sources(KNOTS, rng.uniform(-1, 1, 8), rng.standard_normal((5, 5, 2)))
    at = (torch.arange(64) + 0.5) / 16 + 0.5  # pixel centres, in knots as the pixels of a 5 x 5 image
    y, x = torch.meshgrid(at, at, indexing="ij")
    between = F.grid_sample(
        torch.from_numpy(knots).permute(2, 0, 1)[None].float(),
        torch.stack([x, y], -1)[None] / 2.5 - 1,
        align_corners=False,
    )
    wanted = F.grid_sample(image[None].float(), between.permute(0, 2, 3, 1), align_corners=False)[0]
    inside = (between[0].abs() < 0.95).all(0)
    assert inside.float().mean() > 0.6
    got = warp(image, np.random.default_rng(5)).float()
    assert_close(got[:, inside], wanted[:, inside], atol=2.0, rtol=0)


def test_what_comes_in_has_the_colour_of_the_corners():
    plain = torch.tensor([10, 120, 250], dtype=torch.uint8).view(3, 1, 1).expand(3, 40, 48)
    for seed in range(8):
        assert torch.equal(Warp(turn=90.0, zoom=1.0, shift=0.4)(plain, np.random.default_rng(seed)), plain)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_is_a_function_of_image_and_generator(height, width, seed):
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, height, width)).astype(np.uint8))
    before, state = image.clone(), torch.get_rng_state()
    one, other = (Warp()(image, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.dtype == torch.uint8
    assert one.shape == image.shape
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_setting_does_not_change_what_another_draws():
    rng, other = np.random.default_rng(3), np.random.default_rng(3)
    only(bend=0.1)(spot(), rng)
    Warp()(spot(), other)
    assert rng.random() == other.random()


@pytest.mark.parametrize(("name", "value"), [("turn", 200), ("zoom", -0.1), ("perspective", 0.5), ("bend", 1)])
def test_names_what_is_wrong(name, value):
    with pytest.raises(ValueError, match=f"{name} {value}"):
        Warp(**{name: value})


def test_refuses_what_is_no_image():
    with pytest.raises(ValueError, match="float32"):
        Warp()(torch.zeros(3, 8, 8), np.random.default_rng(0))
