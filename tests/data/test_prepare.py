"""A raw batch becomes the model's: labels are the codes at the masked positions."""

import pytest
import torch

from torchflava.batch import IGNORE, ImageBatch, PairBatch, RawImageBatch, RawPairBatch, RawTextBatch, TextBatch
from torchflava.data.prepare import prepare

CPU = torch.device("cpu")


def raw_images(codes: torch.Tensor) -> RawImageBatch:
    masked = torch.tensor([[True, False, True, False], [False, False, False, True]])
    return RawImageBatch(
        torch.full((2, 3, 4, 4), 255, dtype=torch.uint8), codes, masked, torch.tensor([[0, 2, -1], [3, -1, -1]])
    )


def no_codes(pixels: torch.Tensor, positions: torch.Tensor, *, num_patches: int) -> torch.Tensor:
    pytest.fail("codes are there already")


def test_labels_are_the_codes_of_masked_patches() -> None:
    codes = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
    batch = prepare(raw_images(codes), CPU, lambda x: x.float() / 255, no_codes)
    assert isinstance(batch, ImageBatch)
    assert batch.labels.tolist() == [[10, 12, IGNORE], [23, IGNORE, IGNORE]]
    assert batch.positions.tolist() == [[0, 2, 0], [3, 0, 0]]
    assert batch.pixels.unique().tolist() == [1.0]


def test_a_codebook_is_asked_where_pixels_come() -> None:
    crops = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    batch = prepare(
        raw_images(crops),
        CPU,
        lambda x: x.float(),
        lambda x, at, num_patches: torch.arange(4).expand(len(x), -1).gather(1, at),
    )
    assert isinstance(batch, ImageBatch)
    assert batch.labels.tolist() == [[0, 2, IGNORE], [3, IGNORE, IGNORE]]


def test_a_codebook_of_another_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="gives 9 codes an image, the encoder sees 4 patches"):
        prepare(raw_images(torch.zeros(2, 9, dtype=torch.int64)), CPU, lambda x: x.float(), no_codes)


def test_texts_and_pairs_keep_their_fields() -> None:
    text = RawTextBatch(*(torch.randint(2, (2, 5)) for _ in range(4)))
    out = prepare(text, CPU, lambda x: x, no_codes)
    assert isinstance(out, TextBatch)
    assert all(a.equal(b) for a, b in zip(text, out, strict=True))
    image = raw_images(torch.arange(8).view(2, 4))
    ids = [torch.randint(9, (2, 5)) for _ in range(6)]
    pair = RawPairBatch(*image, *ids, torch.tensor([True, False]), torch.tensor([True, True]))
    out = prepare(pair, CPU, lambda x: x.float(), no_codes)
    assert isinstance(out, PairBatch)
    assert out.ids is not None
    assert all(getattr(out, name).equal(getattr(pair, name)) for name in RawPairBatch._fields[4:])
