"""Fine-tuning through its own command line: every task from its real layout, learning, choosing, what is refused."""

import json
import math
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from tuned import log, results, tiny_model, tune

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))

import tuning_steps
from made_tuning import TUNING, own_pairs, sentence
from results import read_results
from tuning_settings import parse, shaping, start_of

from torchflava.evaluation import Reading
from torchflava.models import FlavaForClassification, from_pretrained
from torchflava.tasks.tuning import TUNING_TASKS

FEW = ["--steps", "2", "--warmup", "1", "--batch-size", "4", "--lr", "1e-3", "--log-every", "1", "--device", "cpu"]
KEYS = {
    "cola": "matthews", "sst2": "accuracy", "mrpc": "accuracy_and_f1", "qqp": "accuracy_and_f1", "stsb": "pearson",
    "mnli": "accuracy", "qnli": "accuracy", "rte": "accuracy", "vqav2": "vqa_accuracy", "snli_ve": "accuracy",
    "hateful_memes": "auroc", "rendered_sst2": "accuracy",
}  # fmt: skip
"""The scorecard's metric of each."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "first")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    for make in TUNING.values():
        make(made)
    own_pairs(made / "own")
    return made


def rows(path: Path, num: int = 16) -> Path:
    """Texts with labels that follow no rule, so that they must be learnt by heart."""
    labels = [(n * 7 // 3) % 3 for n in range(num)]
    told = [{"text": sentence(n, n % 2 == 1), "label": f"class {label}"} for n, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return path


ALIKE = ("sst2", "qqp", "qnli", "rte", "snli_ve", "rendered_sst2")
"""Read and measured as another that is no slow test; their layouts are read in tests/tasks too."""


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.slow] if task in ALIKE else []) for task in TUNING_TASKS]
)
def test_each_task_runs_from_its_real_layout(task: str, model: Path, data: Path, tmp_path: Path) -> None:
    side = ["--image-size", "16"] if start_of(task).image_size else []
    folder = tune(tmp_path, "--task", task, "--model", str(model), "--data", str(data), *FEW, *side)
    assert KEYS[task] in results(folder)
    made = from_pretrained(folder)
    assert isinstance(made, FlavaForClassification)
    told = json.loads((folder / "data.json").read_text())
    assert made.classifier.num_classes == len(told["classes"])
    assert {record["step"] for record in log(folder)} == {1, 2}
    if told["kind"] != "score":  # a new head knows nothing: of C classes log(C), of C answers C log(2)
        num = len(told["classes"])
        due = num * math.log(2) if told["kind"] == "answers" else math.log(num)
        assert log(folder)[0][f"{told['reads']}/loss"] == pytest.approx(due, rel=0.5)
    (row, *_) = read_results(folder / "results.json")
    assert (row.task, row.model, row.made_by, row.settings["lr"]) == (task, "first", "recipes/finetune.py", 1e-3)
    assert row.settings["whole"] is False  # which keeps a number of small data out of the scorecard's columns
    if task == "mnli":
        assert results(folder).keys() == {"accuracy", "accuracy_mismatched"}
    if task == "vqav2":
        answers = json.loads((folder / "answers_test.json").read_text())
        assert [row["question_id"] for row in answers] == [1000, 1001, 1002]
        assert {row["answer"] for row in answers} <= {"red", "no"}
        assert len(json.loads((folder / "answers_test-dev.json").read_text())) == 2
    if task == "hateful_memes":
        assert (folder / "predictions_test_unseen.csv").read_text().startswith("id,proba,label\n29,")
        assert {"auroc_dev_seen", "auroc", "accuracy"} <= results(folder).keys()


def test_texts_are_learnt_by_heart(model: Path, tmp_path: Path) -> None:
    train = str(rows(tmp_path / "t.jsonl"))
    words = ["--task", "own", "--model", str(model), "--train", train, "--dev", train, "--batch-size", "16"]
    folder = tune(tmp_path, *words, "--steps", "40", "--lr", "2e-3", "--hidden", "64", "--max-length", "16")
    assert results(folder)["accuracy"] == 1.0
    predicted = [json.loads(line) for line in (folder / "predictions_dev.jsonl").read_text().splitlines()]
    assert [row["label"] for row in predicted] == [
        json.loads(line)["label"] for line in Path(train).read_text().splitlines()
    ]


@pytest.mark.slow
def test_pairs_are_learnt_whose_class_takes_both(model: Path, data: Path, tmp_path: Path) -> None:
    """Yes where either the picture is lime or the text good, no where both or none are."""
    told = []
    for n in range(16):
        picture, text = n % 2, (n // 2) % 2
        row = {"image": f"images/train{picture}.png", "text": sentence(n, text == 1), "label": picture ^ text}
        told.append(json.dumps(row))
    (tmp_path / "t.jsonl").write_text("\n".join(told))
    both = ["--train", str(tmp_path / "t.jsonl"), "--dev", str(tmp_path / "t.jsonl"), "--images", str(data / "own")]
    words = [
        "--task",
        "own",
        "--model",
        str(model),
        *both,
        "--batch-size",
        "16",
        "--hidden",
        "64",
        "--max-length",
        "12",
    ]
    folder = tune(tmp_path, *words, "--steps", "50", "--lr", "2e-3", "--precision", "fp32")
    assert results(folder)["accuracy"] == 1.0
    losses = [record["pair/loss"] for record in log(folder) if "pair/loss" in record]
    assert losses[-1] < 0.1 < losses[0]


def test_frozen_parts_do_not_move_and_others_do(model: Path, data: Path, tmp_path: Path) -> None:
    words = ["--task", "snli_ve", "--image-size", "16", "--model", str(model), "--data", str(data), *FEW]
    folder = tune(tmp_path, *words, "--freeze", "image", "embeddings", "--weight-decay", "0.5")
    before, after = load_file(model / "model.safetensors"), load_file(folder / "model.safetensors")
    moved = {name for name, value in before.items() if not value.equal(after[f"flava.{name}"])}
    assert not {name for name in moved if name.startswith(("image_encoder", "text_encoder.embed", "image_projection"))}
    assert {"text_encoder.trunk.blocks.0.mlp.up.weight", "fusion_encoder.cls_token", "image_to_fusion.weight"} <= moved


def test_positions_are_resized_for_larger_images(model: Path, data: Path, tmp_path: Path) -> None:
    words = ["--task", "vqav2", "--image-size", "24", "--model", str(model), "--data", str(data), *FEW]
    made = from_pretrained(tune(tmp_path, *words))
    assert isinstance(made, FlavaForClassification)
    assert made.flava.image_encoder.num_patches == 9


def test_the_best_on_dev_is_what_a_run_ends_with(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [0.2, 0.9, 0.4]
    monkeypatch.setattr(tuning_steps, "readings_of", lambda *given: [Reading("accuracy", left.pop(0), 0.5)])
    words = ["--task", "sst2", "--model", str(model), "--data", str(data), *FEW, "--steps", "3", "--measure-every", "1"]
    folder = tune(tmp_path, *words)
    assert not left
    saved = {path.name: load_file(*path.glob("*.safetensors")) for path in folder.glob("step-*")}
    assert saved.keys() == {"step-00000002", "step-00000003"}
    name = "classifier.dense.weight"
    assert load_file(folder / "model.safetensors")[name].equal(saved["step-00000002"][f"model/{name}"])
    assert not saved["step-00000003"][f"model/{name}"].equal(saved["step-00000002"][f"model/{name}"])


def test_a_search_keeps_the_best_and_does_nothing_twice(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", "mrpc", "--model", str(model), "--data", str(data), "--steps", "3", "--warmup", "0"]
    words += ["--search", "--search-lr", "1e-9", "3e-3", "--search-batch", "4", "--measure-every", "3"]
    folder = tune(tmp_path, *words)
    told = json.loads((folder / "search.json").read_text())
    assert [row["run"] for row in told] == ["lr1e-09-batch4", "lr0.003-batch4"]
    (best,) = [row for row in told if row["best"]]
    assert best["accuracy_and_f1"] == max(row["accuracy_and_f1"] for row in told) == results(folder)["accuracy_and_f1"]
    assert read_results(folder / "results.json")[0].settings["lr"] == best["lr"]
    assert not [*folder.glob("lr*/results.json")]
    capsys.readouterr()
    tune(tmp_path, *words)
    again = capsys.readouterr().out
    assert "the best is in" in again
    assert "starting" not in again
    assert "going on" not in again
    with pytest.raises(ValueError, match="was searched with another steps; choose another --name"):
        tune(tmp_path, *words, "--steps", "2")
    other = tiny_model(tmp_path / "other")
    with pytest.raises(ValueError, match="was searched with another pretrained; choose"):
        tune(tmp_path, *words, "--model", str(other))


def test_answers_are_learnt_from_val_too(model: Path, data: Path, tmp_path: Path) -> None:
    words = ["--task", "vqav2", "--image-size", "16", "--model", str(model), "--data", str(data), *FEW]
    folder = tune(tmp_path, *words, "--with-val")
    # Not vqa_accuracy: the scorecard's is of the whole of val, by a model that has not seen it.
    assert set(results(folder)) == {"vqa_accuracy_held_out"}
    assert {path.name for path in folder.glob("answers_*")} == {
        f"answers_{split}.json" for split in ("held_out", "test", "test-dev")
    }
    assert json.loads((folder / "data.json").read_text())["examples"] == 22


def test_clip_is_tuned_by_its_embeddings(data: Path, tmp_path: Path) -> None:
    clip = tiny_model(tmp_path / "clip", clip=True)
    words = ["--model", str(clip), "--data", str(data), *FEW]
    folder = tune(tmp_path, "--task", "hateful_memes", "--image-size", "16", *words)
    assert load_file(folder / "model.safetensors")["classifier.dense.weight"].shape == (1536, 64)
    named = tune(tmp_path, "--task", "rte", *words, "--model", str(clip / "model.safetensors"), name="file")
    assert read_results(named / "results.json")[0].model == "clip"  # a file of that name is called by its folder
    with pytest.raises(ValueError, match=r"--head class-token, but .* is CLIP"):
        tune(tmp_path, "--task", "sst2", "--head", "class-token", *words, name="other")


def test_the_embeddings_of_flava_are_tuned_in_bf16_too(model: Path, data: Path, tmp_path: Path) -> None:
    words = ["--task", "hateful_memes", "--image-size", "16", "--model", str(model), "--data", str(data), *FEW]
    folder = tune(tmp_path, *words, "--head", "embeddings", "--precision", "bf16")
    assert "auroc" in results(folder)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "wnli"], "no task is called 'wnli'; there are cola"),
        (["--task", "sst2", "--model", ""], "name by --model what is fine-tuned"),
        (["--task", "sst2", "--model", "no/such"], "--model no/such is not there"),
        (["--task", "sst2", "--model", ".", "--train", "x"], "--train is for --task own"),
        (["--task", "own", "--model", "."], "--task own needs --train and --dev"),
        (["--task", "snli_ve", "--model", ".", "--with-val"], "--with-val is for --task vqav2"),
        (["--task", "sst2", "--model", ".", "--image-size", "224"], "sst2 has no images"),
        (["--task", "sst2", "--model", ".", "--layer-decay", "1.5"], "--layer-decay 1.5 must be at least"),
        (["--task", "sst2", "--model", ".", "--ema", "1"], "--ema 1.0 must be at least 0 and below 1"),
        (["--task", "sst2", "--model", ".", "--search", "--select", ""], "--search needs two settings"),
        (["--task", "sst2", "--model", ".", "--name", "a/b"], "--name a/b must be the name of a folder"),
    ],
)
def test_settings_that_cannot_be_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        parse(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--warmup", "5", "--steps", "0", "--epochs", "0.1"], "--warmup 5 must be shorter than the run of 1 steps"),
        (["--select", "f1"], "--select 'f1' is not measured on the way; there are accuracy"),
        (["--max-length", "1000"], "--max-length 1000 is more than the 512 tokens"),
        (["--freeze", "fusion"], "fusion is nothing that a model learns which reads 'text'"),
        (["--vocab", "VOCAB"], "the vocabulary has 5 words, the model in .* knows 21; name its own by --vocab"),
        (["--data", "nowhere"], "there is no nowhere/glue/SST-2/train.tsv; it comes from SST-2.zip"),
        (["--model", "LEFT"], "has checkpoints and no weights yet; write them by: python recipes/export.py"),
        (["--model", "BARE"], "has no vocabulary; name the model's vocab.txt by --vocab"),
    ],
)
def test_what_does_not_fit_the_model_or_the_data_is_refused(
    words: list[str], told: str, model: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    (tmp_path / "left/step-00000001").mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/model.safetensors").symlink_to(model / "model.safetensors")
    places = {"VOCAB": "vocab.txt", "LEFT": "left", "BARE": "bare"}
    words = [str(tmp_path / places[word]) if word in places else word for word in words]
    with pytest.raises(ValueError, match=told):
        tune(tmp_path, "--task", "sst2", "--model", str(model), "--data", str(data), *FEW, *words)


def test_presets_are_the_papers() -> None:
    vqa, memes, glue = (start_of(task) for task in ("vqav2", "hateful_memes", "mnli"))
    assert (vqa.image_size, vqa.lr, vqa.steps) == (480, 1e-4, 44_000)
    assert (memes.image_size, memes.lr, memes.steps) == (224, 1e-5, 24_000)
    for config in (vqa, memes, start_of("snli_ve")):
        assert (config.batch_size, config.weight_decay, config.warmup, config.hidden) == (256, 1e-2, 2000, 1536)
        assert config.schedule == "cosine"
    assert (glue.epochs, glue.steps, glue.warmup, glue.weight_decay, glue.schedule) == (10, 0, 0.06, 0.1, "linear")
    assert (glue.search_lr, glue.search_batch) == ((1e-5, 2e-5, 3e-5), (16, 32))
    assert "lr" in shaping(glue)
    assert "threads" not in shaping(glue)


def test_own_tasks_are_called_apart(model: Path, data: Path, tmp_path: Path) -> None:
    own = ["--task", "own", "--train", str(data / "own/train.jsonl"), "--dev", str(data / "own/dev.jsonl")]
    for name in ("first", "second"):
        folder = tune(tmp_path, *own, "--model", str(model), *FEW, "--called", name, name=name)
        assert {row.task for row in read_results(folder / "results.json")} == {name}
    for words in ([*own, "--called", "sst2"], ["--task", "sst2", "--called", "mine"]):
        with pytest.raises(SystemExit, match="names rows of your own; it is for --task own, and is none of cola"):
            tune(tmp_path, *words, "--model", str(model))
