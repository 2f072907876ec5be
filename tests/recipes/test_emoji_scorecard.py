"""The emoji model's own scorecard: its calls, what a perfect and a confused model get, what guessing gets, and a whole run."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import emoji_scorecard
import linear_probe
import tiny
import zero_shot
from emoji_layouts import lay_out
from emoji_pairs import lay_out_pairs
from emoji_scorecard import EmojiScorecard, columns, jobs
from emoji_table import lines, table
from evaluation_settings import parse_probe, parse_zero_shot
from made_emoji import make_emoji
from results import Measured, find_results, write_results
from tuning_settings import parse

from torchflava.models import save_pretrained

ROOT = Path(__file__).parents[2]
PARSE = {"zero_shot": parse_zero_shot, "linear_probe": parse_probe, "finetune": parse}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    lay_out_pairs(lay_out(make_emoji(folder / "shards"), folder / "data"))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    folder.mkdir()
    save_pretrained(tiny.pretraining(), folder / "model.safetensors")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "disc", "box", "shape"]
    tokens += [
        f"w{number}" for number in range(tiny.VOCAB_SIZE - len(tokens))
    ]  # fine-tuning wants as many as the model knows
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    return folder


def test_each_call_is_one_that_the_recipe_takes(out: Path, weights: Path) -> None:
    asked = EmojiScorecard(str(weights), out=out)
    for which in ("trained", "untrained"):
        (out / "models" / which).mkdir(parents=True, exist_ok=True)
    made = list(jobs(asked))
    for job in made:
        PARSE[job.recipe](job.words)
    assert Counter(job.recipe for job in made) == {"zero_shot": 9, "linear_probe": 12, "finetune": 4}
    assert len({job.name for job in made}) == len(made)
    tuned = [parse(job.words) for job in made if job.recipe == "finetune"]
    assert {(config.called, config.label) for config in tuned} == {
        (task, model) for task in ("emoji_entailment", "emoji_matching") for model in ("small", "small untrained")
    }
    assert {config.select for config in tuned} == {""}  # nothing is chosen on what is measured


def scored(asked: EmojiScorecard, seer: str, out: Path) -> dict[tuple[str, str], float]:
    """What a model of one's own gets by the calls for the trained one, but fine-tuning."""
    for job in jobs(asked):
        if job.recipe != "finetune" and "untrained" not in job.name and "pixels" not in job.name:
            words = [*job.words]
            for flag, value in (("--model", seer), ("--out", str(out / job.name)), ("--device", "cpu")):
                words[words.index(flag) + 1] = value
            (zero_shot if job.recipe == "zero_shot" else linear_probe).main(words)
    return {(row.task, row.metric): row.value for row in find_results([out])}


def test_who_knows_all_scores_one_everywhere(out: Path, weights: Path, tmp_path: Path) -> None:
    found = scored(EmojiScorecard(str(weights), out=out, max_iter=100), "emoji_seers:knower", tmp_path)
    due = {(line.task, line.metric) for line in lines(out / "data") if line.kind != "fine-tuned"}
    assert due <= found.keys()
    assert {key: value for key, value in found.items() if value < 1 - 1e-6} == {}


def test_who_takes_each_for_another_scores_as_guessing(out: Path, weights: Path, tmp_path: Path) -> None:
    found = scored(EmojiScorecard(str(weights), out=out, max_iter=30), "emoji_seers:confused", tmp_path)
    assert found["emoji_names", "zero_shot_accuracy"] < 0.1
    assert found["emoji_names", "tr@1"] < 0.1
    for task in ("emoji_entailment_new", "emoji_matching_any", "emoji_matching_near"):
        assert 0.3 < found[task, "auroc"] < 0.7
    assert found["emoji_subgroups_new", "accuracy"] < 0.6


def test_guessing_is_what_random_answers_get(out: Path) -> None:
    """Texts in a random order, drawn many times, for each image; and the commonest class, counted."""
    rng = np.random.Generator(np.random.Philox(key=3))
    due = {(line.task, line.metric): line.guess for line in lines(out / "data")}
    rows = [json.loads(line) for line in (out / "data/captions/emoji_keywords.jsonl").read_text().splitlines()]
    owner = np.array([row["image"] for row in rows])
    images = np.unique(owner)
    for k in (1, 5):
        hits = [np.mean([(rng.permutation(owner)[:k] == image).any() for image in images]) for _ in range(200)]
        assert due["emoji_keywords", f"tr@{k}"] == pytest.approx(np.mean(hits), abs=4 * np.std(hits) / 200**0.5)
        assert due["emoji_keywords", f"ir@{k}"] == k / len(images)
    labelled = out / "data/labelled/emoji_groups_new"
    splits = {
        split: [json.loads(line)["label"] for line in (labelled / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test")
    }
    most = max(sorted({*splits["train"]}), key=splits["train"].count)
    assert due["emoji_groups_new", "accuracy"] == splits["test"].count(most) / len(splits["test"])
    assert due["emoji_groups_new", "mean_per_class"] == 1 / len({*splits["test"]})


def test_the_table_has_a_column_for_each_and_leaves_out_what_was_not_run(out: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(out / "data")
    own = columns(EmojiScorecard("runs/emoji"))
    assert own == ("emoji", "emoji untrained", "pixels")
    for model, value in zip(own, (0.75, 0.5, 0.25), strict=True):
        row = [Measured("emoji_groups", "accuracy", value)]
        write_results(tmp_path / model.replace(" ", "-"), row, model=model, made_by="test")
    write_results(tmp_path / "a", [Measured("emoji_entailment", "accuracy", 0.625)], model="emoji", made_by="test")
    said = table(tmp_path, own, "The head.").splitlines()
    assert said[0] == "The head."
    assert len(said) == 2 + 2 + 2
    assert "| linear probe | group; new style | accuracy | **0.750** | 0.500 | 0.250 |" in said[4]
    assert said[5] == "| fine-tuned | entailment; new emoji | accuracy | **0.625** |  |  | 0.500 |"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "nowhere"], "--model nowhere is not there"),
        (["--model", ".", "--steps", "0"], "--steps 0 must be 1 or more"),
        (["--model", ".", "--rerank", "3"], "--rerank 3 must be 10 or more, or 0"),
        (["--model", ".", "--only-table"], "holds no results; run without it first"),
    ],
)
def test_what_cannot_be_is_told(words: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=told):
        emoji_scorecard.main([*words, "--out", str(tmp_path / "out")])


def test_another_model_or_setting_is_not_taken_for_the_same(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emoji_scorecard, "run", lambda words: 3)
    words = ["--data", str(make_emoji(tmp_path / "shards")), "--out", str(tmp_path / "out"), "--model"]
    with pytest.raises(SystemExit, match="3"):
        emoji_scorecard.main([*words, str(weights)])
    assert not list((tmp_path / "out").glob("*/done"))
    with pytest.raises(SystemExit, match="steps was 400, is 7; give those, or another --out"):
        emoji_scorecard.main([*words, str(weights), "--steps", "7"])
    other = tmp_path / "small"
    other.mkdir()
    save_pretrained(tiny.pretraining(seed=1), other / "model.safetensors")
    (other / "vocab.txt").write_text((weights / "vocab.txt").read_text())
    with pytest.raises(
        SystemExit, match=r"weights was model.safetensors, sha256 \w+, is model.safetensors, sha256 \w+"
    ):
        emoji_scorecard.main([*words, str(other)])


def within(command: list[str]) -> int:
    """In place of a process for each recipe: the recipe's `main` in this one, which has torch already."""
    _, recipe, *words = command
    try:
        importlib.import_module(Path(recipe).stem).main(words)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_command_makes_the_table_and_goes_on_where_it_was(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = make_emoji(tmp_path / "shards")
    words = ["--data", str(data), "--model", str(weights), "--out", str(tmp_path / "out"), "--steps", "3"]
    words += ["--max-iter", "5", "--batch-size", "8", "--device", "cpu", "--threads", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(emoji_scorecard, "run", within)
        emoji_scorecard.main(words)
    asked = EmojiScorecard(str(weights), out=tmp_path / "out")
    assert called(capfd) == [job.name for job in jobs(asked)]
    said = (tmp_path / "out/emoji_scorecard.md").read_text()
    rows = [row.split("|") for row in said.splitlines() if row.startswith("|")][2:]
    assert len(rows) == len(list(lines(tmp_path / "out/data")))
    assert all(row[4].strip().startswith("**") for row in rows)
    assert all(row[5].strip() for row in rows if row[1].strip() in ("linear probe", "fine-tuned"))
    (tmp_path / "out/probe-emoji_groups-pixels/done").unlink()
    (tmp_path / "out/emoji_scorecard.md").unlink()
    emoji_scorecard.main(words)  # the one that is missing, in a process of its own
    assert called(capfd) == ["probe-emoji_groups-pixels"]
    assert (tmp_path / "out/emoji_scorecard.md").read_text() == said


def called(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The evaluations that the command told of."""
    return [line.removeprefix("== ") for line in capfd.readouterr().out.splitlines() if line.startswith("== ")]
