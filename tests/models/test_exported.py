"""Exported models: programs and ONNX beside the model itself, at several batch sizes and lengths, and the command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import (
    EMBED_DIM,
    IMAGE_SIZE,
    MAX_LENGTH,
    VOCAB_SIZE,
    clip,
    clip_pretraining,
    flava,
    pixels,
    pretraining,
    text_encoder,
)
from torch import nn

from torchflava.encoders import beit_image_encoder
from torchflava.export import Export, export, main
from torchflava.models import (
    Clip,
    Flava,
    flava_for_classification,
    save_pretrained,
)
from torchflava.models.exported import Exported, export_part, inputs_for, max_length_of, parts_of, to_onnx
from torchflava.models.exported_files import write_exported
from torchflava.transforms import BytePair, WordPiece

SIZES, LENGTHS = (1, 2, 5), (2, 5, MAX_LENGTH)


def worst(model: nn.Module, part: str, run) -> float:
    """The greatest difference to the model's own outputs, over sizes and lengths; texts padded and not."""
    apart = 0.0
    program = export_part(model, part)
    for size in SIZES:
        for length in LENGTHS:
            given = inputs_for(model, program, size=size, length=length, seed=size)
            if "keep" in given and length > 2:
                assert given["keep"][0].all()
                assert size == 1 or not given["keep"].all()
            found = run(given)
            for name, due in by_hand(model, part, given).items():
                assert found[name].shape == due.shape, name
                apart = max(apart, float((found[name] - due).abs().max() / due.abs().max().clamp(min=1)))
    return apart


@torch.no_grad()
def by_hand(model: nn.Module, part: str, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the parts are of, from the model's own verbs."""
    encoders = model if isinstance(model, Flava | Clip) else model.flava
    if part == "image":
        return {"image_embedding": encoders.embed_image(given["pixels"])}
    if part == "text":
        return {"text_embedding": encoders.embed_text(given["ids"], given["keep"])}
    if part == "classes":
        return {"class_logits": model(**given)}
    both = by_hand(model, "image", given) | by_hand(model, "text", given)
    if isinstance(encoders, Clip):
        return both
    fused = encoders(**given).fused
    found = both | {"fused_cls": fused.cls, "fused_image": fused.image[:, 1:], "fused_text": fused.text}
    return found | ({"match_logits": model.itm(fused.cls)} if getattr(model, "itm", None) else {})


def in_torch(path: Path):
    program = torch.export.load(path).module()
    return lambda given: {name: tensor.detach() for name, tensor in program(*given.values()).items()}


def in_onnxruntime(path: Path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install '.[export]'")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: {
        name: torch.from_numpy(array)
        for name, array in zip(names, session.run(names, {k: v.numpy() for k, v in given.items()}), strict=True)
    }


def beit() -> Flava:
    return flava(image=beit_image_encoder(width=22, depth=2, num_heads=2, hidden=23, image_size=15, patch_size=5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "part"),
    [
        (pretraining, "pair"),
        (lambda: clip(end_id=VOCAB_SIZE - 1), "text"),
        (lambda: flava_for_classification(5, flava(), hidden=7), "classes"),
    ],
    ids=["flava pair", "clip text", "flava classes"],
)
def test_programs_compute_what_the_model_does(make, part: str, tmp_path: Path) -> None:
    model = make().eval()
    (one,) = write_exported(model, tmp_path, [part], format="pt2")
    assert one.worst is not None
    assert one.worst < 1e-4
    assert worst(model, part, in_torch(one.file)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "part"),
    [(pretraining, "pair"), (beit, "image")],
    ids=["flava pair", "beit image"],
)
def test_onnx_computes_what_the_model_does(make, part: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[export]'")
    model = make().eval()
    to_onnx(export_part(model, part)).save(str(tmp_path / "part.onnx"))
    assert worst(model, part, in_onnxruntime(tmp_path / "part.onnx")) < 1e-5


@pytest.mark.slow
def test_the_command_writes_what_is_used_without_torchflava(tmp_path: Path) -> None:
    """A CLIP over BPE, used in a process that cannot import torch, by what export.json says."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[export]'")
    tokenizer = BytePair.train(["a red ball", "two blue boxes"] * 9, 540)
    model = clip_pretraining()
    model.flava = clip(vocab_size=tokenizer.vocab_size, end_id=tokenizer.end_id)
    model.eval()
    (tmp_path / "run").mkdir()
    save_pretrained(model, tmp_path / "run")
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    told = export(Export(str(tmp_path / "run"), tmp_path / "out"))
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {
        "image.onnx",
        "text.onnx",
        "export.json",
        "tokenizer.json",
    }
    assert re.search(r"text\.onnx: text, within .*e-0", told)
    pixels_of = pixels(2, torch.Generator().manual_seed(0))
    np.save(tmp_path / "pixels.npy", pixels_of.numpy())
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text, image = np.load(tmp_path / "text.npy"), np.load(tmp_path / "image.npy")
    with torch.no_grad():
        due = torch.cat(
            [model.embed_text(torch.tensor([tokenizer.encode(t, 99).ids])) for t in ("A red ball", "boxes!")]
        )
        np.testing.assert_allclose(text, due.numpy(), atol=1e-5)
        np.testing.assert_allclose(image, model.embed_image(pixels_of).numpy(), atol=1e-5)
    scale = json.loads((tmp_path / "out" / "export.json").read_text())["logit_scale"]
    assert scale == pytest.approx(float(model.contrastive.log_scale.detach().exp()))


ALONE = """
import json, sys
from pathlib import Path
sys.modules["torch"] = sys.modules["torchflava"] = None
import numpy as np, onnxruntime
from tokenizers import Tokenizer
folder = Path(sys.argv[1])
told = json.loads((folder / "out/export.json").read_text())
tokenizer = Tokenizer.from_file(str(folder / "out" / told["text"]["tokenizer"]))
tokenizer.enable_truncation(told["text"]["max_length"])
tokenizer.enable_padding(pad_id=told["text"]["pad_id"])
read = tokenizer.encode_batch(["A red ball", "boxes!"])
given = {"ids": np.array([t.ids for t in read]), "keep": np.array([t.attention_mask for t in read]) == 1}
for part, inputs in (("text", given), ("image", {"pixels": np.load(folder / "pixels.npy")})):
    session = onnxruntime.InferenceSession(str(folder / "out" / told["parts"][part]["file"]))
    np.save(folder / f"{part}.npy", session.run(told["parts"][part]["outputs"], inputs)[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("make", [flava, lambda **parts: clip(max_length=1, end_id=5)], ids=["flava", "clip"])
def test_a_model_of_single_tokens(make, tmp_path: Path) -> None:
    """Whose length is a constant, which torch does not take for free."""
    model = make(text=text_encoder(max_length=1)).eval()
    (one,) = write_exported(model, tmp_path, ["pair"], format="pt2")
    ids = torch.full((5, 1), 5)
    given = {"pixels": pixels(5, torch.Generator().manual_seed(0)), "ids": ids, "keep": ids > 0}
    found = in_torch(one.file)(given)
    for name, due in by_hand(model, "pair", given).items():
        torch.testing.assert_close(found[name], due)
    told = json.loads((tmp_path / "export.json").read_text())["parts"]["pair"]["inputs"]
    assert [each["shape"] for each in told[1:]] == [["batch", 1]] * 2


def test_the_parts_of_models() -> None:
    assert parts_of(flava()) == parts_of(clip_pretraining()) == ("image", "text", "pair")
    assert parts_of(flava_for_classification(5, flava()))[-1] == "classes"
    assert max_length_of(clip()) == MAX_LENGTH


def test_what_is_said_of_the_files(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(VOCAB_SIZE - 5)]
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    model = flava().train()
    (one,) = write_exported(model, tmp_path / "out", ["image"], format="pt2", tokenizer=tokenizer, check=False)
    assert (one.part, one.worst) == ("image", None)
    assert model.training
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    assert told["parts"] == {
        "image": {
            "file": "image.pt2",
            "inputs": [{"name": "pixels", "shape": ["batch", 3, IMAGE_SIZE, IMAGE_SIZE], "type": "float32"}],
            "outputs": ["image_embedding"],
        }
    }
    assert told["image"]["size"] == IMAGE_SIZE
    assert told["image"]["mean"] == pytest.approx([0.481, 0.458, 0.408], abs=1e-3)
    assert (told["text"], told["logit_scale"], told["model"]) == (None, None, "Flava")
    images = pixels(5, torch.Generator().manual_seed(0))
    found = in_torch(tmp_path / "out" / "image.pt2")({"pixels": images})["image_embedding"]
    assert found.shape == (5, EMBED_DIM)
    torch.testing.assert_close(found, model.embed_image(images).detach())


def test_what_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchflava.models import exported_files

    monkeypatch.setattr(exported_files, "eager", lambda model, part, given: {"image_embedding": torch.full((1,), 9.0)})
    with pytest.raises(ValueError, match="image_embedding of 1 rows and 1 tokens differs by"):
        write_exported(flava(), tmp_path, ["image"], format="pt2")
    assert not list(tmp_path.iterdir()), "a program that is no use is not kept"


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(99))])
    with pytest.raises(ValueError, match="a Flava has no classifier; its parts are image, text, pair"):
        export_part(flava(), "classes")
    with pytest.raises(ValueError, match="no part is called 'fusion'"):
        export_part(flava(), "fusion")
    with pytest.raises(ValueError, match="tokens, the model knows"):
        write_exported(flava(), tmp_path, ["text"], tokenizer=tokenizer)
    with pytest.raises(ValueError, match="format is 'tflite'"):
        write_exported(flava(), tmp_path, ["text"], format="tflite")
    without = flava()
    without.text_encoder = nn.Identity()
    with pytest.raises(ValueError, match=r"Identity has no `max_length`"):
        max_length_of(without)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["NOWHERE", "OUT"], "there is no file or folder"),
        (["MODEL", "FULL"], "is there and not empty; name another, or say --overwrite"),
        (["IMAGE", "OUT"], "a whole model is due"),
        (["MODEL", "OUT", "--parts", "classes"], "has no classifier"),
        (["MODEL", "OUT", "--revision", "v1"], "is on this disk and has no revision 'v1'; leave it out"),
        (["MODEL", "OUT", "--vocab", "FULL/nothing.txt"], "there is no such file"),
    ],
)
def test_the_command_says_what_cannot_be(words: list[str], said: str, tmp_path: Path) -> None:
    save_pretrained(flava(), tmp_path / "flava.safetensors")
    save_pretrained(flava().image_encoder, tmp_path / "image.safetensors")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = {
        "MODEL": "flava.safetensors",
        "IMAGE": "image.safetensors",
        "OUT": "out",
        "FULL": "full",
        "NOWHERE": "none.pt",
    }
    given = [re.sub("|".join(places), lambda found: str(tmp_path / places[found[0]]), word) for word in words]
    with pytest.raises(SystemExit) as end:
        main(given)
    assert said in str(end.value)
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'torchflava\[export\]'"):
        to_onnx(Exported("image", None, ("pixels",), ("image_embedding",)))
