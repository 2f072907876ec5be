"""Parts of one's own in the three encoders' places, and what the builders take."""

import inspect
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from torchflava.encoders import Encoded, Fused, flava_fusion_encoder, flava_image_encoder, flava_text_encoder
from torchflava.models import Flava, flava_for_classification, flava_for_pretraining, flava_model


def inputs(size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """pixels, ids, keep."""
    generator = torch.Generator().manual_seed(0)
    return tiny.pixels(size, generator), *tiny.caption(size, 7, generator)


class ConvImage(nn.Module):
    """An image part that shares nothing with ours: 4 patches, no mask."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 7, 7)

    def forward(self, pixels: Tensor, masked: Tensor | None = None) -> Encoded:
        x = self.conv(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        return Encoded(x, x / x.std())


class BagOfWords(nn.Module):
    """A text part that shares nothing with ours."""

    width, vocab_size = 10, tiny.VOCAB_SIZE

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(self.vocab_size, self.width)

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Encoded:
        x = self.words(ids)
        return Encoded(x, x.tanh())


class MeanFusion(nn.Module):
    """A fusion part that shares nothing with ours."""

    width = 14

    def forward(self, image: Tensor, text: Tensor, keep: Tensor) -> Fused:
        return Fused(image.mean(1) + text.mean(1), image, text)


def test_parts_of_ones_own_of_three_widths() -> None:
    torch.manual_seed(0)
    model = flava_for_pretraining(Flava(ConvImage(), BagOfWords(), MeanFusion(), embed_dim=5), num_codes=tiny.NUM_CODES)
    assert (model.mim.dense.in_features, model.mlm.dense.in_features, model.itm.dense.in_features) == (6, 10, 14)
    assert (model.mmm_image.num_codes, model.mmm_text.num_codes) == (tiny.NUM_CODES, tiny.VOCAB_SIZE)
    assert len(model.units()) == 3, "a part without units() is a unit itself"
    for kind in tiny.KINDS:
        batch = tiny.batch_of(kind)
        if kind != "text":
            positions = batch.positions if kind == "image" else batch.patch_positions
            positions.clamp_(max=3)  # ConvImage sees 4 patches
        tiny.total(model, batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="a ConvImage has no `resize`; build it for 35 px"):
        model.flava.resize(35)


def test_one_part_swapped_at_a_time() -> None:
    pixels, ids, keep = inputs()
    for part in ({"image": ConvImage()}, {"text": BagOfWords()}, {"fusion": MeanFusion()}):
        out = tiny.flava(**part)(pixels, ids, keep)
        assert out.fused.cls.isfinite().all()


def test_a_part_without_a_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the fusion part, a Linear, has no `width`; set it"):
        Flava(ConvImage(), BagOfWords(), nn.Linear(2, 2), embed_dim=5)


def test_sizes_given_to_the_builder_arrive() -> None:
    flava = flava_model("tiny", embed_dim=7, image_size=15, patch_size=5, vocab_size=41)
    assert (flava.embed_dim, flava.image_encoder.image_size, flava.image_encoder.num_patches) == (7, 15, 9)
    assert flava.text_encoder.vocab_size == 41
    image, text, fusion = tiny.image_encoder(), tiny.text_encoder(), tiny.fusion_encoder()
    flava = flava_model("tiny", image=image, text=text, fusion=fusion)
    assert flava.image_encoder is image
    assert flava.text_encoder is text
    assert flava.fusion_encoder is fusion
    assert flava.embed_dim == 32


def test_the_papers_model_without_arguments() -> None:
    with torch.device("meta"):
        flava = flava_model()
    assert (flava.embed_dim, flava.image_encoder.image_size, flava.text_encoder.vocab_size) == (512, 224, 30522)
    assert [len(p.trunk.blocks) for p in (flava.image_encoder, flava.text_encoder, flava.fusion_encoder)] == [12, 12, 6]


@pytest.mark.parametrize("number", ["image_size", "patch_size"])
def test_numbers_without_effect_are_refused(number: str) -> None:
    with pytest.raises(ValueError, match="image_size and patch_size go to the image part, which you gave"):
        flava_model("tiny", image=tiny.image_encoder(), **{number: 15})
    with pytest.raises(ValueError, match="vocab_size goes to the text part, which you gave"):
        flava_model("tiny", text=tiny.text_encoder(), vocab_size=41)


@pytest.mark.parametrize(
    "builder",
    [
        flava_model,
        flava_for_pretraining,
        flava_for_classification,
        flava_image_encoder,
        flava_text_encoder,
        flava_fusion_encoder,
    ],
)
def test_a_typo_is_a_type_error(builder: Any) -> None:
    needed = {"num_classes": 3} if "num_classes" in inspect.signature(builder).parameters else {}
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_head'"):
        builder(**needed, num_head=3)
