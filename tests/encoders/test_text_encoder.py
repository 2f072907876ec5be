"""The text encoder: its parts, padding that changes nothing, and the switch by which it does."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.encoders import flava_text_encoder, keep_tokens


def test_hidden_is_the_last_block_and_normed_the_same_after_the_norm() -> None:
    encoder = tiny.stirred(tiny.text_encoder())
    ids, keep = tiny.caption(3, 7, torch.Generator().manual_seed(0))
    x = encoder.embed(ids)
    for block in encoder.trunk.blocks:
        x = block(x, keep)
    hidden, normed = encoder(ids, keep)
    torch.testing.assert_close(hidden, x)
    centred = x - x.mean(-1, keepdim=True)
    by_hand = centred / centred.square().mean(-1, keepdim=True).sqrt() * encoder.norm.weight + encoder.norm.bias
    torch.testing.assert_close(normed, by_hand, rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing() -> None:
    encoder = tiny.stirred(tiny.text_encoder())
    ids, keep = tiny.caption(5, 7, torch.Generator().manual_seed(0))
    short = encoder(ids, keep).normed
    long = encoder(F.pad(ids, (0, 6)), F.pad(keep, (0, 6))).normed[:, :7]
    torch.testing.assert_close(long[keep], short[keep], rtol=1e-5, atol=1e-5)
    other = torch.where(keep, ids, 17)
    torch.testing.assert_close(encoder(other, keep).normed[keep], short[keep], rtol=0, atol=0)


def test_a_text_alone_without_padding_gives_the_same() -> None:
    encoder = tiny.stirred(tiny.text_encoder())
    ids, keep = tiny.caption(5, 7, torch.Generator().manual_seed(0))
    together = encoder(ids, keep).normed
    for row, length in enumerate(keep.sum(1).tolist()):
        alone = encoder(ids[row : row + 1, :length]).normed[0]
        torch.testing.assert_close(together[row, :length], alone, rtol=1e-5, atol=1e-5)


def test_attend_to_padding_does() -> None:
    encoder = tiny.stirred(tiny.text_encoder(attend_to_padding=True))
    ids, keep = tiny.caption(5, 7, torch.Generator().manual_seed(0))
    short, long = encoder(ids, keep).normed, encoder(F.pad(ids, (0, 6)), F.pad(keep, (0, 6))).normed[:, :7]
    assert (short - long)[keep].abs().max() > 1e-3
    x = encoder.embed(ids)
    for block in encoder.trunk.blocks:
        x = block(x)
    torch.testing.assert_close(encoder(ids, keep).hidden, x)


def test_keep_is_derived_from_the_padding_id() -> None:
    encoder = tiny.stirred(tiny.text_encoder())
    ids, keep = tiny.caption(5, 7, torch.Generator().manual_seed(0))
    assert torch.equal(encoder(ids).normed, encoder(ids, keep).normed)
    encoder.pad_id = 17
    assert not torch.equal(encoder(ids).normed, encoder(ids, keep).normed)


def test_segments_are_zero_unless_given() -> None:
    encoder = tiny.stirred(tiny.text_encoder())
    ids, keep = tiny.caption(3, 7, torch.Generator().manual_seed(0))
    assert torch.equal(encoder(ids, keep).normed, encoder(ids, keep, torch.zeros_like(ids)).normed)
    assert not torch.allclose(encoder(ids, keep).normed, encoder(ids, keep, torch.ones_like(ids)).normed)


@pytest.mark.parametrize(
    ("keep", "due"),
    [
        (None, [[True, True, False], [True, False, False]]),
        (torch.tensor([[True, False, True], [False, False, False]]), [[True, False, True], [True, False, False]]),
    ],
)
def test_the_first_token_is_always_kept(keep: Tensor | None, due: list[list[bool]]) -> None:
    ids = torch.tensor([[1, 5, 0], [0, 0, 0]])
    assert keep_tokens(ids, keep, 0).tolist() == due


def test_texts_of_padding_alone_are_finite() -> None:
    encoder = tiny.stirred(tiny.text_encoder())
    ids = torch.zeros(2, 5, dtype=torch.int64)
    assert encoder(ids, torch.zeros(2, 5, dtype=torch.bool)).normed.isfinite().all()
    assert encoder(ids).normed.isfinite().all()


@pytest.mark.parametrize(
    "keep", [torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 5), torch.ones(5, dtype=torch.bool)]
)
def test_masks_of_the_wrong_shape_or_type_are_refused(keep: Tensor) -> None:
    with pytest.raises(ValueError, match=r"keep is \(.*; a bool for each of \(2, 5\) ids is due"):
        tiny.text_encoder()(torch.ones(2, 5, dtype=torch.int64), keep)


def test_sizes_of_the_paper_without_arguments() -> None:
    with torch.device("meta"):
        encoder = flava_text_encoder()
    assert (encoder.width, encoder.vocab_size, encoder.max_length, len(encoder.units())) == (768, 30522, 512, 12)
    # Spec §1.7 counts 109,483,776 with a pooler of 768 * 769, which this encoder has not.
    assert sum(p.numel() for p in encoder.parameters()) == 109_483_776 - 768 * 769
