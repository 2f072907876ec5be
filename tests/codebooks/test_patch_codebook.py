"""The fitted codebook: k-means against a brute force, every code used, grain without influence, bad input named."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from torchflava.codebooks import PatchCodebook, code_usage, fit_patches, load_codebook
from torchflava.codebooks.kmeans import kmeans, nearest

SIZE, PATCH, CODES = 40, 8, 31


def scenes(count: int, seed: int, grain: float = 3.0) -> Tensor:
    """Discs and squares of six colours on plain grounds of four, with grain: (count, 3, 40, 40) uint8."""
    draws = torch.Generator().manual_seed(seed)
    grounds = torch.tensor([[250, 250, 250], [40, 40, 50], [190, 220, 240], [230, 220, 180]])
    colours = torch.tensor([[220, 30, 30], [30, 160, 50], [40, 70, 220], [240, 200, 30], [150, 50, 170], [20, 20, 20]])
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images = grounds[torch.randint(0, 4, (count,), generator=draws)][:, :, None, None].repeat(1, 1, SIZE, SIZE)
    for image in images:
        for _ in range(2):
            row, column, radius, colour, disc = (
                int(torch.randint(0, n, (), generator=draws)) for n in (40, 40, 8, 6, 2)
            )
            down, right = (y - row).abs(), (x - column).abs()
            inside = (down**2 + right**2).sqrt() if disc else torch.maximum(down, right)
            image[:, inside < 5 + radius] = colours[colour][:, None]
    noise = torch.randn(images.shape, generator=draws) * grain
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


TRAIN = scenes(60, 0)
TEST = scenes(40, 1)


@pytest.fixture(scope="module")
def codebook() -> PatchCodebook:
    return fit_patches(TRAIN, num_codes=CODES, patch_size=PATCH, seed=0, iterations=6)


def test_a_code_is_the_nearest_prototype_of_a_patch_s_cells(codebook: PatchCodebook) -> None:
    codes = codebook.encode(TEST)
    assert codes.shape == (40, 25)
    assert codes.dtype == torch.int64
    for b, row, column in [(0, 0, 0), (3, 1, 4), (17, 4, 2), (39, 2, 1)]:
        patch = TEST[b, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].double() / 255
        cells = torch.stack(
            [patch[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)) for i in range(4) for j in range(4)]
        )
        distances = [(cells.T.reshape(3, 4, 4) - prototype).square().sum() for prototype in codebook.prototypes]
        assert codes[b, row * 5 + column] == torch.stack(distances).argmin()


def test_every_code_is_used_in_training_and_most_on_new_images(codebook: PatchCodebook) -> None:
    assert code_usage(codebook.encode(TRAIN), CODES).used == CODES
    usage = code_usage(codebook.encode(TEST), CODES)
    assert usage.used >= 0.8 * CODES
    assert usage.top < 0.35
    assert usage.entropy > 0.6 * math.log(CODES)


def test_grain_hardly_changes_codes(codebook: PatchCodebook) -> None:
    again = scenes(40, 1, grain=0)
    assert float((codebook.encode(TEST) != codebook.encode(again)).double().mean()) < 0.02


def test_a_grainy_ground_takes_one_code() -> None:
    """Without the weights by rarity it takes most codes, and which of them is chance: its top share is .3 then."""
    draws = torch.Generator().manual_seed(0)
    grounds = (190 + 20 * torch.randn(80, 3, SIZE, SIZE, generator=draws)).round().clamp(0, 255).to(torch.uint8)
    images = torch.cat([scenes(20, 0, grain=20), grounds[:60]])
    codebook = fit_patches(images, num_codes=CODES, patch_size=PATCH, iterations=6)
    assert code_usage(codebook.encode(grounds[60:]), CODES).top > 0.9


def test_neighbours_tell_a_patch_better_than_frequencies_do(codebook: PatchCodebook) -> None:
    """The task can be learnt: a table of (left neighbour, code) counted on one half predicts the other half."""
    codes = codebook.encode(scenes(400, 2)).view(400, 5, 5)
    left, here = codes[:, :, :-1].reshape(2, -1), codes[:, :, 1:].reshape(2, -1)
    table = torch.full((CODES, CODES), 0.1).index_put_((left[0], here[0]), torch.tensor(1.0), accumulate=True)
    loss = -(table / table.sum(1, keepdim=True))[left[1], here[1]].log().mean()
    assert float(loss) < 0.75 * code_usage(here[1], CODES).entropy


def test_the_same_seed_gives_the_same_codebook(codebook: PatchCodebook) -> None:
    torch.manual_seed(11)
    again = fit_patches(TRAIN, num_codes=CODES, patch_size=PATCH, seed=0, iterations=6)
    other = fit_patches(TRAIN, num_codes=CODES, patch_size=PATCH, seed=1, iterations=6)
    assert torch.equal(again.prototypes, codebook.prototypes)
    assert torch.equal(again.pictures, codebook.pictures)
    assert not torch.equal(other.prototypes, codebook.prototypes)


def test_decode_draws_the_mean_patch_of_each_code(codebook: PatchCodebook) -> None:
    drawn = codebook.decode(codebook.encode(TRAIN))
    assert drawn.shape == TRAIN.shape
    assert drawn.dtype == torch.uint8
    codes = codebook.encode(TRAIN).view(60, 5, 5)
    rarest = int(torch.bincount(codes.flatten()).argmin())
    own = [TRAIN[b, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for b, i, j in (codes == rarest).nonzero().tolist()]
    b, i, j = (codes == rarest).nonzero()[0].tolist()
    patch = drawn[b, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
    assert torch.equal(patch, torch.stack(own).double().mean(0).round().to(torch.uint8))
    plain = TRAIN.double().mean((0, 2, 3), keepdim=True)
    assert (drawn.double() - TRAIN).square().mean() < 0.2 * (plain - TRAIN).square().mean()


@pytest.mark.parametrize("patch_size", [1, 5, 10, 40])
def test_other_patch_sizes(patch_size: int) -> None:
    codebook = fit_patches(TRAIN[:20], num_codes=7, patch_size=patch_size)
    side = SIZE // patch_size
    assert codebook.grid == (side, side)
    codes = codebook.encode(TRAIN[:20])
    assert codes.shape == (20, side * side)
    assert code_usage(codes, 7).used == 7
    assert codebook.decode(codes).shape == (20, 3, SIZE, SIZE)


def test_save_and_load(tmp_path: Path, codebook: PatchCodebook) -> None:
    codebook.save(tmp_path / "codebook.safetensors")
    for found in (
        PatchCodebook.from_file(tmp_path / "codebook.safetensors"),
        load_codebook(tmp_path / "codebook.safetensors"),
    ):
        assert isinstance(found, PatchCodebook)
        assert (found.num_codes, found.image_size, found.patch_size, found.grid) == (CODES, SIZE, PATCH, (5, 5))
        assert torch.equal(found.encode(TEST), codebook.encode(TEST))
        assert torch.equal(found.pictures, codebook.pictures)


def test_it_is_frozen_and_computes_in_full(codebook: PatchCodebook) -> None:
    around = nn.ModuleDict({"codebook": codebook}).train()
    assert not list(around.parameters())
    assert not codebook.training
    codes = codebook.encode(TEST)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook.encode(TEST), codes)
    assert torch.equal(codebook(TEST[7:9]), codes[7:9])
    cast = PatchCodebook(codebook.prototypes, codebook.pictures, SIZE).half()
    with pytest.raises(ValueError, match=r"cast to torch\.float16"):
        cast.encode(TEST)


PROTOTYPES, PICTURES = torch.rand(3, 3, 4, 4), torch.zeros(3, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: fit_patches(TRAIN.float()), r"uint8 pixels from 0 to 255, got torch\.float32"),
        (lambda: fit_patches(TRAIN[:, :, :24]), r"\(B, 3, 40, 40\), got \(60, 3, 24, 40\)"),
        (lambda: fit_patches(TRAIN[0]), r"got \(3, 40, 40\)"),
        (lambda: fit_patches(TRAIN[:0]), "no images"),
        (lambda: fit_patches(TRAIN, patch_size=7), "patches of 7 px do not fill images of 40 px; choose a divisor"),
        (lambda: fit_patches(TRAIN, num_codes=1), "num_codes is 1"),
        (lambda: fit_patches(TRAIN, iterations=0), "iterations 0"),
        (
            lambda: fit_patches(torch.zeros_like(TRAIN), num_codes=2),
            "fewer than 2 of the 1500 patches differ; give more",
        ),
        (lambda: fit_patches(TRAIN[:1], num_codes=26), "fewer than 26 of the 25 patches differ"),
        (lambda: PatchCodebook(PROTOTYPES[:, :2], PICTURES, 16), r"prototypes have shape .* got \(3, 2, 4, 4\)"),
        (lambda: PatchCodebook(PROTOTYPES, PICTURES[:2], 16), r"pictures are .* got torch\.uint8 \(2, 3, 8, 8\)"),
        (lambda: PatchCodebook(PROTOTYPES, PICTURES.float(), 16), r"pictures are .* got torch\.float32"),
        (lambda: PatchCodebook(PROTOTYPES, PICTURES, 20), "patches of 8 px do not fill images of 20 px"),
        (
            lambda: PatchCodebook(PROTOTYPES, PICTURES, 16).decode(torch.tensor([[0, 3, 1, 1]])),
            "go from 0 to 2, got 0 to 3",
        ),
        (
            lambda: PatchCodebook(PROTOTYPES, PICTURES, 16).decode(torch.zeros(2, 5, dtype=torch.int64)),
            r"\(B, 4\), got \(2, 5\)",
        ),
        (lambda: PatchCodebook(PROTOTYPES, PICTURES, 16).encode(TEST), r"\(B, 3, 16, 16\), got \(40, 3, 40, 40\)"),
        (lambda: code_usage(torch.empty(0, dtype=torch.int64), 3), "no codes"),
        (lambda: code_usage(torch.tensor([0, 3]), 3), "code 3 is not below num_codes 3"),
        (lambda: code_usage(torch.tensor([0, -1]), 3), "code -1"),
    ],
)
def test_bad_input_is_named(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_another_file_is_no_codebook(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors is no fitted codebook \(it holds weight\)"):
        PatchCodebook.from_file(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: none of its 1 tensors is a dVAE"):
        load_codebook(tmp_path / "other.safetensors")


def test_usage_is_counted() -> None:
    usage = code_usage(torch.tensor([[4, 4], [1, 0]]), 5)
    assert usage.counts.tolist() == [1, 1, 0, 0, 2]
    assert (usage.used, usage.top) == (3, 0.5)
    assert usage.entropy == pytest.approx(1.5 * math.log(2))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_kmeans_leaves_no_cluster_empty(different: int, clusters: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    points = torch.randn(different, 3, generator=draws, dtype=torch.float64).repeat(3, 1)
    weights = torch.rand(len(points), generator=draws, dtype=torch.float64) + 0.1
    if different < clusters:
        with pytest.raises(ValueError, match=f"fewer than {clusters} of the {len(points)}"):
            kmeans(points, clusters, weights=weights, iterations=3, generator=draws)
        return
    centres, found = kmeans(points, clusters, weights=weights, iterations=3, generator=draws)
    assert torch.equal(found, torch.cdist(points, centres).argmin(1)) or different == clusters
    assert len(found.unique()) == clusters


def test_kmeans_moves_empty_clusters_to_points_that_seeding_never_saw() -> None:
    common, rare = torch.zeros(5000, 2, dtype=torch.float64), torch.arange(1, 9, dtype=torch.float64).view(4, 2)
    points = torch.cat([common, rare])
    weights = torch.ones(len(points), dtype=torch.float64)
    centres, found = kmeans(points, 5, weights=weights, iterations=2, generator=torch.Generator().manual_seed(0))
    assert sorted(centres.tolist()) == sorted([[0.0, 0.0], *rare.tolist()])
    assert len(found[-4:].unique()) == 4


def test_kmeans_finds_well_separated_clusters_and_their_weighted_means() -> None:
    draws = torch.Generator().manual_seed(3)
    middles = 50 * torch.eye(7, 5, dtype=torch.float64).roll(1, 0) + torch.arange(7)[:, None] * 30
    points = (middles[:, None] + torch.randn(7, 11, 5, generator=draws)).flatten(0, 1)
    weights = torch.rand(77, generator=draws, dtype=torch.float64)
    centres, found = kmeans(points, 7, weights=weights, iterations=4, generator=draws)
    own = found.view(7, 11)
    assert bool((own == own[:, :1]).all())
    means = (points * weights[:, None]).view(7, 11, 5).sum(1) / weights.view(7, 11, 1).sum(1)
    torch.testing.assert_close(centres[own[:, 0]], means)


def test_nearest_gives_squared_distances() -> None:
    points, centres = torch.randn(20_011, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    which, distances = nearest(points, centres)
    expected = (points[:, None] - centres).square().sum(2).min(1)
    assert torch.equal(which, expected.indices)
    torch.testing.assert_close(distances, expected.values)


def test_kmeans_can_be_ended_between_seeds_and_between_iterations() -> None:
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_search: dict[str, Any] = {"weights": torch.ones(50, dtype=torch.float64), "iterations": 4}
    due = kmeans(points, 7, generator=torch.Generator().manual_seed(1), **of_search)
    calls: list[int] = []

    def searched(most: int) -> Any:
        def between() -> None:
            calls.append(most)
            if len(calls) == most:
                raise TimeoutError

        calls.clear()
        return kmeans(points, 7, generator=torch.Generator().manual_seed(1), between=between, **of_search)

    for most in (3, 9):
        with pytest.raises(TimeoutError):
            searched(most)
        assert len(calls) == most
    found = searched(99)
    assert len(calls) == 6 + 4  # the first seed is drawn at once
    assert all(torch.equal(one, other) for one, other in zip(found, due, strict=True))
