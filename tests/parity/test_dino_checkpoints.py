"""DINO's training checkpoint, in the layout of its main_dino.py: the teacher's backbone, beside timm's ViT of the same weights.

Written out by hand: facebookresearch/dino@04c0ad9, main_dino.py (what is saved), vit_utils.py (`backbone` and `head`) and
vision_transformer.py (`DINOHead`, with torch's older weight norm).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agree import assert_close
from tiny import stirred
from torch import Tensor, nn

from torchflava.convert import main as convert
from torchflava.encoders import ImageEncoder, flava_image_encoder
from torchflava.models import first_weights, from_pretrained, load_pretrained

timm = pytest.importorskip("timm", reason="timm is not installed: pip install '.[parity]'")

SIZES = {"width": 24, "depth": 2, "num_heads": 2, "hidden": 48, "image_size": 32, "patch_size": 8}
THEIRS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
HEAD = ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "mlp.4.weight", "mlp.4.bias")
BESIDE = {"optimizer", "epoch", "args", "dino_loss", "fp16_scaler"}


def backbone(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return stirred(timm.create_model("vit_base_patch16_224.dino", num_classes=0, **THEIRS)).eval()


def network(vit: nn.Module, wrapper: str) -> dict[str, Tensor]:
    """A backbone's and a head's state, as the wrapper of both names them."""
    sizes = [(31, 24), (31,), (31, 31), (31,), (13, 31), (13,)]
    head = {f"head.{name}": torch.randn(size) for name, size in zip(HEAD, sizes, strict=True)}
    head |= {"head.last_layer.weight_g": torch.ones(37, 1), "head.last_layer.weight_v": torch.randn(37, 13)}
    state = {f"backbone.{name}": tensor for name, tensor in vit.state_dict().items()} | head
    return {wrapper + name: tensor for name, tensor in state.items()}


def checkpoint(student: nn.Module, teacher: nn.Module, *, wrapped: bool = False) -> dict[str, Any]:
    """What `save_on_master` is given; the teacher too is wrapped where it has batch norms."""
    optimizer = torch.optim.AdamW(student.parameters())
    student(PIXELS).sum().backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = np.float64(0.0005), np.linspace(0.04, 0.4, 3)[1]  # read off a schedule
    return {
        "student": network(student, "module."),
        "teacher": network(teacher, "module." if wrapped else ""),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_base", patch_size=8, global_crops_scale=(0.4, 1.0), use_fp16=True, seed=0),
        "dino_loss": {"center": torch.zeros(1, 37)},
        "fp16_scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
    }


@torch.no_grad()
@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_teacher_unless_told_otherwise(form: dict[str, bool], wrapped: bool, tmp_path: Path) -> None:
    with torch.enable_grad():
        student, teacher = backbone(0), backbone(1)
        torch.save(checkpoint(student, teacher, wrapped=wrapped), tmp_path / "checkpoint.pth", **form)
    loaded = load_pretrained(tmp_path / "checkpoint.pth", num_heads=2)
    assert isinstance(loaded.model, ImageEncoder)
    assert loaded.settings.eps == (1e-6,)
    assert_close(loaded.model(PIXELS).normed, teacher.forward_features(PIXELS), "the teacher's states")
    heads = {name for name in loaded.unused if name.startswith("head.")}
    assert len(heads) == 8
    assert loaded.unused.keys() == heads | BESIDE | {"student"}
    assert "part='student' reads it" in loaded.unused["student"]
    assert loaded.made.keys() == {"image_encoder.embed.mask_token"}
    other = load_pretrained(tmp_path / "checkpoint.pth", num_heads=2, part="student")
    assert_close(other.model(PIXELS).normed, student.forward_features(PIXELS), "the student's states")
    assert "teacher" in other.unused
    begun = first_weights(tmp_path / "checkpoint.pth", flava_image_encoder(**SIZES), "image_encoder")
    assert torch.equal(begun.state["norm.weight"], teacher.norm.weight)
    assert begun.unused == loaded.unused


def test_a_network_by_itself_is_read_too(tmp_path: Path) -> None:
    """As someone takes it out: `torch.save(checkpoint["teacher"], ...)`."""
    teacher = backbone(1)
    torch.save(network(teacher, "module."), tmp_path / "teacher.pth")
    loaded = load_pretrained(tmp_path / "teacher.pth", num_heads=2)
    assert loaded.layout == "a network of DINO's training"
    assert_close(loaded.model(PIXELS).normed, teacher.forward_features(PIXELS), "states")
    assert {name.partition(".")[0] for name in loaded.unused} == {"head"}


def test_parts_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = checkpoint(backbone(0), backbone(1))
    torch.save(held, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"has no part 'pupil'; it has student, teacher, dino_loss"):
        from_pretrained(tmp_path / "checkpoint.pth", part="pupil")
    del held["teacher"]["backbone.norm.bias"]
    torch.save(held, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"a file of a network of DINO's training that lacks backbone\.norm\.bias"):
        from_pretrained(tmp_path / "checkpoint.pth", num_heads=2)
    words = [str(tmp_path / name) for name in ("checkpoint.pth", "student.safetensors")]
    convert([*words, "--to", "torchflava", "--part", "student", "--num-heads", "2"])
    assert "what DINO's training goes on with" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"is one state dict, of safetensors, and has no part 'student'"):
        from_pretrained(words[1], part="student")
    torch.save({"model": held["student"], "ema": held["student"]}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"holds 2 state dicts; choose one by part=NAME: model, ema"):
        from_pretrained(tmp_path / "two.pt")
    assert isinstance(from_pretrained(tmp_path / "two.pt", part="ema", num_heads=2), ImageEncoder)


def test_what_stands_beside_the_networks_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "exploded",)

    torch.save(checkpoint(backbone(0), backbone(1)) | {"args": Bomb()}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"its pickle names .*which is not read"):
        from_pretrained(tmp_path / "checkpoint.pth")
    assert not (tmp_path / "exploded").exists()
