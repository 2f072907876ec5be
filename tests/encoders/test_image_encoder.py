"""The image encoder: what its parts make of it, what masks hide, other image sizes."""

import math

import pytest
import tiny
import torch
from torch import Tensor, nn

from torchflava.encoders import Encoded, ImageEncoder, flava_image_encoder
from torchflava.layers import Block, LayerNorm, PatchEmbedding


def test_hidden_is_the_last_block_and_normed_the_same_after_the_norm() -> None:
    encoder = tiny.stirred(tiny.image_encoder())
    pixels = tiny.pixels(3, torch.Generator().manual_seed(0))
    x = encoder.embed(pixels)
    for block in encoder.trunk.blocks:
        x = block(x)
    hidden, normed = encoder(pixels)
    torch.testing.assert_close(hidden, x)
    centred = x - x.mean(-1, keepdim=True)
    by_hand = centred / centred.square().mean(-1, keepdim=True).sqrt() * encoder.norm.weight + encoder.norm.bias
    torch.testing.assert_close(normed, by_hand, rtol=1e-4, atol=1e-5)


def test_masked_patches_cannot_be_seen() -> None:
    encoder = tiny.stirred(tiny.image_encoder())
    batch = tiny.image_batch()
    hidden = batch.masked.reshape(3, 1, 3, 3).repeat_interleave(5, 2).repeat_interleave(5, 3)
    other = batch.pixels.masked_fill(hidden, math.nan)
    a, b = encoder(batch.pixels, batch.masked), encoder(other, batch.masked)
    assert torch.equal(a.normed, b.normed)
    assert torch.equal(a.hidden, b.hidden)
    assert b.normed.isfinite().all()
    assert not torch.equal(a.normed, encoder(batch.pixels).normed), "the mask changes nothing at all"
    seen = torch.where(hidden, batch.pixels, batch.pixels + 1)
    assert not torch.equal(a.normed, encoder(seen, batch.masked).normed), "what is not masked counts"


def test_nothing_masked_equals_no_mask() -> None:
    encoder = tiny.stirred(tiny.image_encoder())
    pixels = tiny.pixels(2, torch.Generator().manual_seed(0))
    nothing = torch.zeros(2, tiny.NUM_PATCHES, dtype=torch.bool)
    assert torch.equal(encoder(pixels, nothing).normed, encoder(pixels).normed)


def test_samples_do_not_see_each_other() -> None:
    encoder = tiny.stirred(tiny.image_encoder())
    batch = tiny.image_batch(5)
    together = encoder(batch.pixels, batch.masked).normed
    alone = torch.cat([encoder(batch.pixels[i : i + 1], batch.masked[i : i + 1]).normed for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_images_of_another_size_by_building_or_by_resizing() -> None:
    fly = tiny.stirred(tiny.image_encoder(interpolate=True))
    good = tiny.image_encoder()
    good.load_state_dict(fly.state_dict())
    large = tiny.pixels(2, torch.Generator().manual_seed(0), 35)
    with pytest.raises(ValueError, match=r"images are 35 x 35, the encoder is made for 15 x 15"):
        good(large)
    good.resize(35)
    assert (good.image_size, good.num_patches) == (35, 49)
    assert good(large).normed.shape == (2, 50, tiny.IMAGE_WIDTH)
    torch.testing.assert_close(fly(large).normed, good(large).normed)


class Doubled(nn.Module):
    """A trunk of one's own."""

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return 2 * x


def test_parts_of_ones_own() -> None:
    embed = tiny.stirred(PatchEmbedding(11, 15, 5))
    encoder = ImageEncoder(embed, Doubled(), nn.Identity())
    pixels = tiny.pixels(2, torch.Generator().manual_seed(0))
    hidden, normed = encoder(pixels)
    assert encoder.width == 11
    assert encoder.units() == []
    assert hidden is normed
    assert torch.equal(hidden, 2 * embed(pixels))


def test_units_are_the_blocks() -> None:
    encoder = tiny.image_encoder(depth=3)
    units = encoder.units()
    assert len(units) == 3
    assert all(isinstance(unit, Block) for unit in units)
    assert [id(unit) for unit in units] == [id(block) for block in encoder.trunk.blocks]


def test_sizes_of_the_paper_without_arguments() -> None:
    with torch.device("meta"):
        encoder = flava_image_encoder()
    assert (encoder.width, encoder.image_size, encoder.num_patches, len(encoder.units())) == (768, 224, 196, 12)
    # Spec §1.7 counts 86,390,016 with a pooler of 768 * 769, which this encoder has not.
    assert sum(p.numel() for p in encoder.parameters()) == 86_390_016 - 768 * 769
    assert all(norm.eps == 1e-12 for norm in encoder.modules() if isinstance(norm, LayerNorm))
    assert isinstance(encoder(torch.zeros(2, 3, 224, 224, device="meta")), Encoded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gives_states_of_low_precision(dtype: torch.dtype) -> None:
    encoder = tiny.stirred(tiny.image_encoder())
    batch = tiny.image_batch()
    exact = encoder(batch.pixels, batch.masked).normed
    low = encoder.to(dtype)(batch.pixels.to(dtype), batch.masked).normed
    assert low.dtype == dtype
    assert (low.float() - exact).abs().mean() < 0.05
