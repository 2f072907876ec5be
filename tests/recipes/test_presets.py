"""The paper's rows against its numbers, written out here; and every twin for three steps through the recipe itself."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import pretrain
from paper import ROWS
from presets import Config, parse, presets
from twins import twin

ALL = {"mim", "mlm", "mmm_image", "mmm_text", "itm", "contrastive"}
MULTIMODAL = ALL - {"mim", "mlm"}
TRAINED: dict[str, tuple[set[str], tuple[float, float, float]]] = {
    # Losses and shares of pairs, images and texts: the paper's table 4, and §4.1 for .70 / .15 / .15.
    "text_stage1": ({"mlm"}, (0, 0, 1)),
    "mim_only": ({"mim"}, (0, 1, 0)),
    "mlm_only": ({"mlm"}, (0, 0, 1)),
    **dict.fromkeys(["flava_c", "clip", "clip_flava_arch"], ({"contrastive"}, (1, 0, 0))),
    "flava_mm": (MULTIMODAL, (1, 0, 0)),
    **dict.fromkeys(
        ["flava_no_init", "flava", "flava_local_contrastive", "flava_beit_init"], (ALL, (0.70, 0.15, 0.15))
    ),
    **dict.fromkeys(["flava_900m", "flava_1_8b", "flava_2_7b", "flava_4_8b", "flava_10b"], (ALL, (0.70, 0.15, 0.15))),
}


def test_no_row_is_missing_and_each_trains_what_the_paper_says() -> None:
    assert ROWS.keys() == TRAINED.keys()
    for name, row in ROWS.items():
        config, (losses, shares) = row(), TRAINED[name]
        assert config.preset == name
        assert {loss for loss, weight in asdict(config.weights).items() if weight} == losses, name
        assert set(asdict(config.weights).values()) <= {0, 1}, name
        assert tuple(asdict(config.shares).values()) == shares, name


def test_the_numbers_of_the_joint_training() -> None:
    """Table C.1 and §4.1: batch 8,192, AdamW .9 / .999, lr 1e-3, decay .1, 10,000 + cosine over 150,000; ViT-B/16 at 224 px."""
    for name in TRAINED.keys() - {"text_stage1", "clip_flava_arch"}:
        c = ROWS[name]()
        assert (c.batch_size, c.steps, c.warmup_steps, c.schedule) == (8192, 150_000, 10_000, "cosine")
        assert (c.lr, c.weight_decay, c.betas) == (1e-3, 0.1, (0.9, 0.999))
        assert (c.image_size, c.patch_size, c.code_size, c.num_codes) == (224, 16, 112, 8192)
        assert c.vocab_size == (49408 if name == "clip" else 30522)
        assert (c.precision, c.mask_rate) == ("bf16", 0.15)
        assert round(c.patch_mask_rate * 196) == 75  # BEiT's
        assert c.model == {
            "flava_900m": "900m", "flava_1_8b": "1.8b", "flava_2_7b": "2.7b", "flava_4_8b": "4.8b", "flava_10b": "10b",
        }.get(name, "base")  # fmt: skip


def test_the_numbers_of_stage_one() -> None:
    """§4.1: 125K iterations, batch 2,048, lr 5e-4; the rest: fairseq, examples/roberta/README.pretraining.md."""
    c = ROWS["text_stage1"]()
    assert (c.steps, c.batch_size, c.lr) == (125_000, 2048, 5e-4)
    assert (c.warmup_steps, c.schedule, c.betas, c.eps, c.weight_decay) == (10_000, "linear", (0.9, 0.98), 1e-6, 0.01)
    assert (c.clip, c.text_length, c.mask_rate) == (0, 512, 0.15)


def test_the_numbers_of_clips_own_training() -> None:
    """Radford et al. 2021, tables 18 and 20: decay .2, 2,000 steps of warm-up, Adam .9 / .98 / 1e-6, 5e-4 for ViT-B/16."""
    c, joint = ROWS["clip_flava_arch"](), ROWS["flava_c"]()
    assert (c.weight_decay, c.warmup_steps, c.betas, c.eps, c.lr, c.clip) == (0.2, 2_000, (0.9, 0.98), 1e-6, 5e-4, 0)
    assert differing(asdict(c), asdict(joint)) == {
        "preset",
        "weight_decay",
        "warmup_steps",
        "betas",
        "eps",
        "lr",
        "clip",
    }
    assert differing(asdict(ROWS["clip"]()), asdict(joint)) == {
        "preset",
        "architecture",
        "vocab",
        "tokenizer",
        "vocab_size",
    }
    assert (c.steps * c.batch_size, c.schedule) == (150_000 * 8192, "cosine")


def test_where_the_rows_differ() -> None:
    full, random = asdict(ROWS["flava"]()), asdict(ROWS["flava_no_init"]())
    assert differing(full, random) == {"preset", "init_image", "init_text"}
    assert random["init_image"] == random["init_text"] == ""
    assert differing(full, asdict(ROWS["flava_local_contrastive"]())) == {"preset", "gradients"}
    assert differing(full, asdict(ROWS["flava_beit_init"]())) == {"preset", "image_encoder", "init_image"}
    assert ROWS["flava_local_contrastive"]().gradients == "local"
    assert full["gradients"] == "global"
    for name in (
        "mim_only",
        "mlm_only",
        "flava_c",
        "flava_mm",
        "clip",
        "clip_flava_arch",
    ):  # PMD's nine sources and nothing else
        own = ROWS[name]().own
        (places,) = (places for places in (own.pairs, own.images, own.texts) if places)
        assert len(places) == 9
        assert all(place.startswith("data/pmd/") for place in places)


def differing(one: dict[str, object], other: dict[str, object]) -> set[str]:
    return {name for name in one if one[name] != other[name]}


def test_a_twin_shrinks_and_keeps_what_makes_the_run() -> None:
    for name, row in ROWS.items():
        large, small = row(), parse(["--preset", name, "--twin"])
        assert small == twin(large)
        assert small.twin
        for kept in ("preset", "weights", "shares", "lr", "betas", "eps", "schedule", "gradients", "image_encoder",
                     "architecture", "weight_decay", "clip", "recompute", "spread", "mask_rate", "mismatch_rate"):  # fmt: skip
            assert getattr(small, kept) == getattr(large, kept), (name, kept)
        assert abs(small.warmup_steps / small.steps - large.warmup_steps / large.steps) < 1 / small.steps
    assert parse(["--twin", "--preset", "flava", "--steps", "7"]).steps == 7
    assert not parse(["--preset", "tiny"]).twin


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--preset", "flava_d"],
            "no preset is called 'flava_d'; there are scenes, emoji, tiny, text_stage1, mim_only",
        ),
        (["--preset", "tiny", "--preset=flava"], "--preset is given twice; name one"),
        (["--preset", "flava"], "--vocab weights/vocab.txt is not there; docs/presets.md says where it comes from"),
        (["--preset", "tiny", "--init-text", "none"], "--init-text none is not there"),
        (["--preset", "tiny", "--eps", "-1"], "--eps -1.0 must be at least 1e-30"),
    ],
)
def test_what_is_not_there_is_told_at_once(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert said in str(end.value)


def test_every_preset_is_on_the_page_that_lists_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "presets.md").read_text()
    assert [name for name in presets() if f"`{name}`" not in page] == []


def trained(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    import measure_scenes
    import report

    monkeypatch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
    monkeypatch.setattr(report, "report", lambda *parts: None)
    words = ["--preset", name, "--twin", "--folder", str(folder), "--steps", "3", "--warmup-steps", "1"]
    pretrain.main(words)
    (log,) = folder.glob("*/log.jsonl")
    assert '"step": 3' in log.read_text()
    return parse(words)


@pytest.mark.slow
def test_the_twin_of_the_full_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained("flava", tmp_path, monkeypatch).model == "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ROWS.keys() - {"flava"}))
def test_every_twin_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(name, tmp_path, monkeypatch)
