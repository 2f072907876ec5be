"""The operations of a step, against torch's own count of what forward and backward call."""

import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from torchflava.batch import CachedPairBatch
from torchflava.models import FlavaForPreTraining, flava_model, step_flops
from torchflava.models.pretraining import flava_for_pretraining

MLP = 2 * 768 * 3072 / 1e9
"""GMAC of a state in the base size's MLP."""


def counted(model: FlavaForPreTraining, kind: str) -> int:
    """With attention as plain products: torch's counter knows no fused kernel of the CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny.total(model, tiny.batch_of(kind, 5)).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("itm_input", ["masked", "clean"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_count_is_that_of_what_is_called(kind: str, itm_input: str) -> None:
    model = tiny.pretraining(itm_input=itm_input)
    assert step_flops(model, tiny.batch_of(kind, 5)) == counted(model, kind)


@pytest.mark.parametrize("without", [("contrastive",), ("mmm_image", "mmm_text"), ("mmm_text", "itm"), ("itm",)])
@pytest.mark.parametrize("itm_input", ["masked", "clean"])
def test_what_is_taken_out_is_not_counted(without: tuple[str, ...], itm_input: str) -> None:
    model = tiny.pretraining(itm_input=itm_input)
    for name in without:
        setattr(model, name, None)
    assert step_flops(model, tiny.pair_batch(5)) == counted(model, "pair")


@pytest.mark.parametrize(("kind", "head"), [("image", "mim"), ("text", "mlm")])
def test_a_kind_without_its_head_needs_nothing(kind: str, head: str) -> None:
    model = tiny.pretraining()
    setattr(model, head, None)
    assert step_flops(model, tiny.batch_of(kind)) == 0


def test_more_ranks_bring_more_columns_to_the_contrastive_loss_alone() -> None:
    model, batch = tiny.pretraining(), tiny.pair_batch(5)
    more = step_flops(model, batch, world_size=3) - step_flops(model, batch)
    assert more == 3 * 2 * (2 * 5 * (2 * 5) * tiny.EMBED_DIM)
    assert step_flops(model, CachedPairBatch(batch, batch.pixels, batch.pixels)) == step_flops(model, batch)


def test_the_base_models_image_encoder_has_the_compute_of_a_vit_b() -> None:
    """17.56 GMAC forward at 224 px (the published ViT-B/16: 17.6), less the last MLP on what is not asked for; the head, 0.52."""
    with torch.device("meta"):
        model = flava_for_pretraining(flava_model())
    batch = tiny.image_batch(1)._replace(
        masked=torch.zeros(1, 196, dtype=torch.bool), positions=torch.zeros(1, 75, dtype=torch.int64)
    )
    assert step_flops(model, batch) / 2 / 3 == pytest.approx((17.56 - (197 - 75) * MLP + 0.52) * 1e9, rel=0.005)


def test_the_base_models_pairs_have_the_compute_of_their_passes() -> None:
    """With 16 tokens: two images, two texts, 214 states fused and projected before, 75 patches and 4 words predicted, in GMAC.

    The last MLP of a tower sees one state of the clean view, that of the fusion encoder CLS_M and what is predicted.
    """
    with torch.device("meta"):
        model = flava_for_pretraining(flava_model())
    batch = tiny.pair_batch(1)._replace(
        masked=torch.zeros(1, 196), patch_positions=torch.zeros(1, 75), token_positions=torch.zeros(1, 4),
        keep=torch.zeros(1, 16), masked_keep=torch.zeros(1, 16),
    )  # fmt: skip
    fused = 9.51 + 213 * 768 * 768 / 1e9 - (214 - 80) * MLP
    images, texts = 2 * 17.56 - 196 * MLP - 196 * 768 * 768 / 1e9, 2 * 1.36 - 15 * MLP  # patches are projected once
    want = images + texts + fused + 0.52 + 4 * 0.024
    assert step_flops(model, batch) / 2 / 3 == pytest.approx(want * 1e9, rel=0.005)
