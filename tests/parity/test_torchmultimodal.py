"""Against TorchMultimodal's FLAVA (`torchmultimodal-nightly`), at random weights that come over through its state dict."""

from functools import partial
from pathlib import Path

import pytest
import torch
from agree import Inputs, assert_close, assert_same_gradients, assert_same_losses, inputs, step
from safetensors.torch import save_file
from tiny import EMBED_DIM, IMAGE_SIZE, MAX_LENGTH, NUM_CODES, PATCH_SIZE, VOCAB_SIZE, stirred
from torch import Tensor, nn

from torchflava.batch import IGNORE
from torchflava.models import Flava, FlavaForClassification, from_pretrained, load_pretrained
from torchflava.models.layouts_torchmultimodal import CLASSIFICATION, PRETRAINING

tmm = pytest.importorskip(
    "torchmultimodal.models.flava.model",
    reason="TorchMultimodal is not installed: pip install --no-deps torchmultimodal-nightly, beside iopath",
)
from torchmultimodal.modules.losses.flava import FLAVAPretrainingLoss  # noqa: E402

WORDS = "flava.text_encoder.embed.words.weight"
HEADS = (2, 3, 4)
SIZES = {
    "image_hidden_size": 24,
    "image_num_attention_heads": 2,
    "image_num_hidden_layers": 2,
    "image_intermediate_size": 23,
    "image_size": IMAGE_SIZE,
    "patch_size": PATCH_SIZE,
    "text_hidden_size": 24,
    "text_num_attention_heads": 3,
    "text_num_hidden_layers": 3,
    "text_intermediate_size": 29,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": MAX_LENGTH,
    "multimodal_hidden_size": 24,
    "multimodal_num_attention_heads": 4,
    "multimodal_num_hidden_layers": 1,
    "multimodal_intermediate_size": 31,
    "text_and_image_proj_size": EMBED_DIM,
}


class Given(nn.Module):
    """A codebook that is handed the codes themselves."""

    def forward(self, codes: Tensor) -> Tensor:
        return codes.clone()


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """Built from its parts, for its builder has room for 30,522 words and 8,192 codes only."""
    torch.manual_seed(2)
    loss = FLAVAPretrainingLoss(hidden_size=24, text_vocab_size=VOCAB_SIZE, image_vocab_size=NUM_CODES)
    return stirred(tmm.FLAVAForPreTraining(tmm.flava_model(**SIZES), Given(), loss)).eval()


@pytest.fixture(scope="module")
def saved(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("torchmultimodal") / "flava.pt"
    torch.save(theirs.state_dict(), file)
    return file


def losses(model: nn.Module, **given: Tensor | None) -> dict[str, Tensor | None]:
    """Its losses by our names, after the backward pass of their sum."""
    model.zero_grad()
    found = model(**given).losses
    torch.stack([loss for loss in found.values() if loss is not None]).sum().backward()
    return {name.removesuffix("_loss").removeprefix("global_"): loss for name, loss in found.items()}


def pair_losses(model: nn.Module, given: Inputs) -> dict[str, Tensor | None]:
    return losses(
        model,
        image=given.pixels,
        text=given.ids,
        image_for_codebook=given.codes,
        image_patches_mask=given.masked,
        text_masked=given.masked_ids,
        itm_labels=given.itm,
        mlm_labels=given.words.where(given.words != IGNORE, -1),
    )


@pytest.mark.parametrize("mismatched", [False, True], ids=["matched", "mismatched"])
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
def test_the_four_losses_of_a_pair_and_their_gradients(
    theirs: nn.Module, saved: Path, padded: bool, mismatched: bool
) -> None:
    ours = from_pretrained(saved, num_heads=HEADS)
    given = inputs(padded=padded, mismatched=mismatched)
    assert_same_losses(step(ours, given.pair_batch()), pair_losses(theirs, given))
    # Its word embedding never learns the padding's row (`padding_idx`); ours does where the fusion encoder sees padding.
    alive = assert_same_gradients(ours, theirs, PRETRAINING, frozen=(WORDS, 0) if padded else None)
    unimodal = {name for name, _ in ours.named_parameters() if name.startswith(("mim.", "mlm."))}
    assert alive | unimodal == {name for name, _ in ours.named_parameters()}


def test_masked_image_modelling_and_its_gradients(theirs: nn.Module, saved: Path) -> None:
    ours, given = from_pretrained(saved, num_heads=HEADS), inputs()
    expected = losses(theirs, image=given.pixels, image_for_codebook=given.codes, image_patches_mask=given.masked)
    assert_same_losses(step(ours, given.image_batch()), expected)
    alive = assert_same_gradients(ours, theirs, PRETRAINING)
    assert alive == {name for name, _ in ours.named_parameters() if name.startswith(("mim.", "flava.image_encoder."))}


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
def test_masked_language_modelling_and_its_gradients(theirs: nn.Module, saved: Path, padded: bool) -> None:
    ours, given = from_pretrained(saved, num_heads=HEADS), inputs(padded=padded)
    expected = losses(
        theirs,
        text_masked=given.masked_ids,
        mlm_labels=given.words.where(given.words != IGNORE, -1),
        required_embedding="text",
    )
    assert_same_losses(step(ours, given.text_batch()), expected)
    alive = assert_same_gradients(ours, theirs, PRETRAINING)
    assert alive == {name for name, _ in ours.named_parameters() if name.startswith(("mlm.", "flava.text_encoder."))}


@torch.no_grad()
def test_flava_model_and_its_states(theirs: nn.Module, tmp_path: Path) -> None:
    save_file(
        {name: tensor.contiguous() for name, tensor in theirs.model.state_dict().items()}, tmp_path / "f.safetensors"
    )
    loaded = load_pretrained(tmp_path / "f.safetensors", num_heads=HEADS)
    assert isinstance(loaded.model, Flava)
    assert loaded.layout == "TorchMultimodal's flava_model"
    given = inputs(padded=True)
    out = theirs.model(given.pixels, given.ids, skip_unmasked_mm_encoder=False)
    seen = loaded.model(given.pixels, given.ids)
    for name, states, other in (("image", seen.image, out.image), ("text", seen.text, out.text)):
        assert_close(states.hidden, other.hidden_states[-1], f"{name} states")
        assert_close(states.normed, other.last_hidden_state, f"{name} states, normed")
    fused = torch.cat([seen.fused.cls[:, None], seen.fused.image, seen.fused.text], dim=1)
    assert_close(fused, out.multimodal.last_hidden_state, "fused states")
    length = out.projected_text_embeddings.norm(dim=-1, keepdim=True)
    assert_close(loaded.model.embed_text(given.ids), out.projected_text_embeddings / length, "text embedding")


def test_the_builder_for_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its codebook, which would be downloaded, left at random weights and made small."""
    monkeypatch.setattr(tmm.DalleVAEEncoder, "load_model", lambda self: self.state_dict())
    monkeypatch.setattr(tmm, "DalleEncoder", partial(tmm.DalleEncoder, n_hid=4))
    theirs = tmm.flava_model_for_pretraining(**SIZES)
    torch.save(theirs.state_dict(), tmp_path / "flava.pt")
    ours, layout, settings, unused, _ = load_pretrained(tmp_path / "flava.pt", num_heads=HEADS)
    assert layout == "TorchMultimodal's flava_model_for_pretraining"
    assert settings.attend_to_padding == (False, True)
    assert settings.head_eps == (1e-5, 1e-5)
    assert (ours.mim.num_codes, ours.mlm.num_codes) == (8192, 30522)
    towers = ("image_encoder", "text_encoder", "mm_encoder")
    expected = {f"model.{tower}.pooler.dense.{kind}" for tower in towers for kind in ("weight", "bias")}
    heads = ("mlm_loss", "mim_loss", "mmm_loss.mlm", "mmm_loss.mim")
    expected |= {f"loss.{head}.cls.bias" for head in heads}
    assert unused.keys() == expected | {name for name in theirs.state_dict() if name.startswith("image_codebook.")}


@torch.no_grad()
@pytest.mark.parametrize("dropout", [0.5, 0.0])
@pytest.mark.parametrize("reads", ["pair", "image", "text"])
def test_the_builder_for_classification(tmp_path: Path, reads: str, dropout: float) -> None:
    classifier = {"classifier_in_dim": 24, "classifier_hidden_sizes": 37, "classifier_dropout": dropout}
    theirs = stirred(tmm.flava_model_for_classification(7, pretrained=False, **classifier, **SIZES)).eval()
    torch.save(theirs.state_dict(), tmp_path / "flava.pt")
    ours, _, settings, _, _ = load_pretrained(tmp_path / "flava.pt", num_heads=HEADS)
    assert isinstance(ours, FlavaForClassification)
    assert settings.dropout == dropout
    ours.reads = reads
    given, labels = inputs(padded=True), torch.arange(5)
    which = {"pair": "mm"}.get(reads, reads)
    expected = theirs(image=given.pixels, text=given.ids, required_embedding=which, labels=labels).logits
    images, texts = (None if reads == "text" else given.pixels), (None if reads == "image" else given.ids)
    assert_close(ours(images, texts), expected, "logits")


def test_the_gradients_of_classification(tmp_path: Path) -> None:
    theirs = stirred(tmm.flava_model_for_classification(7, 24, 37, pretrained=False, **SIZES)).eval()
    torch.save(theirs.state_dict(), tmp_path / "flava.pt")
    ours = from_pretrained(tmp_path / "flava.pt", num_heads=HEADS)
    given, labels = inputs(), torch.arange(5)
    theirs(image=given.pixels, text=given.ids, labels=labels).loss.backward()
    nn.functional.cross_entropy(ours(given.pixels, given.ids), labels).backward()
    alive = assert_same_gradients(ours, theirs, CLASSIFICATION)
    idle = {"flava.image_projection", "flava.text_projection", "flava.image_encoder.norm", "flava.text_encoder.norm"}
    idle = {f"{name}.{kind}" for name in idle for kind in ("weight", "bias")} | {"flava.image_encoder.embed.mask_token"}
    assert alive | idle == {name for name, _ in ours.named_parameters()}


def test_older_names_and_names_with_dropout(theirs: nn.Module, saved: Path, tmp_path: Path) -> None:
    renamed = {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace(".attention.", ".attention.attention.").replace(
            "feedforward.model.2.", "feedforward.model.3."
        )
        renamed[name] = tensor
    torch.save(renamed, tmp_path / "old.pt")
    whole = from_pretrained(saved, num_heads=HEADS).state_dict()
    for name, tensor in from_pretrained(tmp_path / "old.pt", num_heads=HEADS).state_dict().items():
        assert torch.equal(tensor, whole[name])
