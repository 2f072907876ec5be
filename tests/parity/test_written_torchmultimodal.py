"""What is written for TorchMultimodal: its builders take it, strictly, it computes the same and comes back tensor by tensor."""

# ruff: noqa: F811 (fixtures of the neighbour)
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from agree import assert_close, assert_same_losses, inputs, step
from test_torchmultimodal import HEADS, Given, losses, pair_losses, saved, theirs, tmm  # noqa: F401
from tiny import IMAGE_SIZE, NUM_CODES, PATCH_SIZE, VOCAB_SIZE, stirred
from torch import nn
from torchmultimodal.modules.losses.flava import FLAVAPretrainingLoss

from torchflava.codebooks import DalleCodebook
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.files import load_tensors
from torchflava.models import (
    Flava,
    FlavaForClassification,
    FlavaForPreTraining,
    Written,
    flava_for_classification,
    flava_for_pretraining,
    flava_model,
    from_pretrained,
    load_pretrained,
    to_torchmultimodal,
)

SIZES = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "vocab_size": VOCAB_SIZE}


def trained() -> FlavaForPreTraining:
    """Our own, whose fusion encoder sees padding, as TorchMultimodal's does."""
    model = stirred(flava_for_pretraining(flava_model("tiny", **SIZES), num_codes=NUM_CODES)).eval()
    model.flava.fusion_encoder.attend_to_padding = True
    return model


def loaded(written: Written) -> nn.Module:
    """What the lines of the report make; `load_state_dict` is strict."""
    import safetensors.torch

    named = {"torch": torch, "safetensors": safetensors, "FLAVAPretrainingLoss": FLAVAPretrainingLoss}
    names = {name: getattr(tmm, name) for name in dir(tmm)} | named
    exec(written.load, names)
    return names["model"].eval()


def same_after(model: nn.Module, file: Path, **options: Any) -> bool:
    back = from_pretrained(file, **options)
    return all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())


def test_theirs_to_ours_and_back(theirs: nn.Module, saved: Path, tmp_path: Path) -> None:
    written = to_torchmultimodal(from_pretrained(saved, num_heads=HEADS), tmp_path / "back.pt")
    before, after = load_tensors(saved), load_tensors(tmp_path / "back.pt")
    assert after.keys() == before.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} <= written.made.keys()
    assert written.made.keys() == {name for name in before if ".pooler." in name and "itm" not in name}
    assert not written.differs
    model, given = loaded(written), inputs(padded=True, mismatched=True)
    model.image_codebook = Given()
    expected, found = pair_losses(theirs, given), pair_losses(model, given)
    assert all(torch.equal(expected[name], found[name]) for name in expected if expected[name] is not None)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_ours_to_theirs_with_all_losses(suffix: str, tmp_path: Path) -> None:
    ours, given = trained(), inputs(padded=True, mismatched=True)
    written = to_torchmultimodal(ours, tmp_path / f"flava{suffix}")
    assert not written.differs
    model = loaded(written)
    model.image_codebook = Given()
    assert_same_losses(step(ours, given.pair_batch()), pair_losses(model, given))
    words = given.words.masked_fill(given.words == -100, -1)
    assert_same_losses(
        step(ours, given.text_batch()), losses(model, text=given.ids, text_masked=given.masked_ids, mlm_labels=words)
    )
    assert same_after(ours, tmp_path / f"flava{suffix}", **({"num_heads": 2} if suffix == ".pt" else {}))
    settings = load_pretrained(tmp_path / f"flava{suffix}", num_heads=2).settings
    assert settings.attend_to_padding == (False, True)


@torch.no_grad()
def test_the_encoders_alone(tmp_path: Path) -> None:
    ours = trained().flava
    written = to_torchmultimodal(ours, tmp_path / "flava.pt")
    assert written.layout == "TorchMultimodal's flava_model"
    assert len(written.made) == 6
    model, given = loaded(written), inputs(padded=True)
    out = model(image=given.pixels, text=given.ids, skip_unmasked_mm_encoder=False)
    expected = ours(given.pixels, given.ids)
    assert_close(expected.image.normed, out.image.last_hidden_state, "image")
    assert_close(expected.fused.cls, out.multimodal.last_hidden_state[:, 0], "fused")
    assert same_after(ours, tmp_path / "flava.pt", num_heads=2)


@torch.no_grad()
@pytest.mark.parametrize("dropout", [0.3, 0.0])
@pytest.mark.parametrize("plain", [False, True], ids=["our own", "their own"])
@pytest.mark.parametrize("reads", ["pair", *(pytest.param(one, marks=pytest.mark.slow) for one in ("image", "text"))])
def test_classifiers(reads: str, plain: bool, dropout: float, tmp_path: Path) -> None:
    flava = trained().flava
    ours = flava_for_classification(5, flava, reads, hidden=37, dropout=dropout)
    if plain:
        parts = [
            ("dense", nn.Linear(64, 37)),
            ("activation", nn.ReLU()),
            ("dropout", nn.Dropout(dropout)),
            ("decoder", nn.Linear(37, 5)),
        ]
        ours.classifier = nn.Sequential(OrderedDict(parts))
    stirred(ours.classifier)
    ours.eval()
    written = to_torchmultimodal(ours, tmp_path / "flava.pt")
    which = {"pair": "mm"}.get(reads, reads)
    assert f'required_embedding="{which}"' in written.differs["reads"]
    model, given = loaded(written), inputs(padded=True)
    expected = model(image=given.pixels, text=given.ids, required_embedding=which, labels=torch.arange(5)).logits
    images, texts = (None if reads == "text" else given.pixels), (None if reads == "image" else given.ids)
    largest = expected.abs().max()
    assert_close(ours(images, texts) / largest, expected / largest, "logits")
    back = from_pretrained(tmp_path / "flava.pt", num_heads=2)
    assert isinstance(back, FlavaForClassification)
    back.reads = reads
    assert torch.equal(back(images, texts), ours(images, texts))
    assert back.classifier.dropout.p == (0.5 if dropout else 0.0)  # which the file cannot tell


def test_with_the_codebook_and_without_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tmm, "DalleEncoder", partial(tmm.DalleEncoder, n_hid=8, n_blk_per_group=1, vocab_size=NUM_CODES)
    )
    generator = torch.Generator().manual_seed(1)
    shapes = dalle_layout(8, 1, NUM_CODES)
    tensors = {name: 0.1 * torch.randn(s, generator=generator) for name, s in shapes.items()}
    codebook, ours = DalleCodebook(tensors, image_size=24), trained()
    ours.mmm_text = ours.contrastive = None
    written = to_torchmultimodal(ours, tmp_path / "flava.pt", codebook=codebook)
    model = loaded(written)
    heads = {name for name, reason in written.made.items() if "head that was taken out" in reason}
    assert {name.rpartition(".")[0] for name in heads} == {
        "loss.contrastive_loss", *(f"loss.mmm_loss.mlm.cls.{part}" for part in ("dense", "layer_norm", "decoder"))
    }  # fmt: skip
    pixels = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.image_codebook(0.8 * pixels.float() / 255 + 0.1).flatten(1), codebook.encode(pixels))
    assert isinstance(from_pretrained(tmp_path / "flava.pt", num_heads=2).flava, Flava)
    alone = to_torchmultimodal(codebook, tmp_path / "codebook.pt")
    loaded(alone)
    assert same_after(codebook, tmp_path / "codebook.pt")
