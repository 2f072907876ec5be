"""The named sizes, and the counts of parameters that the spec gives for the paper's model."""

from functools import cache

import pytest
import torch

from torchflava.models import SIZES, FlavaForPreTraining, flava_for_pretraining, flava_model


@cache
def built(name: str) -> FlavaForPreTraining:
    """Without memory."""
    with torch.device("meta"):
        return flava_for_pretraining(flava_model(name))


@pytest.mark.parametrize(
    ("name", "depth", "width", "hidden", "num_heads", "fusion_depth"),
    [  # spec §1.6: TorchMultimodal's configurations for scaling
        ("base", 12, 768, 3072, 12, 6),
        ("900m", 24, 1024, 4096, 16, 12),
        ("1.8b", 32, 1280, 5120, 16, 16),
        ("2.7b", 40, 1408, 6144, 16, 20),
        ("4.8b", 48, 1664, 8192, 16, 24),
        ("10b", 64, 2048, 10240, 16, 40),
    ],
)
def test_sizes_are_those_of_the_spec(
    name: str, depth: int, width: int, hidden: int, num_heads: int, fusion_depth: int
) -> None:
    flava = built(name).flava
    assert flava.image_encoder.width == flava.text_encoder.width == flava.fusion_encoder.width == width
    depths = [len(part.trunk.blocks) for part in (flava.image_encoder, flava.text_encoder, flava.fusion_encoder)]
    assert depths == [depth, depth, fusion_depth]
    for unit in flava.units():
        assert unit.mlp.up.out_features == hidden
        assert unit.attention.num_heads == num_heads


@pytest.mark.parametrize(
    ("name", "millions"), [("900m", 900), ("1.8b", 1800), ("2.7b", 2700), ("4.8b", 4800), ("10b", 10000)]
)
def test_sizes_hold_about_what_they_are_called_after(name: str, millions: int) -> None:
    model = built(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.05)


def test_counts_of_the_papers_model() -> None:
    with torch.device("meta"):
        model = flava_for_pretraining(flava_model(embed_dim=768))
    pooler = 768 * 769
    # Spec §1.7: 241,356,289 with three poolers that this model has not, and with the temperature, which stands elsewhere.
    assert sum(p.numel() for p in model.flava.parameters()) == 241_356_289 - 3 * pooler - 1
    heads = {"mim": 6_891_776, "mlm": 24_063_546, "mmm_image": 6_891_776, "mmm_text": 24_063_546, "itm": 592_130}
    for name, count in heads.items():
        assert sum(p.numel() for p in model.get_submodule(name).parameters()) == count
    assert sum(p.numel() for p in model.contrastive.parameters()) == 1


@pytest.mark.parametrize("name", SIZES)
def test_every_size_builds_without_memory_and_has_no_scalar(name: str) -> None:
    model = built(name)
    assert all(p.is_meta for p in model.parameters())
    assert all(p.ndim >= 1 for p in model.parameters()), "FSDP2 refuses scalars (spec §3.1, B1)"
    assert not list(model.buffers()), "a buffer would need a value of its own after building on meta"


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no size is called 'huge'; there are tiny, mini, .* 10b"):
        flava_model("huge")
