"""The dVAE's encoder against OpenAI's own (`dall_e`), transformers' and TorchMultimodal's, at random weights.

The weights come over through files: OpenAI's as the pickled module that `encoder.pkl` is.
"""

import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from torchflava.codebooks import DalleCodebook, DalleDecoder
from torchflava.codebooks.dalle_names import dalle_to_transformers
from torchflava.convert import main
from torchflava.files import load_tensors
from torchflava.models import from_pretrained

SIZE = 32
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


def pixels() -> Tensor:
    """Large and small patches of colour."""
    draws = torch.Generator().manual_seed(1)
    coarse = 30 * torch.randint(0, 7, (3, 3, SIZE // 8, SIZE // 8), generator=draws).repeat_interleave(8, 2)
    return (coarse.repeat_interleave(8, 3) + torch.randint(0, 70, (3, 3, SIZE, SIZE), generator=draws)).to(torch.uint8)


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """Weights of a scale at which every convolution and every bias matters to the logits."""
    draws = torch.Generator().manual_seed(0)
    for name, tensor in module.named_parameters():
        scale = 0.1 if tensor.ndim == 1 else (5 if "res_path" in name else 1) / math.sqrt(tensor[0].numel())
        tensor.copy_(torch.randn(tensor.shape, generator=draws) * scale)
    return module


def assert_agrees(ours: DalleCodebook, logits: Tensor) -> None:
    found = ours(pixels())
    assert found.shape == logits.shape
    assert len(logits.argmax(1).unique()) > 3  # or equal codes would say little
    assert float((found - logits).abs().max() / logits.abs().max()) <= 1e-5
    assert torch.equal(ours.encode(pixels()), logits.argmax(1).flatten(1))


@pytest.fixture(scope="module")
def openai() -> nn.Module:
    """The smallest that its checks allow."""
    dall_e = pytest.importorskip(
        "dall_e", reason="OpenAI's dall_e is not installed: pip install --no-deps dall-e, beside attrs"
    )
    return shaken(dall_e.Encoder(n_hid=64, n_blk_per_group=1, vocab_size=512))


@torch.no_grad()
def openai_logits(openai: nn.Module) -> Tensor:
    import dall_e

    return openai(dall_e.map_pixels(pixels().float() / 255))


@pytest.mark.parametrize("form", FORMS)
def test_openai_s_encoder_pkl(tmp_path: Path, openai: nn.Module, form: str) -> None:
    torch.save(openai, tmp_path / "encoder.pkl", **FORMS[form])
    ours = DalleCodebook.from_file(tmp_path / "encoder.pkl", image_size=SIZE)
    assert ours.num_codes == 512
    assert_agrees(ours, openai_logits(openai))
    found = from_pretrained(tmp_path / "encoder.pkl", image_size=SIZE)
    assert isinstance(found, DalleCodebook)
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in found.state_dict().items())
    main([str(tmp_path / "encoder.pkl"), str(tmp_path / "dvae.safetensors"), "--to", "openai"])
    assert load_tensors(tmp_path / "dvae.safetensors").keys() == dict(openai.named_parameters()).keys()


@pytest.mark.parametrize("form", FORMS)
def test_openai_s_decoder_pkl(tmp_path: Path, form: str) -> None:
    """It draws the codes as their own notebook does: a sigmoid over the first three of six channels."""
    dall_e = pytest.importorskip(
        "dall_e", reason="OpenAI's dall_e is not installed: pip install --no-deps dall-e, beside attrs"
    )
    theirs = shaken(dall_e.Decoder(n_hid=64, n_blk_per_group=1, vocab_size=512))
    torch.save(theirs, tmp_path / "decoder.pkl", **FORMS[form])
    codes = torch.randint(0, 512, (2, 3, 4), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        said = theirs(nn.functional.one_hot(codes, 512).permute(0, 3, 1, 2).float())
    due = dall_e.unmap_pixels(torch.sigmoid(said[:, :3]))
    drawn = DalleDecoder.from_file(tmp_path / "decoder.pkl")(codes)
    assert float(due.std()) > 0.05  # or equal grey would say little
    torch.testing.assert_close(drawn, due, rtol=0, atol=1e-5)


def test_openai_s_encoder_pkl_is_read_without_dall_e(
    tmp_path: Path, openai: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(openai, tmp_path / "encoder.pkl")
    for name in [name for name in sys.modules if name.split(".")[0] == "dall_e"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        torch.load(tmp_path / "encoder.pkl", weights_only=False)
    assert DalleCodebook.from_file(tmp_path / "encoder.pkl").num_codes == 512


def test_openai_s_state_dict_and_back(tmp_path: Path, openai: nn.Module) -> None:
    save_file(openai.state_dict(), tmp_path / "openai.safetensors")
    ours = DalleCodebook.from_file(tmp_path / "openai.safetensors", image_size=SIZE)
    assert_agrees(ours, openai_logits(openai))
    openai.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("blocks", [1, 2])
def test_transformers(tmp_path: Path, blocks: int) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")
    config = transformers.FlavaImageCodebookConfig(hidden_size=16, vocab_size=41, num_blocks_per_group=blocks)
    theirs = shaken(transformers.FlavaImageCodebook(config)).eval()
    theirs.save_pretrained(tmp_path)
    ours = DalleCodebook.from_file(tmp_path, image_size=SIZE)
    mapped = 0.8 * (pixels().float() / 255) + 0.1
    assert_agrees(ours, theirs.blocks(mapped).detach())
    assert torch.equal(ours.encode(pixels()), theirs.get_codebook_indices(mapped).flatten(1))
    theirs.load_state_dict(dalle_to_transformers(ours.state_dict()))


def test_torchmultimodal(tmp_path: Path) -> None:
    flava = pytest.importorskip(
        "torchmultimodal.models.flava.model",
        reason="TorchMultimodal is not installed: pip install --no-deps torchmultimodal-nightly, beside iopath",
    )
    theirs = shaken(flava.DalleEncoder(n_hid=16, vocab_size=41))
    whole = {f"image_codebook.encoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    save_file(whole | {"model.logit_scale": torch.ones(1)}, tmp_path / "flava.safetensors")
    ours = DalleCodebook.from_file(tmp_path / "flava.safetensors", image_size=SIZE)
    assert_agrees(ours, theirs(0.8 * (pixels().float() / 255) + 0.1).detach())
