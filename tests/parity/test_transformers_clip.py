"""CLIP's two encoders beside transformers': the same embeddings from the same weights, at random ones.

transformers finds the end of a text by its id: the first place of `eos_token_id`, or, where that is 2 (old configurations), the
place of the greatest id. Here it is the last token kept.
"""

import pytest
import torch
from agree import assert_close
from tiny import EMBED_DIM, IMAGE_SIZE, MAX_LENGTH, PATCH_SIZE, SEP, VOCAB_SIZE, caption, clip, pixels, stirred
from torch import Tensor, nn

from torchflava.models import Clip

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")

END = 7  # of a text; `SEP` is 2, which transformers takes for an old configuration
BLOCK = {"layer_norm1": "attention_norm", "self_attn.out_proj": "attention.out", "layer_norm2": "mlp_norm",
         "mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}  # fmt: skip


def tower(theirs: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Blocks by our names, from theirs."""
    state = {}
    for i in range(depth):
        at = f"encoder.layers.{i}"
        for kind in ("weight", "bias"):
            qkv = [theirs[f"{at}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"trunk.blocks.{i}.attention.qkv.{kind}"] = torch.cat(qkv)
            for name, ours in BLOCK.items():
                state[f"trunk.blocks.{i}.{ours}.{kind}"] = theirs[f"{at}.{name}.{kind}"]
    return state


def stripped(model: nn.Module, part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in model.state_dict().items()}


def texts(end: int) -> tuple[Tensor, Tensor]:
    """ids (B, T), keep (B, T) whose texts end with `end`, which stands nowhere else."""
    ids, keep = caption(5, 11, torch.Generator().manual_seed(2))
    return torch.where(ids == SEP, end, torch.where(ids == end, end - 1, ids)), keep


def text_pair(eos: int = END) -> tuple[Clip, nn.Module]:
    """Ours and theirs with the same text encoder."""
    config = transformers.CLIPTextConfig(
        vocab_size=VOCAB_SIZE, hidden_size=26, intermediate_size=29, projection_dim=EMBED_DIM, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=MAX_LENGTH, hidden_act="gelu", eos_token_id=eos, bos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    assert config.layer_norm_eps == 1e-5
    theirs, ours = stirred(transformers.CLIPTextModelWithProjection(config)).eval(), clip()
    there = stripped(theirs, "text_model")
    ours.text_encoder.load_state_dict(
        tower(there, 3)
        | {
            "embed.words.weight": there["embeddings.token_embedding.weight"],
            "embed.positions.weight": there["embeddings.position_embedding.weight"],
            "norm.weight": there["final_layer_norm.weight"],
            "norm.bias": there["final_layer_norm.bias"],
        }
    )
    ours.text_projection.load_state_dict({"weight": there["text_projection.weight"]})
    return ours, theirs


def image_pair() -> tuple[Clip, nn.Module]:
    """Ours and theirs with the same image encoder."""
    config = transformers.CLIPVisionConfig(
        hidden_size=22, intermediate_size=23, projection_dim=EMBED_DIM, num_hidden_layers=2, num_attention_heads=2,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, hidden_act="gelu",
    )  # fmt: skip
    theirs, ours = stirred(transformers.CLIPVisionModelWithProjection(config)).eval(), clip()
    there = stripped(theirs, "vision_model")
    ours.image_encoder.load_state_dict(
        tower(there, 2)
        | {
            "embed.cls_token": there["embeddings.class_embedding"][None, None],
            "embed.projection.weight": there["embeddings.patch_embedding.weight"],
            "embed.positions": there["embeddings.position_embedding.weight"][None],
            "embed.norm.weight": there["pre_layrnorm.weight"],  # so it is written there
            "embed.norm.bias": there["pre_layrnorm.bias"],
            "norm.weight": there["post_layernorm.weight"],
            "norm.bias": there["post_layernorm.bias"],
        }
    )
    ours.image_projection.load_state_dict({"weight": there["visual_projection.weight"]})
    return ours, theirs


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True], ids=["without a mask", "with a mask"])
def test_the_text_encoder(masked: bool) -> None:
    ours, theirs = text_pair()
    ids, keep = texts(END)
    out = theirs(ids, attention_mask=keep.long() if masked else None)
    assert_close(ours.text_encoder(ids, keep).normed[keep], out.last_hidden_state[keep], "the states")
    due = out.text_embeds / out.text_embeds.norm(dim=-1, keepdim=True)
    assert_close(ours.embed_text(ids, keep), due, "the embedding")


@torch.no_grad()
def test_the_text_encoder_of_an_old_configuration() -> None:
    """CLIP's own end of text is the greatest id of its vocabulary."""
    ours, theirs = text_pair(eos=2)
    ids, keep = texts(VOCAB_SIZE - 1)
    due = theirs(ids).text_embeds
    assert_close(ours.embed_text(ids, keep), due / due.norm(dim=-1, keepdim=True), "the embedding")


@torch.no_grad()
def test_the_image_encoder() -> None:
    ours, theirs = image_pair()
    images = pixels(3, torch.Generator().manual_seed(3))
    out = theirs(images, output_hidden_states=True)
    assert_close(ours.image_encoder(images).hidden, out.last_hidden_state, "the states")
    assert_close(
        ours.embed_image(images), out.image_embeds / out.image_embeds.norm(dim=-1, keepdim=True), "the embedding"
    )


@torch.no_grad()
@pytest.mark.parametrize("size", [20, 10], ids="{}px".format)
def test_images_of_another_size(size: int) -> None:
    ours, theirs = image_pair()
    images = pixels(3, torch.Generator().manual_seed(3), size)
    due = theirs(images, interpolate_pos_encoding=True).image_embeds
    ours.resize(size)
    assert_close(ours.embed_image(images), due / due.norm(dim=-1, keepdim=True), "the embedding")


def test_the_gradients() -> None:
    for ours, theirs in (text_pair(), image_pair()):
        if hasattr(theirs, "text_model"):
            ids, keep = texts(END)
            mine, other = ours.embed_text(ids, keep), theirs(ids).text_embeds
            layer, there = ours.text_encoder.trunk.blocks[0].mlp.up, theirs.text_model.encoder.layers[0].mlp.fc1
        else:
            images = pixels(3, torch.Generator().manual_seed(3))
            mine, other = ours.embed_image(images), theirs(images).image_embeds
            layer, there = ours.image_encoder.trunk.blocks[0].mlp.up, theirs.vision_model.encoder.layers[0].mlp.fc1
        weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(4))
        (mine * weights).sum().backward()
        (other / other.norm(dim=-1, keepdim=True) * weights).sum().backward()
        assert layer.weight.grad.abs().max() > 1e-3
        assert_close(layer.weight.grad, there.weight.grad, "the gradient of a first layer")
