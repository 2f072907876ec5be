"""The fusion encoder: the order of its sequence, its mask, and where it is cut."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.encoders import FusionEncoder, flava_fusion_encoder

B, N, T, D = 3, 5, 7, 34


def states(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Image (B, 1 + N, D), text (B, T, D), keep (B, T)."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.ones(B, T, dtype=torch.bool)
    keep[1, 5:] = False
    keep[2, 2:] = False
    return torch.randn(B, 1 + N, D, generator=generator), torch.randn(B, T, D, generator=generator), keep


class Noted(nn.Module):
    """Stands in for the trunk: lets the sequence through and notes it."""

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        self.x, self.keep = x, keep
        return x


@pytest.mark.parametrize("attend", [False, True])
def test_the_sequence_is_cls_image_text_and_is_cut_there(attend: bool) -> None:
    trunk = Noted()
    encoder = FusionEncoder(D, trunk, nn.Identity(), attend_to_padding=attend)
    image, text, keep = states()
    fused = encoder(image, text, keep)
    assert torch.equal(trunk.x, torch.cat([encoder.cls_token.expand(B, 1, D), image, text], dim=1))
    if attend:
        assert trunk.keep is None
    else:
        assert trunk.keep.tolist() == [[True] * (2 + N) + row for row in keep.tolist()]
    assert torch.equal(fused.cls, encoder.cls_token[:, 0].expand(B, D))
    assert torch.equal(fused.image, image)
    assert torch.equal(fused.text, text)


def test_padding_changes_nothing_unless_it_shall() -> None:
    image, text, keep = states()
    longer, kept = F.pad(text, (0, 0, 0, 4), value=3.0), F.pad(keep, (0, 4))
    encoder = tiny.stirred(tiny.fusion_encoder())
    short, long = encoder(image, text, keep), encoder(image, longer, kept)
    torch.testing.assert_close(short.cls, long.cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(short.image, long.image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(short.text[keep], long.text[:, :T][keep], rtol=1e-5, atol=1e-5)
    encoder.attend_to_padding = True
    assert (encoder(image, text, keep).cls - encoder(image, longer, kept).cls).abs().max() > 1e-3


def test_it_has_no_positions_of_its_own() -> None:
    encoder = tiny.stirred(tiny.fusion_encoder())
    image, text, keep = states()
    order = torch.tensor([0, 3, 1, 5, 2, 4])
    torch.testing.assert_close(encoder(image[:, order], text, keep).cls, encoder(image, text, keep).cls)
    torch.testing.assert_close(encoder(image[:, order], text, keep).image, encoder(image, text, keep).image[:, order])


def test_image_and_text_see_each_other() -> None:
    encoder = tiny.stirred(tiny.fusion_encoder())
    image, text, keep = states()
    before = encoder(image, text, keep)
    assert not torch.allclose(encoder(image + 1, text, keep).text[keep], before.text[keep])
    changed = encoder(image, torch.where(keep[..., None], text + 1, text), keep)
    assert not torch.allclose(changed.image, before.image)


def test_what_is_refused() -> None:
    encoder = tiny.fusion_encoder()
    image, text, keep = states()
    with pytest.raises(ValueError, match="2 images meet 3 texts; give one text for each image"):
        encoder(image[:2], text, keep)
    for wrong in (keep[:, :4], keep[:2], keep.float()):
        with pytest.raises(ValueError, match=r"keep is \(.*; a bool for each of \(3, 7\) tokens is due"):
            encoder(image, text, wrong)


def test_sizes_of_the_paper_without_arguments() -> None:
    with torch.device("meta"):
        encoder = flava_fusion_encoder()
    assert (encoder.width, len(encoder.units())) == (768, 6)
    # Spec §1.7 counts 43,120,128 with a pooler of 768 * 769, which this encoder has not.
    assert sum(p.numel() for p in encoder.parameters()) == 43_120_128 - 768 * 769
