"""Patch and token embeddings against loops over patches, tokens and cubic kernels.

Letters: B batch, S side in pixels, N patches, T tokens, D width.
"""

import math
import re

import pytest
import torch
from tiny import stirred
from torch import Tensor

from torchflava.layers import PatchEmbedding, TokenEmbedding, resize_positions

B, S, P, D = 3, 15, 5, 11


def cubic(t: float, a: float = -0.75) -> float:
    """Keys' kernel with the constant that torch's bicubic has."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resize_by_hand(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Bicubic, pixel centres at halves, borders repeated."""
    side = math.isqrt(positions.shape[1] - 1)
    grid = positions[0, 1:].double().reshape(side, side, -1)
    out = torch.zeros(rows, columns, grid.shape[-1], dtype=torch.float64)
    for i in range(rows):
        y = (i + 0.5) * side / rows - 0.5
        for j in range(columns):
            x = (j + 0.5) * side / columns - 0.5
            for u in range(math.floor(y) - 1, math.floor(y) + 3):
                for v in range(math.floor(x) - 1, math.floor(x) + 3):
                    at = grid[min(max(u, 0), side - 1), min(max(v, 0), side - 1)]
                    out[i, j] += cubic(y - u) * cubic(x - v) * at
    return torch.cat([positions[0, :1].double(), out.flatten(0, 1)])[None]


@pytest.mark.parametrize("grid", [(7, 7), (2, 2), (5, 7), (3, 5)])
def test_positions_are_resized_by_cubic_kernels(grid: tuple[int, int]) -> None:
    positions = torch.randn(1, 1 + 9, D, generator=torch.Generator().manual_seed(0))
    resized = resize_positions(positions, grid)
    torch.testing.assert_close(resized.double(), resize_by_hand(positions, *grid), rtol=1e-5, atol=1e-5)
    assert torch.equal(resized[:, 0], positions[:, 0])


def test_positions_of_the_same_grid_are_left_alone_and_types_kept() -> None:
    positions = torch.randn(1, 1 + 9, D, generator=torch.Generator().manual_seed(0))
    assert resize_positions(positions, (3, 3)) is positions
    assert resize_positions(positions.bfloat16(), (5, 5)).dtype == torch.bfloat16


def test_positions_that_are_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="10 positions are no square grid"):
        resize_positions(torch.zeros(1, 11, D), (5, 5))


def embed_by_hand(part: PatchEmbedding, pixels: Tensor, masked: Tensor | None) -> Tensor:
    """One patch at a time: a dot product of its pixels, or the mask token; the class token; positions."""
    side = pixels.shape[-1] // P
    rows = []
    for b in range(len(pixels)):
        rows.append(part.cls_token[0, 0] + part.positions[0, 0])
        for n in range(side * side):
            y, x = divmod(n, side)
            patch = pixels[b, :, y * P : (y + 1) * P, x * P : (x + 1) * P]
            state = (part.projection.weight * patch).sum((1, 2, 3)) + part.projection.bias
            hidden = masked is not None and bool(masked[b, n])
            rows.append((part.mask_token[0, 0] if hidden else state) + part.positions[0, 1 + n])
    return torch.stack(rows).reshape(len(pixels), 1 + side * side, -1)


@pytest.mark.parametrize("hide", [False, True])
def test_patches_are_embedded_as_a_loop_would_forward_and_gradient(hide: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    part = stirred(PatchEmbedding(D, S, P)).double()
    pixels = torch.randn(B, 3, S, S, generator=generator, dtype=torch.float64, requires_grad=True)
    masked = torch.rand(B, 9, generator=generator) < 0.5 if hide else None
    fast, slow = part(pixels, masked), embed_by_hand(part, pixels, masked)
    torch.testing.assert_close(fast, slow)
    weights = torch.linspace(-1, 1, fast.numel(), dtype=torch.float64).reshape(fast.shape)
    leaves = [pixels, *(p for name, p in part.named_parameters() if hide or name != "mask_token")]
    a, b = (torch.autograd.grad((y * weights).sum(), leaves) for y in (fast, slow))
    for got, due in zip(a, b, strict=True):
        torch.testing.assert_close(got, due)


def test_masked_patches_cannot_be_seen() -> None:
    generator = torch.Generator().manual_seed(2)
    part = stirred(PatchEmbedding(D, S, P))
    pixels, masked = torch.randn(B, 3, S, S, generator=generator), torch.zeros(B, 9, dtype=torch.bool)
    masked[:, 4] = True  # the patch in the middle
    other = pixels.clone()
    other[:, :, P : 2 * P, P : 2 * P] = math.nan
    assert torch.equal(part(pixels, masked), part(other, masked))
    other[:, :, 0, 0] += 1.0
    assert not torch.equal(part(pixels, masked), part(other, masked))


def test_interpolation_on_the_fly_equals_resizing_for_good() -> None:
    fly = stirred(PatchEmbedding(D, S, P, interpolate=True))
    good = stirred(PatchEmbedding(D, S, P))
    good.load_state_dict(fly.state_dict())
    pixels = torch.randn(B, 3, 35, 35, generator=torch.Generator().manual_seed(3))
    good.resize(35)
    assert (good.image_size, good.num_patches, good.positions.shape) == (35, 49, (1, 50, D))
    assert good.positions.requires_grad
    torch.testing.assert_close(fly(pixels), good(pixels))
    assert fly(torch.zeros(1, 3, 10, 20)).shape == (1, 1 + 2 * 4, D)


def test_what_an_encoder_of_images_refuses() -> None:
    part = PatchEmbedding(D, S, P)
    with pytest.raises(ValueError, match=r"images are 20 x 15, .* made for 15 x 15; resize .* interpolate=True"):
        part(torch.zeros(B, 3, 20, 15))
    with pytest.raises(ValueError, match="images are 17 x 17, no multiple of the patch size 5"):
        PatchEmbedding(D, S, P, interpolate=True)(torch.zeros(B, 3, 17, 17))
    for wrong in (torch.zeros(3, S, S), torch.zeros(B, 1, S, S), torch.zeros(B, 3, S, S, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=re.escape(str(tuple(wrong.shape))) + ".* is due, after transforms"):
            part(wrong)
    with pytest.raises(ValueError, match="the batch is empty"):
        part(torch.zeros(0, 3, S, S))
    with pytest.raises(ValueError, match="image_size 16 is no multiple of patch_size 5"):
        PatchEmbedding(D, 16, P)
    with pytest.raises(ValueError, match="image_size 37 is no multiple of patch_size 5"):
        part.resize(37)


@pytest.mark.parametrize(
    "masked",
    [torch.zeros(B, 8, dtype=torch.bool), torch.zeros(2, 9, dtype=torch.bool), torch.zeros(B, 9), torch.zeros(B, 3, 3)],
)
def test_masks_of_the_wrong_shape_or_type_are_refused(masked: Tensor) -> None:
    with pytest.raises(ValueError, match=r"masked is \(.*, but the image has \(3, 9\) patches; give a bool"):
        PatchEmbedding(D, S, P)(torch.zeros(B, 3, S, S), masked)


@pytest.mark.parametrize("kinds", [False, True])
def test_tokens_are_embedded_as_a_loop_would(kinds: bool) -> None:
    part = stirred(TokenEmbedding(41, D, 13))
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(0, 41, (B, 7), generator=generator)
    segments = torch.randint(0, 2, (B, 7), generator=generator)
    slow = torch.zeros(B, 7, D)
    for b in range(B):
        for t in range(7):
            kind = int(segments[b, t]) if kinds else 0
            slow[b, t] = part.words.weight[ids[b, t]] + part.positions.weight[t] + part.segments.weight[kind]
    slow = slow - slow.mean(-1, keepdim=True)
    slow = slow / slow.square().mean(-1, keepdim=True).sqrt() * part.norm.weight + part.norm.bias
    torch.testing.assert_close(part(ids, segments if kinds else None), slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (torch.tensor([[1, 41]]), "id 41 is beyond the vocabulary of 41; tokenise with the vocabulary"),
        (torch.tensor([[1, -1]]), "id -1 is beyond the vocabulary of 41"),
        (torch.zeros(2, 14, dtype=torch.int64), "texts are 14 tokens long, the encoder takes 13; truncate them"),
        (torch.zeros(0, 5, dtype=torch.int64), r"ids are \(0, 5\) torch.int64; .* above 0 is due"),
        (torch.zeros(5, 0, dtype=torch.int64), r"ids are \(5, 0\) torch.int64; .* above 0 is due"),
        (torch.zeros(5, dtype=torch.int64), r"ids are \(5,\) torch.int64"),
        (torch.zeros(2, 5), r"ids are \(2, 5\) torch.float32; \(B, T\) int64"),
    ],
)
def test_ids_that_are_refused(ids: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TokenEmbedding(41, D, 13)(ids)
