"""CLIP's encoders: a text is read from left to right, its last token knows all of it, and padding changes nothing."""

import pytest
import tiny
import torch
import torch.nn.functional as F

from torchflava.encoders import clip_image_encoder, clip_text_encoder, last_kept


def test_hidden_is_the_last_block_and_normed_the_same_after_the_norm() -> None:
    encoder = tiny.clip().text_encoder
    ids, keep = tiny.caption(3, 7, torch.Generator().manual_seed(0))
    x = encoder.embed(ids)
    for block in encoder.trunk.blocks:
        x = block(x)
    hidden, normed = encoder(ids, keep)
    torch.testing.assert_close(hidden, x)
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normed, centred / spread * encoder.norm.weight + encoder.norm.bias, rtol=1e-4, atol=1e-5)


def test_a_later_token_changes_no_earlier_state_and_an_earlier_one_changes_all_later() -> None:
    encoder = tiny.clip().text_encoder
    ids = torch.randint(4, tiny.VOCAB_SIZE, (3, 9), generator=torch.Generator().manual_seed(1))
    states = encoder(ids).normed
    for at in range(9):
        other = ids.clone()
        other[:, at] = 4 + (ids[:, at] - 3) % (tiny.VOCAB_SIZE - 4)
        moved = (encoder(other).normed - states).abs().amax((0, 2))
        assert not at or moved[:at].max() < 1e-6
        assert moved[at:].min() > 1e-3


def test_padding_changes_nothing() -> None:
    encoder = tiny.clip().text_encoder
    ids, keep = tiny.caption(5, 7, torch.Generator().manual_seed(0))
    short = encoder(ids, keep).normed
    long = encoder(F.pad(ids, (0, 6)), F.pad(keep, (0, 6))).normed[:, :7]
    torch.testing.assert_close(long[keep], short[keep], rtol=1e-5, atol=1e-5)
    filled = torch.where(keep, ids, 17)
    torch.testing.assert_close(encoder(filled, keep).normed[keep], short[keep], rtol=1e-5, atol=1e-5)
    for row, length in enumerate(keep.sum(1).tolist()):
        alone = encoder(ids[row : row + 1, :length]).normed[0]
        torch.testing.assert_close(short[row, :length], alone, rtol=1e-5, atol=1e-5)


def test_where_the_last_token_stands() -> None:
    keep = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert last_kept(keep).tolist() == [1, 3, 0, 0]


def test_padding_before_a_token_is_refused() -> None:
    encoder = tiny.clip().text_encoder
    for ids in ([[0, 0, 5, 6]], [[5, 0, 6, 6]]):
        with pytest.raises(
            ValueError, match="padding stands before a token; a causal text encoder takes texts that are"
        ):
            encoder(torch.tensor(ids))
    with pytest.raises(ValueError, match=r"keep is \(2, 4\) torch.bool; a bool for each of \(2, 5\) ids is due"):
        encoder(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool))
    assert encoder(torch.zeros(2, 5, dtype=torch.int64)).normed.isfinite().all()


def test_sizes_of_openais_vit_b_16() -> None:
    """Without the projections, 768 and 512 by 512: OpenAI's `visual` has 86,192,640 weights, the text tower 63,428,096."""
    with torch.device("meta"):
        image, text = clip_image_encoder(), clip_text_encoder(vocab_size=49408)
    assert (image.width, image.num_patches, text.width, text.max_length) == (768, 196, 512, 77)
    assert (len(image.units()), len(text.units())) == (12, 12)
    assert sum(p.numel() for p in image.parameters()) == 86_192_640 - 768 * 512
    assert sum(p.numel() for p in text.parameters()) == 63_428_096 - 512 * 512
