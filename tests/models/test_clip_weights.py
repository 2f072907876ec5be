"""CLIP in others' layouts: names and transposes written out by hand, what configurations say, and files that are refused.

tests/parity/test_clips_of_others.py has the libraries themselves.
"""

import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import EMBED_DIM, IMAGE_SIZE, MAX_LENGTH, TEXT_WIDTH, VOCAB_SIZE, caption, clip, flava, pixels
from tiny import pretraining as flava_pretraining
from torch import Tensor, nn

from torchflava.layers import QuickMlp
from torchflava.models import (
    Clip,
    FlavaForPreTraining,
    clip_for_pretraining,
    clip_to_open_clip,
    clip_to_transformers,
    from_pretrained,
    load_pretrained,
)
from torchflava.models.weights import save_pretrained
from torchflava.transforms import BytePair, WordPiece

END = VOCAB_SIZE - 1
BLOCK = {"attention_norm": "ln_1", "attention.out": "attn.out_proj", "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc",
         "mlp.down": "mlp.c_proj"}  # fmt: skip


def pretraining() -> FlavaForPreTraining:
    model = clip_for_pretraining(clip(end_id=END))
    model.contrastive.log_scale.data.fill_(1.7)
    return model.eval()


def as_open_clip(model: Clip) -> dict[str, Tensor]:
    """The tensors by open_clip's names."""
    ours = model.state_dict()
    found = {
        "visual.class_embedding": ours["image_encoder.embed.cls_token"][0, 0],
        "visual.positional_embedding": ours["image_encoder.embed.positions"][0],
        "visual.conv1.weight": ours["image_encoder.embed.projection.weight"],
        "visual.proj": ours["image_projection.weight"].T,
        "token_embedding.weight": ours["text_encoder.embed.words.weight"],
        "positional_embedding": ours["text_encoder.embed.positions.weight"],
        "text_projection": ours["text_projection.weight"].T,
        "logit_scale": torch.tensor(1.7),
    }
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = ours[f"image_encoder.embed.norm.{kind}"]
        found[f"visual.ln_post.{kind}"] = ours[f"image_encoder.norm.{kind}"]
        found[f"ln_final.{kind}"] = ours[f"text_encoder.norm.{kind}"]
        for here, there, depth in (("image_encoder", "visual.", 2), ("text_encoder", "", 3)):
            for i in range(depth):
                block = f"{there}transformer.resblocks.{i}"
                found[f"{block}.attn.in_proj_{kind}"] = ours[f"{here}.trunk.blocks.{i}.attention.qkv.{kind}"]
                for mine, other in BLOCK.items():
                    found[f"{block}.{other}.{kind}"] = ours[f"{here}.trunk.blocks.{i}.{mine}.{kind}"]
    return {name: tensor.contiguous() for name, tensor in found.items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, others = one.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in mine.items())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file in open_clip's names, without a configuration; the heads of tiny encoders must be given."""
    save_file(as_open_clip(pretraining().flava), tmp_path / "clip.safetensors")
    return tmp_path / "clip.safetensors"


def test_open_clip_s_names(written: Path) -> None:
    loaded = load_pretrained(written, num_heads=2)
    assert loaded.layout == "open_clip's CLIP"
    assert same(loaded.model, pretraining())
    assert (loaded.settings.quick_gelu, loaded.settings.end_id, loaded.unused) == (False, END, {})


@pytest.mark.parametrize("how", ["text.", "module.", "mask", "openai", "bare"])
def test_other_files_of_the_same_names(tmp_path: Path, how: str) -> None:
    tensors = as_open_clip(pretraining().flava)
    if how == "text.":
        ours = ("visual.", "logit_scale")
        tensors = {name if name.startswith(ours) else f"text.{name}": tensor for name, tensor in tensors.items()}
    if how == "module.":
        tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    if how == "mask":
        tensors["attn_mask"] = torch.full((MAX_LENGTH, MAX_LENGTH), -torch.inf).triu(1)
    if how == "openai":
        tensors |= {"input_resolution": torch.tensor(IMAGE_SIZE), "vocab_size": torch.tensor(VOCAB_SIZE)}
    if how == "bare":
        del tensors["logit_scale"]
    save_file(tensors, tmp_path / "clip.safetensors")
    loaded = load_pretrained(tmp_path / "clip.safetensors", num_heads=2)
    assert same(loaded.model, pretraining().flava if how == "bare" else pretraining())
    assert loaded.settings.quick_gelu == (how == "openai")
    assert len(loaded.unused) == {"mask": 1, "openai": 2}.get(how, 0)


def test_the_gelu_is_chosen(written: Path) -> None:
    quick = from_pretrained(written, num_heads=2, quick_gelu=True)
    mlp = quick.flava.text_encoder.trunk.blocks[2].mlp
    assert isinstance(mlp, QuickMlp)
    x = torch.randn(5, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    up = x @ mlp.up.weight.T + mlp.up.bias
    due = (up / (1 + torch.exp(-1.702 * up))) @ mlp.down.weight.T + mlp.down.bias
    torch.testing.assert_close(mlp(x), due)
    save_pretrained(quick, written)
    assert load_pretrained(written).settings.quick_gelu
    save_pretrained(flava_pretraining(), written)
    with pytest.raises(ValueError, match="quick_gelu is CLIP's"):
        from_pretrained(written, quick_gelu=True)


def test_texts_are_read_at_their_first_end() -> None:
    """As open_clip's argmax: whatever follows, and though padding's id is a token's too."""
    model = clip(end_id=END)
    ids = torch.tensor([[1, 0, 5, END, 0, 0], [1, 7, END, 3, END, 9], [1, 2, 3, 4, 5, END]])
    found = model.embed_text(ids)
    for row, length in enumerate(ids.argmax(1) + 1):
        alone = model.embed_text(ids[row : row + 1, :length], torch.ones(1, int(length), dtype=torch.bool))
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="a text has no end"):
        model.embed_text(torch.tensor([[1, 2, 3]]))
    given, keep = caption(3, 7, torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.embed_text(given, keep), clip().embed_text(given, keep))


@pytest.mark.parametrize("write", [clip_to_open_clip, clip_to_transformers], ids=["open_clip", "transformers"])
def test_what_is_written_comes_back(write, tmp_path: Path) -> None:
    model = pretraining()
    for block in (*model.flava.image_encoder.trunk.blocks, *model.flava.text_encoder.trunk.blocks):
        quick = QuickMlp(block.mlp.up.in_features, block.mlp.up.out_features)
        quick.load_state_dict(block.mlp.state_dict())
        block.mlp = quick
    model.flava.text_encoder.norm.eps = 1e-4
    report = write(model, tmp_path / "clip")
    assert {file.name for file in report.files} == {file.name for file in (tmp_path / "clip").iterdir()}
    found = load_pretrained(tmp_path / "clip")
    assert same(found.model, model)
    assert (found.settings.quick_gelu, found.settings.end_id, found.settings.eps) == (True, END, (1e-5, 1e-4))
    bare = tmp_path / "bare"  # without the metadata by which this project knows its own again
    bare.mkdir()
    for file in (tmp_path / "clip").iterdir():
        if file.suffix == ".safetensors":
            save_file(load_file(file), bare / file.name)
        else:
            (bare / file.name).write_bytes(file.read_bytes())
    again = load_pretrained(bare)
    assert again.settings == found.settings
    images = pixels(2, torch.Generator().manual_seed(3))
    torch.testing.assert_close(again.model.embed_image(images), model.embed_image(images))


def test_a_file_for_open_clip_has_its_names_alone(tmp_path: Path) -> None:
    model = pretraining()
    report = clip_to_open_clip(model, tmp_path / "clip.safetensors")
    assert (report.files, report.made) == ((tmp_path / "clip.safetensors",), {})
    assert list(report.differs) == ["vocabulary"], "open_clip brings a tokenizer of its own, of 49,408 tokens"
    assert not clip_to_open_clip(clip(vocab_size=49408, end_id=49407), tmp_path / "released.safetensors").differs
    found, due = load_file(tmp_path / "clip.safetensors"), as_open_clip(model.flava)
    assert found.keys() == due.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in due.items())
    assert found["logit_scale"].shape == ()
    assert list(clip_to_open_clip(model.flava, tmp_path / "clip.safetensors").made) == ["logit_scale"]
    torch.testing.assert_close(load_file(tmp_path / "clip.safetensors")["logit_scale"], torch.tensor(1 / 0.07).log())


def test_a_model_over_wordpiece_needs_its_end(tmp_path: Path) -> None:
    model = clip()
    with pytest.raises(ValueError, match="give end_id"):
        clip_to_transformers(model, tmp_path)
    words = [f"w{i}" for i in range(VOCAB_SIZE - 5)]
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    clip_to_transformers(model, tmp_path, tokenizer=tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["text_config"]["eos_token_id"], config["text_config"]["bos_token_id"]) == (3, 2)
    clip_to_open_clip(model, tmp_path / "other", end_id=3)
    text = json.loads((tmp_path / "other" / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert (text["pool_type"], text["eos_id"]) == ("eos", 3)


def test_an_end_that_transformers_reads_otherwise_is_refused(tmp_path: Path) -> None:
    """There `eos_token_id` 2 means the greatest id of a text, as in its first configurations."""
    words = [f"w{i}" for i in range(VOCAB_SIZE - 5)]
    tokenizer = WordPiece.from_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *words])
    with pytest.raises(ValueError, match=r"texts end with the id 2.*clip_to_open_clip"):
        clip_to_transformers(clip(), tmp_path / "out", tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())
    clip_to_open_clip(clip(), tmp_path / "out", end_id=2)


def test_an_end_that_a_file_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="end with the id 0"):
        save_pretrained(clip(end_id=0), tmp_path)


def test_padding_is_no_token_of_texts_in_transformers(tmp_path: Path) -> None:
    """A special token is cut out of every text: "!", which has the id 0, must not be one."""
    tokenizer = BytePair.train(["a red ball"] * 9, 530)
    model = clip(vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id)
    clip_to_transformers(model, tmp_path, tokenizer=tokenizer)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    special = {value for name, value in config.items() if name.endswith("_token")}
    assert special == {tokenizer.tokens[tokenizer.start_id], tokenizer.tokens[tokenizer.end_id]}


def test_a_folder_with_a_dot_in_its_name(tmp_path: Path) -> None:
    report = clip_to_open_clip(pretraining(), tmp_path / "clip-v1.5")
    assert {file.parent for file in report.files} == {tmp_path / "clip-v1.5"}
    assert same(from_pretrained(tmp_path / "clip-v1.5"), pretraining())


@pytest.mark.parametrize("name", ["weights", "weights.bin", "weights v1.5"])
def test_settings_are_read_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    model = pretraining()
    model.flava.text_encoder.norm.eps = 1e-4
    save_pretrained(model, tmp_path / name)
    assert load_pretrained(tmp_path / name).settings.eps == (1e-5, 1e-4)
    clip_to_open_clip(model, tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").rename(tmp_path / name)
    assert load_pretrained(tmp_path / name).settings.eps == (1e-5, 1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_cfg": {"ls_init_value": 0.1}}, "vision_cfg asks for ls_init_value = 0.1"),
        ({"text_cfg": {"no_causal_mask": True}}, "text_cfg asks for no_causal_mask = True"),
        ({"text_cfg": {"pool_type": "last"}}, "pool_type = 'last'"),
        ({"text_cfg": {"pool_type": "eos", "eos_id": 900}}, "end with the id 900"),
        ({"vision_cfg": {"width": 768}}, "vision_cfg says TowerSize(width=768"),
        ({"vision_cfg": {"head_width": 0}}, "head_width is 0"),
        ({"quick_gelu": "yes"}, "open_clip_config.json says"),
        ({"text_cfg": []}, None),
        ({"text_cfg": [1]}, "text_cfg is [1]"),
    ],
)  # fmt: skip
def test_open_clip_s_configuration(written: Path, change: dict[str, object], said: str | None) -> None:
    (written.parent / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {"vision_cfg": {"head_width": 11}} | change})
    )
    if said is None:
        assert load_pretrained(written, num_heads=2)
        return
    with pytest.raises(ValueError, match=re.escape(said)):
        load_pretrained(written, num_heads=2)


def test_another_normalisation_is_told(written: Path) -> None:
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": {"vision_cfg": {"head_width": 11}, "text_cfg": {"heads": 2}}, "preprocess_cfg": half}
    (written.parent / "open_clip_config.json").write_text(json.dumps(config))
    loaded = load_pretrained(written)
    assert loaded.settings.num_heads == (2, 2)
    assert "preprocess_cfg.mean" in " ".join(loaded.unused)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("vision_config", {"hidden_act": "relu"}, "asks for"),
        ("vision_config", {"hidden_act": "gelu", "layer_norm_eps": "x"}, "config.json says"),
        ("text_config", {"hidden_size": 512}, "text_config says TowerSize(width=512"),
        ("text_config", {"eos_token_id": 49407}, "end with the id 49407"),
        (None, {"model_type": "siglip"}, "model_type 'siglip'"),
    ],
)  # fmt: skip
def test_transformers_configuration(tmp_path: Path, part: str | None, change: dict[str, object], said: str) -> None:
    clip_to_transformers(pretraining(), tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (config if part is None else config[part]).update(change)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(said)):
        load_pretrained(tmp_path)


def test_an_old_configuration_of_transformers_reads_at_the_greatest_id(tmp_path: Path) -> None:
    clip_to_transformers(pretraining(), tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    config["text_config"]["attention_dropout"] = 0.1
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_pretrained(tmp_path)
    assert loaded.settings.end_id == END
    assert list(loaded.unused) == ["config.json: text_config.attention_dropout"]


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ViT-B-16.pt", "w") as archive:  # the entries of one; tests/parity has a real one
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"ViT-B-16/{name}", b"")
    with pytest.raises(ValueError, match=r"TorchScript archive, which is code; .*torch\.jit\.load"):
        from_pretrained(tmp_path / "ViT-B-16.pt")


@pytest.mark.parametrize("drop", ["visual.proj", "transformer.resblocks.1.attn.in_proj_bias", "positional_embedding"])
def test_a_file_that_lacks_something_says_what(written: Path, drop: str) -> None:
    tensors = as_open_clip(pretraining().flava)
    del tensors[drop]
    save_file(tensors, written)
    with pytest.raises(ValueError, match=f"lacks {re.escape(drop)}"):
        from_pretrained(written, num_heads=2)


def test_shapes_that_do_not_fit_are_named(written: Path) -> None:
    for name, shape in (
        ("visual.proj", (EMBED_DIM,)),
        ("visual.proj", (3, EMBED_DIM)),
        ("visual.class_embedding", (1, 22)),
    ):
        save_file(as_open_clip(pretraining().flava) | {name: torch.zeros(shape)}, written)
        with pytest.raises(ValueError, match=r"shapes do not go together|two dimensions are due"):
            from_pretrained(written, num_heads=2)


def test_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CLIP is due"):
        clip_to_open_clip(flava(), tmp_path)
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        clip_to_open_clip(pretraining(), tmp_path / "clip.bin")
    with pytest.raises(ValueError, match=f"texts end with the id {END}, not 3"):
        clip_to_open_clip(pretraining(), tmp_path, end_id=3)
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(99))])
    with pytest.raises(ValueError, match="tokens, the model knows"):
        clip_to_transformers(clip(), tmp_path, tokenizer=tokenizer)
