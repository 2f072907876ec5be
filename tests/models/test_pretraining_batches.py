"""Batches of every shape, mask and length, and those that are refused.

Letters: B batch, N patches, T tokens, K rows asked for.
"""

import copy
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchflava.batch import IGNORE, Batch, ImageBatch, PairBatch, TextBatch


@st.composite
def batches(draw: Any) -> Batch:
    """Of any kind, with any masks, lengths, labels and rows, the extremes included."""
    size, length, other = draw(st.sampled_from([1, 2, 5])), draw(st.integers(1, 13)), draw(st.integers(1, 13))
    patches, words = draw(st.sampled_from([0, 1, 7])), min(other, draw(st.sampled_from([0, 1, 3])))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = st.sampled_from([0.0, 0.3, 1.0])

    def coins(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < draw(share)

    def below(end: int, *shape: int) -> Tensor:
        return torch.randint(0, end, shape, generator=generator)

    def places(end: int, *shape: int) -> Tensor:
        """None twice in a row, as masking picks them."""
        return torch.rand(shape[0], end, generator=generator).argsort(1)[:, : shape[1]]

    def labels(end: int, *shape: int) -> Tensor:
        return torch.where(coins(*shape), below(end, *shape), IGNORE)

    pixels = tiny.pixels(size, generator) * draw(st.sampled_from([0.0, 1.0, 1e4]))
    n, v = tiny.NUM_PATCHES, tiny.VOCAB_SIZE
    image = (coins(size, n), places(n, size, patches), labels(tiny.NUM_CODES, size, patches))
    text = (below(v, size, other), coins(size, other), places(other, size, words), labels(v, size, words))
    kind = draw(st.sampled_from(tiny.KINDS))
    if kind == "image":
        return ImageBatch(pixels, *image)
    if kind == "text":
        return TextBatch(*text)
    clean = below(v, size, length), coins(size, length)
    return PairBatch(pixels, *image, *clean, *text, matched=coins(size), contrast=coins(size))


MODELS = {name: tiny.pretraining(itm_input=name) for name in ("masked", "clean")}


@given(batch=batches(), itm_input=st.sampled_from(["masked", "clean"]))
def test_no_batch_gives_nan(batch: Batch, itm_input: str) -> None:
    model = MODELS[itm_input]
    model.zero_grad()
    losses = model(batch)
    counts = {"mim": "labels", "mlm": "labels", "itm": None, "contrastive": "contrast"}
    for name, loss in losses.items():
        assert loss.mean.isfinite(), name
        if counts.get(name):
            there = getattr(batch, counts[name])
            assert loss.num_rows == (there if there.dtype == torch.bool else there != IGNORE).sum()
        assert loss.num_rows > 0 or loss.mean.item() == 0.0, name
    tiny.total(model, batch).backward()
    for name, grad in tiny.gradients(model).items():
        assert grad.isfinite().all(), name


def hidden_pixels(batch: ImageBatch | PairBatch) -> Tensor:
    """(B, 1, S, S) bool: True under a mask."""
    return batch.masked.reshape(-1, 1, 3, 3).repeat_interleave(5, 2).repeat_interleave(5, 3)


@pytest.mark.parametrize("kind", ["image", "pair"])
def test_what_is_hidden_cannot_be_seen(kind: str) -> None:
    model = tiny.pretraining()
    batch = tiny.batch_of(kind)
    other = batch._replace(pixels=torch.where(hidden_pixels(batch), batch.pixels + 3, batch.pixels))
    before, after = model(batch), model(other)
    for name in set(before) - {"contrastive"}:
        assert torch.equal(before[name].total, after[name].total), name
    if kind == "pair":
        assert not torch.equal(before["contrastive"].total, after["contrastive"].total), "its image is not masked"


@pytest.mark.parametrize("kind", ["text", "pair"])
def test_padding_changes_nothing(kind: str) -> None:
    model = tiny.pretraining(parts={"text": tiny.text_encoder(max_length=23)})
    batch = tiny.batch_of(kind)
    padded = {name: F.pad(getattr(batch, name), (0, 7)) for name in ("ids", "keep", "masked_ids", "masked_keep")
              if hasattr(batch, name)}  # fmt: skip
    before, after = model(batch), model(batch._replace(**padded))
    for name, loss in before.items():
        torch.testing.assert_close(after[name].mean, loss.mean, rtol=1e-5, atol=1e-5, msg=name)


def test_labels_asked_for_twice_as_much_padding_change_nothing() -> None:
    model, batch = tiny.pretraining(), tiny.image_batch()
    more = batch._replace(positions=F.pad(batch.positions, (0, 4)), labels=F.pad(batch.labels, (0, 4), value=IGNORE))
    torch.testing.assert_close(model(more)["mim"], model(batch)["mim"])


@pytest.mark.parametrize("itm_input", ["masked", "clean"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_no_argument_and_no_weight_is_changed(kind: str, itm_input: str) -> None:
    model, batch = tiny.pretraining(itm_input=itm_input), tiny.batch_of(kind)
    before, weights = copy.deepcopy(batch), copy.deepcopy(model.state_dict())
    versions = [tensor._version for tensor in batch]
    tiny.total(model, batch).backward()
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))
    assert [tensor._version for tensor in batch] == versions
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("image", {"pixels": torch.zeros(3, 3, 20, 20)}, "images are 20 x 20, the encoder is made for 15 x 15"),
        ("image", {"pixels": torch.zeros(3, 3, 15, 15, dtype=torch.uint8)}, "uint8; .* after transforms.normalise"),
        ("image", {"masked": torch.zeros(3, 8, dtype=torch.bool)}, r"masked is \(3, 8\) .* has \(3, 9\) patches"),
        ("image", {"masked": torch.zeros(3, 9)}, r"masked is \(3, 9\) torch.float32, .* give a bool for each patch"),
        ("image", {"labels": torch.zeros(3, 4, dtype=torch.int64)}, r"labels are \(3, 4\), logits \(3, 5, 37\)"),
        ("image", {"positions": torch.zeros(2, 5, dtype=torch.int64)}, r"positions are \(2, 5\); \(3, K\) is due"),
        ("text", {"masked_ids": torch.full((3, 11), 41)}, "id 41 is beyond the vocabulary of 41"),
        ("text", {"keep": torch.ones(3, 4, dtype=torch.bool)}, r"keep is \(3, 4\).*; a bool for each of \(3, 11\) ids"),
        ("text", {"keep": torch.ones(3, 11)}, r"keep is \(3, 11\) torch.float32; a bool for each"),
        ("pair", {"pixels": torch.zeros(2, 3, 15, 15)}, r"masked is \(3, 9\) .*, but the image has \(2, 9\)"),
        ("pair", {"masked_keep": torch.ones(3, 4, dtype=torch.bool)}, r"keep is \(3, 4\)"),
        ("pair", {"matched": torch.ones(2, dtype=torch.bool)}, r"matched is \(2,\) .*; one bool for each of 3 rows"),
        ("pair", {"matched": torch.ones(3, dtype=torch.int64)}, r"matched is \(3,\) torch.int64; one bool for each"),
        ("pair", {"contrast": torch.ones(3, 1, dtype=torch.bool)}, r"contrast is \(3, 1\) .*; one bool for each of 3"),
        ("pair", {"contrast": torch.ones(3)}, r"contrast is \(3,\) torch.float32; one bool for each"),
    ],
)
def test_what_is_refused(kind: str, wrong: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny.pretraining()(tiny.batch_of(kind)._replace(**wrong))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_empty_batch_is_refused(kind: str) -> None:
    words = "the batch is empty" if kind == "image" else "ids are .* above 0 is due"
    with pytest.raises(ValueError, match=words):
        tiny.pretraining()(tiny.part(tiny.batch_of(kind), slice(0)))


def test_texts_and_images_of_unequal_number_are_refused_without_a_contrastive_loss_too() -> None:
    model = tiny.pretraining()
    model.contrastive = None
    batch = tiny.pair_batch()
    fewer = batch._replace(pixels=batch.pixels[:2], masked=batch.masked[:2])
    with pytest.raises(ValueError, match="2 images meet 3 texts; give one text for each image"):
        model(fewer)


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(TypeError, match="no objective for a Tensor; give an ImageBatch, TextBatch or PairBatch"):
        tiny.pretraining()(torch.zeros(2))
    with pytest.raises(ValueError, match="itm_input must be 'masked' or 'clean', got 'both'"):
        tiny.pretraining(itm_input="both")
