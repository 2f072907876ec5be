"""CLIP's weights from and to open_clip and transformers: tensor by tensor, with equal outputs, at random weights."""

import shutil
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch
from agree import CLOSE, assert_close
from tiny import EMBED_DIM, IMAGE_SIZE, MAX_LENGTH, PATCH_SIZE, VOCAB_SIZE, clip, pixels, stirred
from torch import Tensor, nn

from torchflava.models import (
    Clip,
    FlavaForPreTraining,
    clip_for_pretraining,
    clip_to_open_clip,
    clip_to_transformers,
    from_pretrained,
    load_pretrained,
)
from torchflava.transforms import BytePair

pytestmark = pytest.mark.slow

END = VOCAB_SIZE - 1


@pytest.fixture(scope="module")
def open_clip() -> ModuleType:
    """Imported here, for it takes seconds."""
    return pytest.importorskip("open_clip", reason="open_clip is not installed: pip install '.[test]'")


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")


def texts(end: int = END) -> Tensor:
    """(B, T) ids of texts that end with `end` and are filled up with zeros, which stand within texts too."""
    ids = torch.randint(0, END, (5, MAX_LENGTH), generator=torch.Generator().manual_seed(4))
    ids = ids.masked_fill(ids == end, 1)
    for row, length in enumerate((MAX_LENGTH, 7, 2, 11, 5)):
        ids[row, length - 1] = end
        ids[row, length:] = 0
    return ids


def images() -> Tensor:
    return pixels(3, torch.Generator().manual_seed(3))


def of_open_clip(open_clip: ModuleType, quick_gelu: bool) -> nn.Module:
    image = {"image_size": IMAGE_SIZE, "layers": 2, "width": 22, "patch_size": PATCH_SIZE, "head_width": 11}
    text = {"context_length": MAX_LENGTH, "vocab_size": VOCAB_SIZE, "width": 26, "heads": 2, "layers": 3}
    return stirred(open_clip.model.CLIP(EMBED_DIM, image, text, quick_gelu=quick_gelu)).eval()


def of_transformers(transformers: ModuleType, act: str = "quick_gelu", eos: int = END, scale: float = 1.3) -> nn.Module:
    image = {"image_size": IMAGE_SIZE, "num_hidden_layers": 2, "hidden_size": 22, "patch_size": PATCH_SIZE,
             "intermediate_size": 23, "num_attention_heads": 2, "hidden_act": act}  # fmt: skip
    text = {"max_position_embeddings": MAX_LENGTH, "vocab_size": VOCAB_SIZE, "hidden_size": 26, "num_hidden_layers": 3,
            "intermediate_size": 29, "num_attention_heads": 2, "hidden_act": act, "eos_token_id": eos, "bos_token_id": 1,
            "pad_token_id": 0}  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=EMBED_DIM)
    model = stirred(transformers.CLIPModel(config)).eval()
    model.logit_scale.data.fill_(scale)
    return model


@torch.no_grad()
def same_as_open_clip(ours: FlavaForPreTraining | Clip, theirs: nn.Module, end: int = END) -> None:
    assert_close(ours.embed_image(images()), theirs.encode_image(images(), normalize=True), "the images")
    assert_close(ours.embed_text(texts(end)), theirs.encode_text(texts(end), normalize=True), "the texts")


@torch.no_grad()
def same_as_transformers(ours: FlavaForPreTraining, theirs: nn.Module, end: int = END) -> None:
    out = theirs(input_ids=texts(end), pixel_values=images())
    assert_close(ours.embed_image(images()), out.image_embeds, "the images")
    assert_close(ours.embed_text(texts(end)), out.text_embeds, "the texts")
    products = ours.embed_text(texts(end)) @ ours.embed_image(images()).T * ours.contrastive.log_scale.exp()
    assert (products - out.logits_per_text).abs().max() < 100 * CLOSE


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("quick_gelu", [False, True], ids=["exact", "quick"])
def test_from_open_clip_and_back(open_clip: ModuleType, tmp_path: Path, quick_gelu: bool) -> None:
    theirs = of_open_clip(open_clip, quick_gelu)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "epoch_3.pt"
    )
    ours = from_pretrained(tmp_path / "epoch_3.pt", num_heads=2, quick_gelu=quick_gelu)
    assert isinstance(ours, FlavaForPreTraining)
    same_as_open_clip(ours, theirs)
    clip_to_open_clip(ours, tmp_path / "folder")
    again = open_clip.create_model(f"local-dir:{tmp_path / 'folder'}").eval()
    assert equal(theirs.state_dict(), again.state_dict())
    same_as_open_clip(ours, again)
    with torch.no_grad():
        assert_close(again.encode_image(images()), theirs.encode_image(images()), "before normalising")


def test_a_wordpiece_clip_in_open_clip(open_clip: ModuleType, tmp_path: Path) -> None:
    ours = clip_for_pretraining(clip()).eval()
    clip_to_open_clip(ours, tmp_path, end_id=3)
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    ids = texts(3)
    keep = torch.arange(MAX_LENGTH) <= (ids == 3).int().argmax(1)[:, None]
    with torch.no_grad():
        assert_close(ours.embed_text(ids, keep), theirs.encode_text(ids, normalize=True), "the texts")
    (tmp_path / "bare").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "bare" / "open_clip_pytorch_model.bin")
    shutil.copy(tmp_path / "open_clip_config.json", tmp_path / "bare")
    same_as_open_clip(from_pretrained(tmp_path / "bare"), theirs, end=3)


def test_open_clip_s_other_text_tower(open_clip: ModuleType, tmp_path: Path) -> None:
    """CustomTextCLIP keeps the same tensors under other names."""
    image = {"image_size": IMAGE_SIZE, "layers": 2, "width": 22, "patch_size": PATCH_SIZE, "head_width": 11}
    text = {"context_length": MAX_LENGTH, "vocab_size": VOCAB_SIZE, "width": 26, "heads": 2, "layers": 3}
    theirs = stirred(open_clip.model.CustomTextCLIP(EMBED_DIM, image, text)).eval()
    torch.save(theirs.state_dict(), tmp_path / "custom.pt")
    same_as_open_clip(from_pretrained(tmp_path / "custom.pt", num_heads=2), theirs)


@pytest.mark.parametrize(("act", "eos"), [("quick_gelu", END), ("gelu", 7), ("quick_gelu", 2)])
def test_from_transformers_and_back(transformers: ModuleType, tmp_path: Path, act: str, eos: int) -> None:
    end = END if eos == 2 else eos
    theirs = of_transformers(transformers, act, eos)
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_pretrained(tmp_path / "theirs")
    assert loaded.settings.quick_gelu == (act == "quick_gelu")
    assert not loaded.unused
    same_as_transformers(loaded.model, theirs, end)
    clip_to_transformers(loaded.model, tmp_path / "back")
    again, told = transformers.CLIPModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(told.values()), told
    assert equal(theirs.state_dict(), again.state_dict())
    same_as_transformers(loaded.model, again.eval(), end)


@pytest.mark.parametrize("quick_gelu", [False, True], ids=["exact", "quick"])
def test_from_open_clip_to_transformers(
    open_clip: ModuleType, transformers: ModuleType, tmp_path: Path, quick_gelu: bool
) -> None:
    theirs = of_open_clip(open_clip, quick_gelu)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    ours = from_pretrained(tmp_path / "weights.pt", num_heads=2, quick_gelu=quick_gelu)
    clip_to_transformers(ours, tmp_path / "directory")
    same_as_transformers(ours, transformers.CLIPModel.from_pretrained(tmp_path / "directory").eval())


def test_the_processor_reads_what_is_written(transformers: ModuleType, tmp_path: Path) -> None:
    from PIL import Image

    from torchflava.transforms import EvalView, normalise

    tokenizer = BytePair.train(["a red ball", "a blue box"] * 9, 540)
    ours = clip_for_pretraining(clip(vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id)).eval()
    clip_to_transformers(ours, tmp_path, tokenizer=tokenizer)
    theirs, processor = (
        transformers.CLIPModel.from_pretrained(tmp_path),
        transformers.CLIPProcessor.from_pretrained(tmp_path),
    )
    picture = Image.effect_mandelbrot((IMAGE_SIZE, IMAGE_SIZE), (-2, -1, 1, 1), 20).convert("RGB")
    captions = ["A red ball!", "two boxes!?", "", "! a"]
    read = processor(text=captions, images=picture, return_tensors="pt", padding="max_length", max_length=MAX_LENGTH)
    with torch.no_grad():
        out = theirs(**read)
    view = EvalView(IMAGE_SIZE)(
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*[IMAGE_SIZE] * 2, 3).permute(2, 0, 1)
    )
    assert_close(ours.embed_image(normalise(view)[None]), out.image_embeds, "the image")
    for caption, due in zip(captions, out.text_embeds, strict=True):
        ids = torch.tensor([tokenizer.encode(caption, MAX_LENGTH).ids])
        assert_close(ours.embed_text(ids)[0], due, caption)


def test_a_real_torchscript_archive_is_refused_and_the_way_out_works(open_clip: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs, path = of_open_clip(open_clip, True), tmp_path / "ViT-tiny.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(theirs), path)
        with pytest.raises(ValueError, match="TorchScript archive"):
            from_pretrained(path)
        tensors = torch.jit.load(path, map_location="cpu").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "ViT-tiny.safetensors")
    same_as_open_clip(from_pretrained(tmp_path / "ViT-tiny.safetensors", num_heads=2, quick_gelu=True), theirs)
