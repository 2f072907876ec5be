"""CLIP through the recipe: its presets, what does not go with it, and a run that is read back."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import pretrain
from corpora import open_corpus
from presets import parse
from start import build

from torchflava.models import Clip, FlavaForPreTraining, clip_model, load_pretrained
from torchflava.training import TIMED
from torchflava.transforms import load_tokenizer

ALONE = "--weights.mim 0 --weights.mlm 0 --weights.mmm-image 0 --weights.mmm-text 0 --weights.itm 0"
PAIRS = "--shares.pair 1 --shares.image 0 --shares.text 0"
TWIN = ["--preset", "clip", "--twin", "--steps", "4", "--warmup-steps", "1", "--batch-size", "12"]


def trained(folder: Path, *words: str) -> tuple[Path, list[dict[str, float]]]:
    """The folder of a run, and what it logged."""
    pretrain.main([*TWIN, *words, "--folder", str(folder)])
    (run,) = folder.iterdir()
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return run, [{k: v for k, v in record.items() if k not in TIMED} for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """A run of the twin, measured at its end."""
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
def test_the_twin_trains_and_measures_what_clip_can(whole: tuple[Path, list[dict[str, float]]]) -> None:
    folder, log = whole
    readings = json.loads((folder / "result.json").read_text())["readings"].keys()
    assert {"zero-shot, all 64", "image to text R@1", "text to image R@5", "contrastive loss"} <= readings
    assert not any("AUROC" in name or "colour," in name or "codes" in name for name in readings)
    assert not (folder / "codebook.safetensors").exists()
    assert [record["step"] for record in log if "pair/contrastive" in record] == [1, 2, 3, 4]


def test_the_run_is_read_back(whole: tuple[Path, list[dict[str, float]]]) -> None:
    loaded = load_pretrained(whole[0])
    model = loaded.model
    assert isinstance(model, FlavaForPreTraining)
    assert isinstance(model.flava, Clip)
    assert (loaded.settings.num_heads, model.flava.image_encoder.image_size) == ((2, 2), 32)
    assert model.flava.text_encoder.max_length == 32
    tokenizer = load_tokenizer(whole[0])
    texts = [torch.tensor([tokenizer.encode(text, 32).ids]) for text in ("a red circle", "a blue circle")]
    found = torch.cat([model.embed_text(ids) for ids in texts])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_parts_of_a_batch_train_the_same(
    whole: tuple[Path, list[dict[str, float]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import measure_scenes
    import report

    monkeypatch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
    monkeypatch.setattr(report, "report", lambda *parts: None)
    _, log = trained(tmp_path, "--micro-batch", "5", "--recompute", "selective")
    for mine, other in zip(log[:4], whole[1][:4], strict=True):
        assert mine == pytest.approx(other, rel=1e-3, abs=2e-3)


def test_the_presets_are_flava_c_with_one_thing_changed_each() -> None:
    rows = {name: parse(["--preset", name, "--twin"]) for name in ("flava_c", "clip", "clip_flava_arch")}
    assert rows["clip"].architecture == "clip"
    assert {name for name, value in vars(rows["clip"]).items() if value != getattr(rows["flava_c"], name)} == {
        "preset", "architecture", "tokenizer", "vocab_size",
    }  # fmt: skip
    for name, kind in (("clip", Clip), ("clip_flava_arch", type(build(rows["flava_c"], 61, 32).flava))):
        model = build(rows[name], 61, 32)
        assert type(model.flava) is kind
        assert model.contrastive is not None
        assert (model.mim, model.mlm, model.mmm_image, model.mmm_text, model.itm) == (None,) * 5


def test_the_paper_s_size_through_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    from paper import clip

    with torch.device("meta"):
        built, due = build(clip(), 49408, 8192).flava, clip_model(vocab_size=49408)
    assert {n: p.shape for n, p in built.named_parameters()} == {n: p.shape for n, p in due.named_parameters()}


def test_a_run_whose_losses_ask_for_no_codes_fits_no_codebook() -> None:
    assert open_corpus(parse(["--preset", "flava_c", "--twin"])).codebook is None
    assert open_corpus(parse(["--preset", "flava_mm", "--twin"])).codebook is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{PAIRS} --weights.mlm 0 --weights.mim 0", "--architecture clip learns by the contrastive loss alone; set "
         "--weights.mmm-image to 0"),
        (ALONE, "--shares.image is 0.15, but mim have weight 0; set the share to 0 too"),
        (f"{ALONE} {PAIRS} --weights.contrastive 0", "every loss has weight 0; there is nothing to train"),
        (f"{ALONE} {PAIRS} --image-encoder beit", "--image-encoder beit is for FLAVA; CLIP's is a ViT of its own"),
        (f"{ALONE} {PAIRS} --codebook README.md", "--codebook README.md is for losses over codes, and mim and mmm_image"),
        (f"{ALONE} {PAIRS} --corpus own --pairs a --codes cached", "--codes cached is for losses over codes"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_clip_is_refused(words: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit) as end:
        parse(["--preset", "tiny", "--architecture", "clip", *words.split()])
    assert said in str(end.value)


def test_sizes_that_clip_has_not_are_refused() -> None:
    with pytest.raises(SystemExit, match="no CLIP is of size '900m'; there are tiny, mini, small, medium, base"):
        build(parse(["--preset", "clip", "--twin", "--model", "900m"]), 61, 32)


def test_flavas_weights_do_not_begin_a_clip(whole: tuple[Path, list[dict[str, float]]], tmp_path: Path) -> None:
    """A run's own do; those of another model are an error that names the tensors."""
    from start import first_of

    config = parse([*TWIN, "--init-image", str(whole[0]), "--init-text", str(whole[0])])
    vocab_size = load_tokenizer(whole[0]).vocab_size
    first = first_of(config, build(config, vocab_size, 32), say=False)
    assert first.keys() == {name for name in load_pretrained(whole[0]).model.state_dict() if "encoder" in name}
    flava = parse(["--preset", "flava_c", "--twin", "--init-text", str(whole[0])])
    with pytest.raises(ValueError, match=r"lacks .*embed\.norm\.bias"):
        first_of(flava, build(flava, vocab_size, 32), say=False)
