"""What learns in fine-tuning, and how far each parameter is from the output."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny

from torchflava.models import (
    EmbeddingsForClassification,
    depths,
    embeddings_for_classification,
    flava_for_classification,
    freeze,
)


def learning(model: torch.nn.Module) -> set[str]:
    """The parts in which something learns."""
    return {".".join(name.split(".")[:2]) for name, p in model.named_parameters() if p.requires_grad}


def test_levels_of_a_pair_are_counted_by_hand() -> None:
    """Two blocks in each tower, one in fusion: embeddings 0, blocks 1 and 2, into fusion 3, its block 4, the head 5."""
    found = depths(flava_for_classification(3, tiny.flava(), "pair", hidden=7))
    due = {
        "flava.image_encoder.embed.positions": 0,
        "flava.text_encoder.embed.words.weight": 0,
        "flava.image_encoder.trunk.blocks.0.mlp.up.weight": 1,
        "flava.text_encoder.trunk.blocks.1.mlp.up.bias": 2,
        "flava.image_to_fusion.weight": 3,
        "flava.text_to_fusion.bias": 3,
        "flava.fusion_encoder.cls_token": 3,
        "flava.fusion_encoder.trunk.blocks.0.mlp.up.weight": 4,
        "flava.fusion_encoder.norm.weight": 5,
        "classifier.dense.weight": 5,
    }
    assert {name: found[name] for name in due} == due
    assert max(found.values()) == 5


def test_levels_of_one_encoder_and_of_two_of_unequal_depth() -> None:
    text = depths(flava_for_classification(3, tiny.flava(), "text", hidden=7))
    assert text["flava.text_encoder.embed.norm.weight"] == 0
    assert text["flava.text_encoder.trunk.blocks.1.mlp.up.weight"] == 2
    assert text["flava.text_encoder.norm.weight"] == text["classifier.decoder.bias"] == 3
    clip = depths(embeddings_for_classification(3, tiny.clip()))  # 2 blocks of images, 3 of texts: they end together
    assert clip["flava.image_encoder.embed.positions"] == 1
    assert clip["flava.image_encoder.trunk.blocks.1.mlp.up.weight"] == 3
    assert clip["flava.text_encoder.embed.words.weight"] == 0
    assert clip["flava.text_encoder.trunk.blocks.2.mlp.up.weight"] == 3
    assert clip["flava.image_projection.weight"] == clip["classifier.dense.weight"] == 4


@pytest.mark.parametrize(
    ("reads", "parts", "left"),
    [
        ("text", (), {"flava.text_encoder"}),
        ("image", (), {"flava.image_encoder"}),
        ("pair", (), {"flava.image_encoder", "flava.text_encoder", "flava.fusion_encoder", "flava.image_to_fusion",
                      "flava.text_to_fusion"}),
        ("pair", ("image", "text"), {"flava.fusion_encoder", "flava.image_to_fusion", "flava.text_to_fusion"}),
        ("pair", ("image", "text", "fusion"), set()),
    ],
)  # fmt: skip
def test_what_is_read_and_not_frozen_learns(reads: str, parts: tuple[str, ...], left: set[str]) -> None:
    model = flava_for_classification(3, tiny.flava(), reads, hidden=7)
    freeze(model, parts)
    head = {"classifier.dense", "classifier.norm", "classifier.decoder"}
    assert learning(model) == left | head


def test_embeddings_alone_can_be_frozen() -> None:
    model = flava_for_classification(3, tiny.flava(), "pair", hidden=7)
    freeze(model, ("embeddings",))
    frozen = {
        name for name, p in model.named_parameters() if name.startswith("flava.text_encoder") and not p.requires_grad
    }
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("flava.text_encoder.embed.")}


def test_what_is_not_read_cannot_be_frozen() -> None:
    model = flava_for_classification(3, tiny.flava(), "text", hidden=7)
    with pytest.raises(
        ValueError, match="image is nothing that a model learns which reads 'text'; it can freeze text, emb"
    ):
        freeze(model, ("image",))


def test_embeddings_are_classified_one_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, (ids, keep) = tiny.pixels(3, generator), tiny.caption(3, 7, generator)
    for whole in (tiny.flava(), tiny.clip()):
        model = embeddings_for_classification(4, whole, hidden=7).eval()
        due = model.classifier(torch.cat([whole.embed_image(pixels), whole.embed_text(ids, keep)], 1))
        assert torch.equal(model(pixels, ids, keep), due)
        assert model(pixels, ids).shape == (3, 4)
        alone = embeddings_for_classification(4, whole, "text", hidden=7)
        assert torch.equal(alone(ids=ids), alone.classifier(whole.embed_text(ids)))
        with pytest.raises(ValueError, match="needs pixels"):
            model(ids=ids)
    with pytest.raises(ValueError, match="the classifier is 19 wide, the pair embeddings are 38"):
        EmbeddingsForClassification(tiny.clip(), embeddings_for_classification(4, tiny.clip(), "text").classifier)
