"""The sizes of the paper's model against the counts of both references (transformers 5.23, TorchMultimodal 3c2a85a).

Their encoders' counts include poolers of 768 x 768 + 768 that no objective reads, and that ours do not have.
"""

import pytest
import torch
from torch import nn

from torchflava.models import FlavaForPreTraining, flava_for_pretraining, flava_model

POOLER = 768 * 768 + 768


@pytest.fixture(scope="module")
def model() -> FlavaForPreTraining:
    with torch.device("meta"):
        return flava_for_pretraining(flava_model(embed_dim=768))


def count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flava.image_encoder", 86_390_016 - POOLER),
        ("flava.text_encoder", 109_483_776 - POOLER),
        ("flava.fusion_encoder", 43_120_128 - POOLER),
        ("mim", 6_891_776),
        ("mlm", 24_063_546),
        ("mmm_image", 6_891_776),
        ("mmm_text", 24_063_546),
        ("itm", 592_130),
        ("contrastive", 1),
    ],
)
def test_part(model: FlavaForPreTraining, name: str, expected: int) -> None:
    assert count(model.get_submodule(name)) == expected


def test_whole(model: FlavaForPreTraining) -> None:
    temperature = 1  # stands in the encoders' count there
    assert count(model.flava) == 241_356_289 - temperature - 3 * POOLER
    assert count(model) == 303_859_063 - 3 * POOLER


def test_the_papers_own_width_of_the_shared_space() -> None:
    with torch.device("meta"):
        paper, released = flava_model(), flava_model(embed_dim=768)
    assert paper.embed_dim == 512
    assert count(released) - count(paper) == 2 * (768 - 512) * (768 + 1)
