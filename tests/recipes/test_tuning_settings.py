"""Each setting of fine-tuning changes the run, or where it lies, or is said here to change neither."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from tuned import log, tiny_model, tune

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))

from made_tuning import TUNING, own_pairs
from tuning_settings import Tuning

COMMON = [
    "--task",
    "hateful_memes",
    "--image-size",
    "16",
    "--steps",
    "5",
    "--warmup",
    "2",
    "--batch-size",
    "4",
    "--lr",
    "1e-3",
]
COMMON += ["--log-every", "1", "--device", "cpu", "--select", "", "--measure-every", "2"]

LEARNS = {
    "head": ["embeddings"], "hidden": ["32"], "dropout": ["0.5"], "image_size": ["24"], "crop": ["0.3"], "max_length": ["5"],
    "steps": ["4"], "batch_size": ["8"], "lr": ["2e-3"], "layer_decay": ["0.5"], "weight_decay": ["3.0"], "warmup": ["0.8"],
    "schedule": ["linear"], "betas": ["0.5", "0.6"], "eps": ["0.1"], "clip": ["0.01"], "freeze": ["text"], "ema": ["0.9"],
    "precision": ["bf16"], "seed": ["1"], "model": ["OTHER"], "select": ["accuracy_dev_seen"],
}  # fmt: skip
"""Settings by which other weights come out."""
SAME = {
    "micro_batch": ["3"], "recompute": ["selective"], "threads": ["1"], "log_every": ["2"], "save_every": ["1"],
    "label": ["mine"], "keep": ["3", "--save-every", "1"], "measure_batch": ["3"], "preset": ["mine"], "vocab": ["VOCAB"],
    "checkpoints": ["ELSEWHERE"], "measure_every": ["1"],
}  # fmt: skip
"""Settings by which the same is learnt, within rounding."""
ELSEWHERE = {
    "task": "tests/recipes/test_finetune.py", "data": "the same", "train": "the same", "dev": "the same",
    "test": "test_a_test_split_of_your_own_is_what_is_reported", "images": "the same file's pairs", "epochs": "test_epochs",
    "called": "test_own_tasks_are_called_apart", "search": "test_finetune.py",
    "with_val": "the same", "search_lr": "the same", "search_batch": "the same", "within_search": "the same",
    "device": "the machine's", "folder": "every test", "name": "every test", "resume": "test_a_run_is_resumed_by_its_folder",
}  # fmt: skip
"""Settings that another test is about."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    TUNING["hateful_memes"](folder / "data")
    tiny_model(folder / "first")
    other = load_file(tiny_model(folder / "other") / "model.safetensors")
    from torchflava.models import from_pretrained, save_pretrained

    model = from_pretrained(folder / "other")
    model.load_state_dict({name: value * 1.1 for name, value in other.items()})
    save_pretrained(model, folder / "other")
    return folder


@pytest.fixture(scope="module")
def usual(made: Path) -> Path:
    return tune(made, *words(made), name="usual")


def words(made: Path) -> list[str]:
    return [*COMMON, "--model", str(made / "first"), "--data", str(made / "data")]


def losses(folder: Path) -> list[float]:
    """Weights whose gradients are rounding alone, such as the keys' biases, go where rounding sends them; losses do not."""
    return [record["pair/loss"] for record in log(folder) if "pair/loss" in record]


def flag(name: str, values: list[str], made: Path, tmp_path: Path) -> list[str]:
    places = {"OTHER": made / "other", "VOCAB": made / "first/vocab.txt", "ELSEWHERE": tmp_path / "elsewhere"}
    return [f"--{name.replace('_', '-')}", *(str(places.get(value, value)) for value in values)]


def test_no_setting_is_forgotten() -> None:
    assert {field.name for field in fields(Tuning)} == LEARNS.keys() | SAME.keys() | ELSEWHERE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNS)
def test_what_shapes_a_run_gives_other_weights(name: str, made: Path, usual: Path, tmp_path: Path) -> None:
    folder = tune(tmp_path, *words(made), *flag(name, LEARNS[name], made, tmp_path))
    before, after = (load_file(run / "model.safetensors") for run in (usual, folder))
    same = all(
        value.shape == after[key].shape and torch.allclose(value, after[key], atol=1e-6)
        for key, value in before.items()
    )
    assert not same


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_what_does_not_shape_a_run_gives_the_same_losses(name: str, made: Path, usual: Path, tmp_path: Path) -> None:
    folder = tune(tmp_path, *words(made), *flag(name, SAME[name], made, tmp_path))
    if name != "log_every":
        for got, due in zip(losses(folder), losses(usual), strict=True):
            assert got == pytest.approx(due, rel=1e-3)
    assert len([*folder.glob("step-*")]) == {"keep": 3, "checkpoints": 0}.get(name, 1)
    if name == "checkpoints":
        assert {path.name for path in (tmp_path / "elsewhere").iterdir()} >= {
            "step-00000005",
            "config.json",
            "vocab.txt",
        }
    if name == "label":
        assert {row["model"] for row in json.loads((folder / "results.json").read_text())} == {"mine"}
    if name == "log_every":
        assert [record["step"] for record in log(folder) if "pair/loss" in record] == [2, 4, 5]
    if name == "measure_every":
        assert [record["step"] for record in log(folder) if "measured/auroc_dev_seen" in record] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_run_is_resumed_by_its_folder(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import finetune

    folder = tune(tmp_path, *words(made))
    finetune.main([*words(made), "--resume", str(folder)])
    assert f"going on at step 5 in {folder}" in capsys.readouterr().out


@pytest.mark.slow
def test_epochs_and_a_test_split_of_your_own_is_what_is_reported(made: Path, tmp_path: Path) -> None:
    """And a fine-tuned model is fine-tuned again, without its head."""
    own_pairs(tmp_path)
    files = [word for name in ("train", "dev") for word in (f"--{name}", str(tmp_path / f"{name}.jsonl"))]
    common = ["--task", "own", *files, "--test", str(tmp_path / "dev.jsonl"), "--batch-size", "8", "--epochs", "1.5"]
    folder = tune(tmp_path, *common, "--model", str(made / "first"))
    assert max(record["step"] for record in log(folder)) == 3
    metrics = {row["metric"] for row in json.loads((folder / "results.json").read_text())}
    assert metrics == {"accuracy", "mean_per_class", "accuracy_dev", "mean_per_class_dev"}
    again = tune(tmp_path, *common, "--model", str(folder), name="again")
    assert json.loads((again / "results.json").read_text())[0]["model"] == "run"
