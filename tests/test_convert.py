"""The command line that converts weights: what it prints, what it writes, what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import NUM_CODES, VOCAB_SIZE, clip_pretraining, image_encoder, one_width

from torchflava.codebooks import DalleCodebook
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.convert import main
from torchflava.files import load_tensors
from torchflava.models import FlavaForClassification, flava_for_classification, from_pretrained, save_pretrained
from torchflava.transforms import WordPiece


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights, a vocabulary, and a dVAE beside it; the place to stand in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    save_pretrained(one_width(), tmp_path / "run")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(VOCAB_SIZE - 5))]
    WordPiece.from_tokens(tokens).save(tmp_path / "run" / "vocab.txt")
    generator = torch.Generator().manual_seed(1)
    shapes = dalle_layout(8, 1, NUM_CODES)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    DalleCodebook(tensors, image_size=24).save(tmp_path / "dvae.safetensors")
    return tmp_path


def refused(*words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return str(caught.value)


def same(first: Path, second: Path) -> bool:
    ours, others = (from_pretrained(file, num_heads=2).state_dict() for file in (first, second))
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def test_there_through_everyone_and_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours to transformers to TorchMultimodal to ours: the same tensors, the codebook and the vocabulary with them."""
    main(["run", "hf", "--to", "transformers", "--codebook", "dvae.safetensors"])
    told = capsys.readouterr().out
    for line in (
        "run is torchflava's FlavaForPreTraining",
        "written as transformers' FlavaForPreTraining:",
        "flava.image_model.pooler.dense.bias and 5 more: an encoder's pooler",
        "what the other library cannot be told:",
        "model.mim_head.transform.LayerNorm.eps",
        "transformers.FlavaForPreTraining.from_pretrained('hf')",
    ):
        assert line in told, line
    files = {"model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in (run / "hf").iterdir()} == files
    main(["hf", "tmm", "--to", "torchmultimodal"])
    assert any(name.startswith("image_codebook.encoder.") for name in load_tensors(run / "tmm/model.pt"))
    assert "left out of the source" in capsys.readouterr().out
    main(["tmm/model.pt", "back", "--to", "torchflava", "--num-heads", "2"])
    assert same(run / "run", run / "back")
    codes = [
        DalleCodebook.from_file(run / name).state_dict() for name in ("dvae.safetensors", "back/codebook.safetensors")
    ]
    assert all(torch.equal(codes[0][name], codes[1][name]) for name in codes[0])
    assert DalleCodebook.from_file(run / "back/codebook.safetensors").image_size == 24, "a code for each patch"
    main(["hf", "own", "--to", "torchflava", "--codebook", "none"])
    assert {file.name for file in (run / "own").iterdir()} == {"model.safetensors", "tokenizer.json"}
    (run / "tokenizer.json").write_text("mine")
    main(["hf", "lone.safetensors", "--to", "torchflava"])
    assert (run / "tokenizer.json").read_text() == "mine", "beside a file, nothing is written"
    assert not (run / "codebook.safetensors").exists()
    assert WordPiece.from_file(run / "own").tokens == WordPiece.from_file(run / "run").tokens


def test_clip_there_and_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its own names, transformers' and open_clip's; the vocabulary says which id ends a text."""
    assert "--to open_clip is for CLIP" in refused("run", "out", "--to", "open_clip")
    save_pretrained(clip_pretraining(), run / "run")
    for library in ("transformers", "open_clip"):
        main(["run", library, "--to", library])
        assert "written as" in capsys.readouterr().out
        main([library, f"{library}-back", "--to", "torchflava"])
        assert same(run / "run", run / f"{library}-back")
    assert "this is CLIP, which has no place in TorchMultimodal's FLAVA" in refused(
        "run", "out", "--to", "torchmultimodal"
    )
    (run / "run/vocab.txt").unlink()
    assert "finds a text's end by its padding" in refused("run", "out", "--to", "open_clip")


@pytest.mark.slow
def test_a_codebook_a_classifier_and_an_encoder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["dvae.safetensors", "hf"])
    main(["hf", "tmm.pt", "--to", "torchmultimodal"])
    main(["tmm.pt", "encoder.safetensors", "--to", "openai"])
    tensors = [load_tensors(run / name) for name in ("dvae.safetensors", "encoder.safetensors")]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    save_pretrained(flava_for_classification(3, one_width().flava, "pair", hidden=7), run / "c.safetensors")
    main(["c.safetensors", "c.pt", "--to", "torchmultimodal"])
    main(["c.pt", "c2.safetensors", "--to", "torchflava", "--num-heads", "2", "2", "2", "--reads", "image"])
    model = from_pretrained(run / "c2.safetensors")
    assert isinstance(model, FlavaForClassification)
    assert model.reads == "image"
    save_pretrained(image_encoder(), run / "i.safetensors")
    main(["i.safetensors", "i2.safetensors", "--to", "torchflava", "--image-size", "25"])
    assert from_pretrained(run / "i2.safetensors").image_size == 25
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gone", "out"), "there is no file or folder gone"),
        (("run", "full"), "full is there and not empty; name another, or say --overwrite"),
        (("run", "full/x"), "full/x is a file's name; transformers loads a folder"),
        (("run", "full/x", "--to", "torchmultimodal"), "full/x is there and not empty"),
        (("run", "out.pt"), "out.pt is a file's name; transformers loads a folder"),
        (
            ("run", "out.pt", "--to", "torchflava"),
            "--to torchflava writes no .pt; name a .safetensors file, or a folder",
        ),
        (("dvae.safetensors", "out.pkl", "--to", "openai"), "--to openai writes no .pkl"),
        (("run", "/dev/full/x", "--to", "torchflava"), "/dev/full"),
        (
            ("run", "out", "--to", "openai"),
            "run is torchflava's FlavaForPreTraining; --to openai is for a dVAE by itself",
        ),
        (("run", "out", "--reads", "text"), "no classifier over a class token; leave --reads out"),
        (("run", "out", "--revision", "main"), "has no revision 'main'"),
        (("run", "out", "--codebook", "run"), "run"),
        (("run", "out", "--image-size", "16"), "image_size 16 is no multiple of patch_size 5"),
        (("run", "out", "--vocab", "other.txt"), "the vocabulary has 5 words, the model knows 41"),
        (("i.safetensors", "out"), "transformers takes a whole FLAVA or a dVAE, --to torchflava writes it as it is"),
        (
            ("run", "out.safetensors", "--to", "torchflava", "--vocab", "other.txt"),
            "--vocab other.txt has no place in --to",
        ),
        (("run", "out", "--to", "torchmultimodal", "--vocab", "other.txt"), "--vocab other.txt has no place in --to"),
        (
            ("run", "out", "--to", "open_clip", "--codebook", "dvae.safetensors"),
            "--codebook dvae.safetensors has no place",
        ),
        (("dvae.safetensors", "out", "--codebook", "dvae.safetensors"), "has no place in a codebook by itself"),
        (("dvae.safetensors", "out", "--num-heads", "2"), "is a codebook, which has no attention"),
    ],
)
def test_what_is_refused(run: Path, words: tuple[str, ...], message: str) -> None:
    (run / "full").mkdir()
    (run / "full/x").write_text("mine")
    (run / "other.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    save_pretrained(image_encoder(), run / "i.safetensors")
    assert message in refused(*words)
    assert not list(run.glob("out*"))
    assert (run / "full/x").read_text() == "mine"


def test_overwriting_when_told(run: Path) -> None:
    (run / "full").mkdir()
    (run / "full/x").write_text("mine")
    main(["run", "full", "--overwrite"])
    assert same(run / "run", run / "full")
    assert (run / "full/x").read_text() == "mine"


def test_a_wrong_flag_names_the_near_ones(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run", "out", "--over-write"], ["run", "out", "--to", "transformer"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "--overwrite" in said
    assert "torchmultimodal" in said


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom torchflava.convert import main\n"
    code += "try:\n    main(['--help'])\nfinally:\n    assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Hugging Face Hub" in done.stdout
