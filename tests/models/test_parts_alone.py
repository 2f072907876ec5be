"""What from_pretrained reads beyond whole models: one encoder, a codebook, and the checkpoint of FLAVA's authors."""

from pathlib import Path

import pytest
import torch
from tiny import IMAGE_SIZE, flava, fusion_encoder, image_encoder, pretraining, stirred, text_encoder
from torch import Tensor, nn

from torchflava.codebooks import DalleCodebook, PatchCodebook, fit_patches
from torchflava.codebooks.dalle_names import dalle_layout, dalle_to_torchmultimodal, dalle_to_transformers
from torchflava.convert import main as convert
from torchflava.encoders import FusionEncoder, ImageEncoder, TextEncoder, beit_image_encoder
from torchflava.files import save_tensors
from torchflava.models import from_pretrained, load_pretrained, save_pretrained
from torchflava.models.layout import to_theirs
from torchflava.models.layouts_fair import LAYOUTS as FAIR
from torchflava.models.layouts_transformers import MODEL, PRETRAINING
from torchflava.models.layouts_vit import BEIT

VIT = {"width": 64, "depth": 2, "num_heads": 1, "hidden": 31, "image_size": 15, "patch_size": 5}


def same(model: nn.Module, expected: dict[str, Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("inside", [False, True], ids=["as it is", "within a trainer's file"])
def test_the_authors_checkpoint(tmp_path: Path, inside: bool) -> None:
    state = pretraining().state_dict()
    theirs = to_theirs(FAIR[inside], state)
    prefix = "model." if inside else ""
    for name in (
        "image_encoder.module.encoder.layer.1.attention.attention.query.weight", "text_encoder.module.embeddings.LayerNorm.bias",
        "mm_encoder.module.encoder.cls_token", "mm_encoder.module.layernorm.weight", "mm_image_projection.weight",
        "mm_text_projection.bias", "image_projection.weight", "heads.cmd.mim_head.cls.predictions.decoder.weight",
        "heads.cmd.mlm_head.cls.predictions.transform.dense.bias", "heads.cmd.itm_head.cls.seq_relationship.weight",
        "heads.cmd.itm_head.pooler.dense.weight", "heads.cmd.clip_head.logit_scale",
        "heads.fairseq_mlm.cls.predictions.transform.LayerNorm.weight", "heads.imagenet.mim_head.cls.predictions.decoder.bias",
    ):  # fmt: skip
        assert f"{prefix}{name}" in theirs, name
    theirs[f"{prefix}heads.imagenet.mim_head.cls.predictions.bias"] = state["mim.decoder.bias"]
    theirs[f"{prefix}text_encoder.embeddings.word_embeddings.weight"] = torch.zeros(1)
    theirs[f"{prefix}image_encoder.module.pooler.dense.weight"] = torch.zeros(1)
    torch.save({"model": theirs, "epoch": 3} if inside else theirs, tmp_path / "flava.ckpt")
    loaded = load_pretrained(tmp_path / "flava.ckpt", num_heads=2)
    assert same(loaded.model, state)
    assert "FLAVA's original checkpoint" in loaded.layout
    assert (loaded.settings.head_eps, loaded.settings.attend_to_padding) == ((1e-12, 1e-12), (False, True))
    assert len(loaded.unused) == 3
    assert torch.equal(
        loaded.model.mmm_image.decoder.bias, theirs[f"{prefix}heads.cmd.mim_head.cls.predictions.decoder.bias"]
    )


def dino() -> dict[str, Tensor]:
    """A ViT of ours under timm's names."""
    names = {"embed.cls_token": "cls_token", "embed.positions": "pos_embed", "embed.projection": "patch_embed.proj",
             "trunk.blocks": "blocks", "attention_norm": "norm1", "attention.qkv": "attn.qkv", "attention.out": "attn.proj",
             "mlp_norm": "norm2", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}  # fmt: skip
    state = stirred(image_encoder(**VIT)).state_dict()
    del state["embed.mask_token"]
    for ours, theirs in names.items():
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    return state


def test_dinos_file_is_an_image_encoder(tmp_path: Path) -> None:
    torch.save(dino(), tmp_path / "dino.pth")
    loaded = load_pretrained(tmp_path / "dino.pth", image_size=20)
    assert isinstance(loaded.model, ImageEncoder)
    assert loaded.layout == "DINO's or timm's ViT"
    assert loaded.made == {"image_encoder.embed.mask_token": "0: nothing was masked there"}
    assert (loaded.settings.num_heads, loaded.settings.eps) == ((1,), (1e-6,))
    assert loaded.model.image_size == 20
    assert torch.equal(loaded.model.trunk.blocks[1].mlp.down.bias, dino()["blocks.1.mlp.fc2.bias"])
    assert not loaded.model.embed.mask_token.any()
    assert loaded.model.norm.eps == 1e-6
    with pytest.raises(ValueError, match="is DINO's or timm's ViT, which never sees padding"):
        from_pretrained(tmp_path / "dino.pth", attend_to_padding=(True, True))


def test_a_beit_without_biases_by_relative_position(tmp_path: Path) -> None:
    """They begin at 0, for as many heads as it has; with a table the heads are read off it."""
    sizes = {"width": 128, "depth": 2, "num_heads": 2, "hidden": 31, "image_size": 15, "patch_size": 5}
    encoder = stirred(beit_image_encoder(**sizes)).eval()
    state = {f"image_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    bare = {name: tensor for name, tensor in state.items() if "attention.positions" not in name}
    for there, heads in ((state, 2), (bare, 2)):
        torch.save(to_theirs(BEIT, there), tmp_path / "beit.pth")
        loaded = load_pretrained(tmp_path / "beit.pth")
        assert loaded.settings.num_heads == (heads,)
        assert len(loaded.made) == (0 if there is state else 2)
    for block in encoder.trunk.blocks:
        torch.nn.init.zeros_(block.attention.positions)
    assert same(loaded.model, encoder.state_dict())
    del bare["image_encoder.embed.positions"]
    torch.save(to_theirs(BEIT, bare), tmp_path / "beit.pth")
    with pytest.raises(ValueError, match="without positions, by which its patches are counted"):
        load_pretrained(tmp_path / "beit.pth")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (image_encoder, {"interpolate": True}),
        (text_encoder, {}),
        (fusion_encoder, {}),
        (
            beit_image_encoder,
            {"width": 22, "depth": 2, "num_heads": 11, "hidden": 23, "image_size": 15, "patch_size": 5},
        ),
    ],
    ids=["image", "text", "fusion", "beit"],
)
def test_an_encoder_of_ones_own_comes_back(make: type[nn.Module], options: dict[str, int], tmp_path: Path) -> None:
    encoder = stirred(make(**options)).eval()
    if not isinstance(encoder, ImageEncoder):
        encoder.attend_to_padding = True
    if isinstance(encoder, TextEncoder):
        encoder.pad_id = 3
    save_pretrained(encoder, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert type(loaded.model) is type(encoder)
    assert same(loaded.model, encoder.state_dict())
    assert not loaded.unused
    assert not loaded.made
    given = (
        torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE) if isinstance(encoder, ImageEncoder) else torch.tensor([[1, 7, 3, 3]])
    )
    if not isinstance(encoder, FusionEncoder):
        assert torch.equal(encoder(given).normed, loaded.model(given).normed)
    assert getattr(loaded.model, "attend_to_padding", True)
    assert getattr(loaded.model, "pad_id", 3) == 3
    if not isinstance(encoder, ImageEncoder):
        with pytest.raises(ValueError, match=f"is a {type(encoder).__name__}, which sees no image"):
            from_pretrained(tmp_path, image_size=20)


@pytest.mark.parametrize(
    ("tower", "name", "kind"),
    [
        ("image_encoder", "image_model.", ImageEncoder),
        ("text_encoder", "text_model.", TextEncoder),
        ("fusion_encoder", "multimodal_model.", FusionEncoder),
    ],
)
def test_an_encoder_under_transformers_names(tower: str, name: str, kind: type[nn.Module], tmp_path: Path) -> None:
    theirs = to_theirs(MODEL, flava().state_dict())
    alone = {key.removeprefix(name): tensor for key, tensor in theirs.items() if key.startswith(name)}
    alone["pooler.dense.bias"] = torch.zeros(2)
    save_tensors(tmp_path / "model.safetensors", alone)
    loaded = load_pretrained(tmp_path, num_heads=2)
    assert isinstance(loaded.model, kind)
    assert same(loaded.model, flava().get_submodule(tower).state_dict())
    assert loaded.unused == {"pooler.dense.bias": "an encoder's pooler, which no objective reads"}
    for other in ("image", "text", "multimodal"):
        (tmp_path / "config.json").write_text(f'{{"model_type": "flava_{other}_model", "hidden_size": 99}}')
        fits = name.startswith(other)
        message = rf"{other}_config says TowerSize\(width=99" if fits else f"is of model_type 'flava_{other}_model'"
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path)


def dvae() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in dalle_layout(8, 1, 37).items()}


def test_a_codebook_among_several_state_dicts(tmp_path: Path) -> None:
    """And with a model's, from which convert takes it."""
    other = {name: tensor + 1 for name, tensor in dvae().items()}
    torch.save({"encoder": dvae(), "average": other}, tmp_path / "x.pt")
    for part, due in (("encoder", dvae()), ("average", other)):
        assert same(from_pretrained(tmp_path / "x.pt", part=part), due)
    with pytest.raises(ValueError, match="choose one by part=NAME: encoder, average"):
        from_pretrained(tmp_path / "x.pt")
    theirs = to_theirs(PRETRAINING, pretraining().state_dict())
    theirs |= {f"image_codebook.{name}": tensor for name, tensor in dalle_to_transformers(dvae()).items()}
    torch.save({"model": theirs, "average": theirs}, tmp_path / "flava.pt")
    words = [str(tmp_path / name) for name in ("flava.pt", "out")]
    convert([*words, "--to", "torchflava", "--part", "average", "--num-heads", "2"])
    assert same(DalleCodebook.from_file(tmp_path / "out/codebook.safetensors"), dvae())


def test_codebooks_whoever_wrote_them(tmp_path: Path) -> None:
    files = {
        "openai": dvae(),
        "transformers": dalle_to_transformers(dvae()),
        "tmm": dalle_to_torchmultimodal(dvae(), "encoder."),
    }
    for name, tensors in files.items():
        save_tensors(tmp_path / f"{name}.safetensors", tensors)
        loaded = load_pretrained(tmp_path / f"{name}.safetensors", image_size=24)
        assert isinstance(loaded.model, DalleCodebook)
        assert same(loaded.model, dvae())
        assert (loaded.layout, loaded.model.image_size) == ("a dVAE's encoder", 24)
    save_pretrained(loaded.model, tmp_path / "own.safetensors")
    assert from_pretrained(tmp_path / "own.safetensors").image_size == 24
    with pytest.raises(ValueError, match="is a codebook, which has no attention; leave num_heads"):
        from_pretrained(tmp_path / "own.safetensors", num_heads=2)
    broken = {name: tensor for name, tensor in dvae().items() if "group_2" not in name}
    save_tensors(tmp_path / "broken.safetensors", broken)
    with pytest.raises(ValueError, match=r"broken.safetensors: no dVAE encoder: missing blocks.group_2"):
        from_pretrained(tmp_path / "broken.safetensors")


def test_a_codebook_of_patches(tmp_path: Path) -> None:
    codebook = fit_patches(torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8), num_codes=5, patch_size=4)
    save_pretrained(codebook, tmp_path / "codebook.safetensors")
    loaded = from_pretrained(tmp_path / "codebook.safetensors")
    assert isinstance(loaded, PatchCodebook)
    assert same(loaded, dict(codebook.state_dict()))
    with pytest.raises(ValueError, match="a codebook of patches, of one size; leave image_size=24 out"):
        from_pretrained(tmp_path / "codebook.safetensors", image_size=24)
