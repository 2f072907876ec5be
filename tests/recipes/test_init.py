"""From stage one to stage two through the recipe: a run's text encoder and others' image encoders as first weights."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from torchflava.encoders import flava_image_encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import pretrain

STILL = ["--lr", "1e-12", "--steps", "1", "--warmup-steps", "0"]
"""One step that moves nothing, so that what is exported is what training began with."""


def trained(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    import measure_scenes
    import report

    monkeypatch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
    monkeypatch.setattr(report, "report", lambda *parts: None)
    pretrain.main([*words, "--folder", str(folder)])
    (file,) = folder.glob("*/model.safetensors")
    return load_file(file)


def dinos(folder: Path) -> dict[str, torch.Tensor]:
    """A `.pth` with DINO's names, from an encoder of the twin's size."""
    torch.manual_seed(9)
    state = flava_image_encoder(width=64, depth=2, num_heads=2, hidden=128, image_size=32, patch_size=8).state_dict()
    names = [("embed.projection", "patch_embed.proj"), ("embed.positions", "pos_embed"), ("embed.cls", "cls"),
             ("trunk.blocks", "blocks"), ("attention_norm", "norm1"), ("mlp_norm", "norm2"), ("attention.qkv", "attn.qkv"),
             ("attention.out", "attn.proj"), ("mlp.up", "mlp.fc1"), ("mlp.down", "mlp.fc2")]  # fmt: skip
    theirs = {}
    for name, tensor in state.items():
        for ours, their in names:
            name = name.replace(ours, their)
        theirs[name] = tensor
    del theirs["embed.mask_token"]
    torch.save(theirs, folder / "dino.pth")
    return {f"flava.image_encoder.{name}": tensor for name, tensor in state.items() if "mask_token" not in name}


def test_a_run_begins_with_stage_ones_text_encoder_and_dinos_image_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--twin", "--steps", "3", "--warmup-steps", "1", "--lr", "0.01"]
    one = trained(["--preset", "text_stage1", *small], tmp_path / "one", monkeypatch)
    (run,) = (tmp_path / "one").iterdir()
    image = dinos(tmp_path)
    vocab = ["--vocab", str(run / "vocab.txt")]
    words = ["--preset", "flava", "--twin", *STILL, *vocab]
    drawn = trained(words, tmp_path / "drawn", monkeypatch)
    capsys.readouterr()
    inits = ["--init-image", str(tmp_path / "dino.pth"), "--init-text", str(run)]
    begun = trained([*words, *inits], tmp_path / "two", monkeypatch)
    said = capsys.readouterr().out
    assert "dino.pth, DINO's or timm's ViT: 30 tensors; embed.mask_token: nothing was masked there" in said
    assert f"text_encoder from {run}, torchflava's FlavaForPreTraining: 31 tensors" in said
    text = {name: tensor for name, tensor in one.items() if name.startswith("flava.text_encoder.")}
    assert begun.keys() == drawn.keys()
    assert not all(torch.allclose(text[name], drawn[name], atol=1e-6) for name in text)
    for name, tensor in begun.items():
        due = (image | text).get(name, drawn[name])
        torch.testing.assert_close(tensor, due, atol=1e-6, rtol=0, msg=name)


def test_first_weights_of_another_size_end_the_run_with_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dinos(tmp_path)
    words = ["--preset", "flava", "--twin", "--model", "mini", *STILL, "--init-image", str(tmp_path / "dino.pth")]
    with pytest.raises(ValueError, match=r"dino\.pth lacks trunk\.blocks\.2"):
        trained(words, tmp_path / "runs", monkeypatch)
