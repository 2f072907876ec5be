"""First weights: whose tensor goes where, what stays as drawn, and what is an error. With the libraries: tests/parity."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from torchflava.encoders import beit_image_encoder
from torchflava.files import save_tensors
from torchflava.models import first_weights, from_pretrained, save_pretrained

SIZES = {"width": 24, "depth": 2, "num_heads": 2, "hidden": 31, "image_size": 15, "patch_size": 5}


def dino(depth: int = 2, width: int = 24, num_patches: int = 9) -> dict[str, Tensor]:
    """The names and shapes of facebookresearch/dino's vision_transformer.py, written out."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, 1 + num_patches, width),
        "patch_embed.proj.weight": (width, 3, 5, 5), "patch_embed.proj.bias": (width,),
        "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    for i in range(depth):
        for name, out, into in (("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("mlp.fc1", 31, width),
                                ("mlp.fc2", width, 31)):  # fmt: skip
            shapes |= {f"blocks.{i}.{name}.weight": (out, into), f"blocks.{i}.{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{name}.weight": (width,), f"blocks.{i}.{name}.bias": (width,)}
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_dinos_file_fills_all_but_the_mask_token(tmp_path: Path) -> None:
    file = tmp_path / "dino_vitbase16_pretrain.pth"
    there = dino()
    torch.save(there, file)
    with torch.device("meta"):
        encoder = tiny.image_encoder(**SIZES)
    first = first_weights(file, encoder, "image_encoder")
    assert first.made == {"embed.mask_token": "nothing was masked there"}
    assert first.unused == {}
    assert first.state.keys() == encoder.state_dict().keys() - {"embed.mask_token"}
    ours = {"trunk.blocks.1.mlp.down.bias": "blocks.1.mlp.fc2.bias", "embed.positions": "pos_embed",
            "trunk.blocks.0.attention.qkv.weight": "blocks.0.attn.qkv.weight", "norm.bias": "norm.bias",
            "trunk.blocks.1.mlp_norm.weight": "blocks.1.norm2.weight"}  # fmt: skip
    for name, theirs in ours.items():
        assert torch.equal(first.state[name], there[theirs]), name


def test_positions_of_another_grid_are_resized(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", dino() | {"head.weight": torch.zeros(2, 2)})
    first = first_weights(tmp_path / "w.safetensors", tiny.image_encoder(**SIZES | {"image_size": 20}), "image_encoder")
    assert first.state["embed.positions"].shape == (1, 17, 24)
    assert torch.equal(first.state["embed.positions"][:, 0], dino()["pos_embed"][:, 0])
    assert first.unused == {"head.weight": "a classifier, which an encoder does not have"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"blocks.1.attn.extra": torch.zeros(2)}, r"has unknown blocks\.1\.attn\.extra"),
        (lambda t: {k: v for k, v in t.items() if k != "blocks.1.norm1.bias"}, r"lacks blocks\.1\.norm1\.bias"),
        (lambda t: dino(depth=3), r"has, without a place in this encoder, trunk\.blocks\.2\."),
        (lambda t: dino(depth=1), r"lacks trunk\.blocks\.1\."),
        (lambda t: dino(width=26), r"embed\.\w+ is .*26.*the sizes must be the same"),
        (lambda t: {"a": torch.zeros(2)}, "unknown layout"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_that_names_the_tensors(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str, tmp_path: Path
) -> None:
    save_tensors(tmp_path / "w.safetensors", change(dino()))
    with pytest.raises(ValueError, match=said):
        first_weights(tmp_path / "w.safetensors", tiny.image_encoder(**SIZES), "image_encoder")


def test_vits_weights_do_not_fit_beits_blocks(tmp_path: Path) -> None:
    save_tensors(tmp_path / "w.safetensors", dino())
    with pytest.raises(ValueError, match=r"lacks trunk\.blocks\.0\.attention_scale.*BEiT's blocks for BEiT's weights"):
        first_weights(tmp_path / "w.safetensors", beit_image_encoder(**SIZES), "image_encoder")


def test_a_runs_own_file_gives_either_encoder(tmp_path: Path) -> None:
    model = tiny.pretraining()
    model.itm = model.contrastive = model.mmm_image = model.mmm_text = model.mim = None  # as text_stage1 leaves it
    save_pretrained(model, tmp_path / "model.safetensors")
    for name, encoder in (("image_encoder", tiny.image_encoder()), ("text_encoder", tiny.text_encoder())):
        first = first_weights(tmp_path, encoder, name)
        there = model.flava.get_submodule(name).state_dict()
        assert first.made == {}
        assert first.state.keys() == there.keys()
        assert all(torch.equal(first.state[key], there[key]) for key in there)
        assert first.unused["mlm.decoder.weight"] == "of another part of the model"


def test_a_text_encoder_of_another_vocabulary_length_or_number_of_heads(tmp_path: Path) -> None:
    save_pretrained(tiny.pretraining(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"embed\.words\.weight is \(41, 26\).*vocabulary must be the same"):
        first_weights(tmp_path, tiny.text_encoder(vocab_size=43), "text_encoder")
    with pytest.raises(ValueError, match=r"embed\.positions\.weight is \(13, 26\)"):
        first_weights(tmp_path, tiny.text_encoder(max_length=17), "text_encoder")
    assert (
        len(first_weights(tmp_path, tiny.text_encoder(max_length=7), "text_encoder").state["embed.positions.weight"])
        == 7
    )
    with pytest.raises(ValueError, match="has 2 heads in its text_encoder, this one has 13"):
        first_weights(tmp_path, tiny.text_encoder(num_heads=13), "text_encoder")


def test_a_flava_of_beits_blocks_comes_back_from_its_file(tmp_path: Path) -> None:
    sizes = SIZES | {"width": tiny.IMAGE_WIDTH}
    model = tiny.pretraining(parts={"image": beit_image_encoder(**sizes)}).eval()
    save_pretrained(model, tmp_path / "model.safetensors")
    again = from_pretrained(tmp_path)
    pixels = tiny.pixels(2, torch.Generator().manual_seed(1))
    assert torch.equal(again.embed_image(pixels), model.embed_image(pixels))
    save_pretrained(model.flava, tmp_path / "flava.safetensors")
    assert torch.equal(from_pretrained(tmp_path / "flava.safetensors").embed_image(pixels), model.embed_image(pixels))
    first = first_weights(tmp_path, beit_image_encoder(**sizes), "image_encoder")
    assert first.made == {}
    with pytest.raises(ValueError, match=r"without a place in this encoder, trunk\.blocks\.0\.attention\.positions"):
        first_weights(tmp_path, tiny.image_encoder(**sizes), "image_encoder")
