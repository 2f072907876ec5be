"""The name maps: both ways, whatever the sizes, and against names written out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import flava, pretraining
from torch import Tensor

from torchflava.models import flava_for_classification, layouts_own, layouts_torchmultimodal, layouts_transformers
from torchflava.models.layout import Layout, Row, fused, layer, recognise, to_ours, to_theirs
from torchflava.models.weights import LAYOUTS

STATES: dict[str, dict[str, Tensor]] = {
    "flava": flava().state_dict(),
    "pretraining": pretraining().state_dict(),
    "classification": flava_for_classification(3, flava(), hidden=23).state_dict(),
}
PLAIN = {name: tensor for name, tensor in STATES["classification"].items() if ".norm." not in name or "flava" in name}
FOREIGN = [
    (layouts_transformers.PRETRAINING, STATES["pretraining"]),
    (layouts_transformers.MODEL, STATES["flava"]),
    (layouts_transformers.HEADLESS, STATES["flava"]),
    (layouts_torchmultimodal.PRETRAINING, STATES["pretraining"]),
    (layouts_torchmultimodal.MODEL, STATES["flava"]),
    (layouts_torchmultimodal.HEADLESS, STATES["flava"]),
    (layouts_torchmultimodal.CLASSIFICATION, PLAIN),
    (layouts_torchmultimodal.CLASSIFICATION_UNDROPPED, PLAIN),
]
OWN = [
    (layouts_own.MODEL, STATES["flava"]),
    (layouts_own.HEADLESS, STATES["flava"]),
    (layouts_own.PRETRAINING, STATES["pretraining"]),
    (layouts_own.CLASSIFICATION, STATES["classification"]),
    (layouts_own.CLASSIFICATION, PLAIN),
]
NAMES = {
    "transformers' FlavaForPreTraining": (
        "flava.image_model.encoder.layer.1.attention.attention.query.weight",
        "flava.image_model.encoder.layer.1.attention.output.dense.bias",
        "flava.text_model.encoder.layer.0.layernorm_before.weight",
        "flava.text_model.encoder.layer.0.layernorm_after.bias",
        "flava.multimodal_model.encoder.layer.0.intermediate.dense.weight",
        "flava.multimodal_model.layernorm.weight",
        "flava.text_model.embeddings.LayerNorm.weight",
        "flava.image_to_mm_projection.bias",
        "flava.logit_scale",
        "mmm_text_head.transform.LayerNorm.weight",
        "mim_head.decoder.bias",
        "itm_head.pooler.dense.weight",
        "itm_head.seq_relationship.bias",
    ),
    "TorchMultimodal's flava_model_for_pretraining": (
        "model.image_encoder.encoder.layer.1.attention.query.weight",
        "model.image_encoder.encoder.layer.1.attention.output.bias",
        "model.text_encoder.encoder.layer.0.attention_layernorm.weight",
        "model.text_encoder.encoder.layer.0.feedforward_layernorm.bias",
        "model.mm_encoder.encoder.layer.0.feedforward.model.0.weight",
        "model.mm_encoder.encoder.layer.0.feedforward.model.2.bias",
        "model.mm_encoder.layernorm.weight",
        "model.text_encoder.embeddings.layer_norm.weight",
        "model.image_to_mm_projection.bias",
        "loss.contrastive_loss.logit_scale",
        "loss.mmm_loss.mlm.cls.layer_norm.weight",
        "loss.mim_loss.cls.decoder.bias",
        "loss.itm_loss.pooler.dense.weight",
        "loss.itm_loss.cls.seq_relationship.bias",
    ),
}
"""Keys as the two libraries write them, from their `state_dict()`s."""


@pytest.mark.parametrize(("layout", "state"), FOREIGN + OWN, ids=lambda x: x.name if isinstance(x, Layout) else "")
def test_there_and_back(layout: Layout, state: dict[str, Tensor]) -> None:
    theirs = to_theirs(layout, state)
    back, unused = to_ours(layout, theirs)
    assert back.keys() == state.keys()
    assert not unused
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert recognise(LAYOUTS, theirs) is layout


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    assert set(NAMES[name]) <= to_theirs(layout, STATES["pretraining"]).keys()


def test_query_key_and_value_are_cut_in_that_order() -> None:
    theirs = to_theirs(layouts_transformers.MODEL, STATES["flava"])
    qkv = STATES["flava"]["text_encoder.trunk.blocks.1.attention.qkv.weight"]
    stem = "text_model.encoder.layer.1.attention.attention."
    for i, piece in enumerate(("query", "key", "value")):
        assert torch.equal(theirs[f"{stem}{piece}.weight"], qkv[i * 26 : (i + 1) * 26])


def test_the_temperature_loses_and_gains_its_dimension() -> None:
    theirs = to_theirs(layouts_transformers.PRETRAINING, STATES["pretraining"])
    assert theirs["flava.logit_scale"].shape == ()
    assert to_ours(layouts_transformers.PRETRAINING, theirs)[0]["contrastive.log_scale"].shape == (1,)


def test_all_tensors_of_our_models_have_a_row() -> None:
    for layout, state in OWN:
        assert len(to_theirs(layout, state)) == len(state)


@given(depth=st.integers(1, 12), width=st.integers(1, 5), gap=st.integers(0, 12))
def test_any_depth_and_a_missing_block(depth: int, width: int, gap: int) -> None:
    layout = Layout("a stack", layer("norm") + fused("blocks.{i}.qkv", *((f"e.layer.{{i}}.{x}",) for x in "qkv")))
    layout = layout._replace(rows=tuple(row._replace(ours=f"e.{row.ours}") for row in layout.rows[2:]))
    tensors = {
        f"e.layer.{i}.{x}.{kind}": torch.randn(width, *[width] * (kind == "weight"))
        for i in range(depth)
        for x in "qkv"
        for kind in ("weight", "bias")
    }
    state, _ = to_ours(layout, tensors)
    assert len(state) == 2 * depth
    assert torch.equal(state[f"e.blocks.{depth - 1}.qkv.bias"][:width], tensors[f"e.layer.{depth - 1}.q.bias"])
    if gap < depth - 1:
        holed = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"e.layer.{gap}.")}
        with pytest.raises(ValueError, match=rf"e\.layer\.{gap}\.q\.weight"):
            to_ours(layout, holed)


def test_what_a_layout_lacks_or_does_not_have_is_named_on_the_way_back() -> None:
    state = dict(STATES["flava"])
    del state["text_projection.bias"]
    with pytest.raises(ValueError, match=r"lacks text_projection\.bias"):
        to_theirs(layouts_transformers.MODEL, state)
    with pytest.raises(ValueError, match=r"unknown text_pruned\.bias"):
        to_theirs(layouts_transformers.MODEL, STATES["flava"] | {"text_pruned.bias": torch.zeros(2)})


def test_two_names_of_one_tensor_must_agree() -> None:
    layout = Layout("one", (Row("a", (("x", "y"),)),))
    one = torch.ones(2)
    assert to_ours(layout, {"x": one, "y": one})[1] == {"y": "another name of x"}
    assert to_ours(layout, {"y": one})[0].keys() == {"a"}
    for other in (one + 1, one.double(), torch.ones(3)):
        with pytest.raises(ValueError, match="x and y are two names of one tensor"):
            to_ours(layout, {"x": one, "y": other})


def test_pieces_of_different_types_are_joined_in_float32() -> None:
    layout = Layout("one", fused("qkv", ("q",), ("k",)))
    pieces = {f"{x}.{kind}": torch.ones(2, 2) for x in "qk" for kind in ("weight", "bias")}
    mixed = pieces | {"q.bias": torch.ones(2, 2).to(torch.float8_e4m3fn)}
    assert to_ours(layout, mixed)[0]["qkv.bias"].dtype == torch.float32
    assert to_ours(layout, {name: x.half() for name, x in pieces.items()})[0]["qkv.bias"].dtype == torch.float16
