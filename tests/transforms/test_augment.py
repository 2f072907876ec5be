"""Each change against its own definition: torchvision's operators, colorsys, centroids, sums."""

import colorsys
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.transforms.v2 import functional as v2

from torchflava.transforms.augment import Augment, OnWhite, Relight, tint_background

NONE = dict.fromkeys(inspect.signature(Augment).parameters, 0.0)


def only(**settings: float) -> Augment:
    return Augment(**{**NONE, **settings})


def soft_image() -> torch.Tensor:
    """Colours far from black and white, so that nothing is clipped."""
    return torch.from_numpy(np.random.default_rng(0).integers(90, 160, (3, 29, 37)).astype(np.uint8))


def factor(name: str, strength: float, seed: int) -> float:
    """What the class draws, read off an image of constant colour."""
    image = torch.tensor([100, 120, 140], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    changed = only(**{name: strength})(image, np.random.default_rng(seed))[:, 0, 0].float()
    if name == "brightness":
        return float(changed.sum() / 360)
    return float((changed[2] - changed[0]) / 40)


def test_zeros_change_nothing():
    image = soft_image()
    assert torch.equal(only()(image, np.random.default_rng(0)), image)


@pytest.mark.parametrize(
    ("name", "operator"), [("brightness", v2.adjust_brightness), ("saturation", v2.adjust_saturation)]
)
def test_brightness_and_saturation_are_torchvisions(name, operator):
    for seed in range(8):
        wanted = operator(soft_image(), factor(name, 0.5, seed))
        changed = only(**{name: 0.5})(soft_image(), np.random.default_rng(seed))
        assert_close(changed.float(), wanted.float(), atol=2, rtol=0)


def test_contrast_stretches_about_the_mean_grey():
    image = soft_image()
    grey = v2.rgb_to_grayscale(image).float().mean()
    seen = []
    for seed in range(40):
        changed = only(contrast=0.6)(image, np.random.default_rng(seed)).float()
        stretch = (changed - changed.mean()).norm() / (image.float() - image.float().mean()).norm()
        seen.append(float(stretch))
        assert_close(changed, grey + stretch * (image - grey), atol=1.5, rtol=0)
    assert min(seen) < 0.6
    assert max(seen) > 1.4


def test_factors_fill_their_range_evenly():
    for name in ("brightness", "saturation"):
        factors = np.array([factor(name, 0.4, seed) for seed in range(300)])
        assert factors.min() >= 0.6 - 0.03
        assert factors.max() <= 1.4 + 0.03
        assert np.quantile(factors, [0.25, 0.5, 0.75]) == pytest.approx([0.8, 1.0, 1.2], abs=0.07)


def test_hue_moves_within_its_share_of_the_circle_at_equal_luma():
    colour = np.array([180, 110, 100])
    image = torch.from_numpy(colour.astype(np.uint8)).view(3, 1, 1).expand(3, 8, 8)
    before = colorsys.rgb_to_hsv(*colour / 255)[0]
    moves = []
    for seed in range(60):
        changed = only(hue=0.1)(image, np.random.default_rng(seed))[:, 0, 0].numpy()
        after = colorsys.rgb_to_hsv(*changed / 255)[0]
        moves.append((after - before + 0.5) % 1 - 0.5)
        luma = np.array([0.299, 0.587, 0.114])
        assert changed @ luma == pytest.approx(colour @ luma, abs=1)
    assert 0.06 < max(moves) < 0.16
    assert -0.16 < min(moves) < -0.06


def test_grey_has_equal_channels():
    image = soft_image()
    changed = only(grey=1.0)(image, np.random.default_rng(0))
    assert torch.equal(changed, v2.rgb_to_grayscale(image, num_output_channels=3))
    assert len({bool((only(grey=0.5)(image, np.random.default_rng(s)) == image).all()) for s in range(9)}) == 2


def test_mixing_keeps_greys_and_moves_colours():
    grey = torch.full((3, 6, 6), 120, dtype=torch.uint8)
    red = torch.tensor([160, 110, 100], dtype=torch.uint8).view(3, 1, 1).expand(3, 6, 6)
    moves = []
    for seed in range(200):
        assert_close(only(mix=0.3)(grey, np.random.default_rng(seed)), grey, atol=1, rtol=0)
        moves.append(float(only(mix=0.3)(red, np.random.default_rng(seed))[0, 0, 0]) - 160)
    # red takes 0.3 z of -50 and of -60: together 0.3 * hypot(50, 60) = 23.4
    assert np.std(moves) == pytest.approx(23.4, rel=0.2)


def test_blur_smooths_and_keeps_the_mean():
    image = soft_image()
    changed = only(blur=1.0)(image, np.random.default_rng(0))
    assert changed.float().mean() == pytest.approx(float(image.float().mean()), abs=1)
    assert changed.float().std() < 0.9 * image.float().std()


def test_blur_differs_in_strength_and_passes_over_what_is_too_thin():
    image = soft_image().repeat(1, 6, 6)
    spreads = [float(only(blur=1.0)(image, np.random.default_rng(seed)).float().std()) for seed in range(12)]
    assert max(spreads) > 1.3 * min(spreads)
    for shape in ((1, 1), (1, 70), (2, 1)):
        thin = torch.full((3, *shape), 7, dtype=torch.uint8)
        assert torch.equal(only(blur=1.0)(thin, np.random.default_rng(0)), thin)


def emoji() -> torch.Tensor:
    """A red square with a white eye on white, its edge half white."""
    image = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    image[1:, 8:24, 8:24] = 127
    image[:, 9:23, 9:23] = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    image[:, 13:18, 13:18] = 255
    return image


def test_tint_replaces_the_white_outside_alone():
    tinted = tint_background(emoji(), np.array([10, 60, 250]))
    assert tinted[:, 0, 0].tolist() == [10, 60, 250]
    assert tinted[:, 15, 15].tolist() == [255, 255, 255]  # the eye
    assert tinted[:, 20, 20].tolist() == [255, 0, 0]
    red, white = torch.tensor([255.0, 0, 0]), torch.tensor([10.0, 60, 250])
    assert_close(tinted[:, 8, 15].float(), red * 128 / 255 + white * 127 / 255, atol=1, rtol=0)  # the edge, mixed anew


def test_an_image_without_white_is_not_tinted():
    assert torch.equal(only(tint=1.0)(soft_image(), np.random.default_rng(0)), soft_image())


@given(st.integers(4, 70), st.integers(4, 70), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_is_a_function_of_image_and_generator(height, width, seed):
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, height, width)).astype(np.uint8))
    before, state = image.clone(), torch.get_rng_state()
    augment = Augment(grey=0.5, blur=0.5, tint=0.5)
    one, other = (augment(image, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.dtype == torch.uint8
    assert one.shape == image.shape
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_setting_does_not_change_what_another_draws():
    image = soft_image()
    rng = np.random.default_rng(3)
    only(brightness=0.3)(image, rng)
    other = np.random.default_rng(3)
    Augment()(image, other)
    assert rng.random() == other.random()


@pytest.mark.parametrize(
    ("settings_", "message"), [({"hue": 0.6}, "hue 0.6"), ({"grey": -0.1}, "grey -0.1"), ({"mix": 2}, "mix 2")]
)
def test_names_what_is_wrong(settings_, message):
    with pytest.raises(ValueError, match=message):
        Augment(**settings_)


def test_refuses_what_is_no_image():
    with pytest.raises(ValueError, match="float32"):
        Augment()(torch.zeros(3, 8, 8), np.random.default_rng(0))


def relit(**settings: float) -> Relight:
    return Relight(**{"light": 0.0, "posterise": 0.0, "noise": 0.0, **settings})


def test_light_is_the_same_in_all_channels_and_fades_linearly():
    image = torch.tensor([100, 130, 160], dtype=torch.uint8).view(3, 1, 1).expand(3, 33, 33)
    added = relit(light=0.05)(image, np.random.default_rng(0)).float() - image.float()
    assert torch.equal(added[0], added[1])
    assert added.std() > 3
    # between two of the 3 x 3 places the light is a straight line
    assert_close(added[0, 0, 8], (added[0, 0, 0] + added[0, 0, 16]) / 2, atol=1, rtol=0)
    corners = [float((relit(light=0.05)(image, np.random.default_rng(s)).float() - image)[0, 0, 0]) for s in range(300)]
    assert np.std(corners) == pytest.approx(0.05 * 255, rel=0.15)


def test_posterising_leaves_few_levels():
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 256).expand(3, 4, 256)
    levels = [len(relit(posterise=1.0)(ramp, np.random.default_rng(seed)).unique()) for seed in range(40)]
    assert set(levels) == {3, 4, 5, 6}
    assert torch.equal(relit()(ramp, np.random.default_rng(0)), ramp)


def test_noise_has_its_standard_deviation_at_each_channel_and_pixel():
    image = torch.full((3, 90, 90), 128, dtype=torch.uint8)
    added = relit(noise=0.04)(image, np.random.default_rng(0)).float() - 128
    assert float(added.std()) == pytest.approx(0.04 * 255, rel=0.05)
    assert abs(float(torch.corrcoef(added.flatten(1))[0, 1])) < 0.05


def test_white_stays_white_and_all_else_is_changed_as_without():
    rng = np.random.default_rng
    changes = (only(brightness=0.5), relit(light=0.3))
    kept = OnWhite(*changes)(emoji(), rng(4))
    own = rng(4)
    plain = changes[1](changes[0](emoji(), own), own)
    white = emoji().amin(0) == 255
    assert white.sum() > 700
    assert bool((kept[:, white] == 255).all())
    ramp = torch.arange(225, 256, dtype=torch.uint8).view(1, 1, 31).expand(3, 4, 31)
    assert torch.equal(OnWhite(only(), relit())(ramp, rng(0)), ramp)
    solid = emoji().amin(0) < 231
    assert torch.equal(kept[:, solid], plain[:, solid])
    assert not torch.equal(plain[:, white], kept[:, white])


def test_relight_names_what_is_wrong():
    with pytest.raises(ValueError, match="light -1"):
        Relight(light=-1)
    with pytest.raises(ValueError, match="float32"):
        Relight()(torch.zeros(3, 8, 8), np.random.default_rng(0))
