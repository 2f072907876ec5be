"""Linear probes of all 22 tasks, through the recipe's command line, from small copies of their real layouts."""

import json
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import linear_probe
import tiny
from evaluation_settings import Probe
from made_tasks import MADE, bright, picture
from results import read_results

from torchflava.evaluation import COLUMNS
from torchflava.models import save_pretrained
from torchflava.tasks import VISION_TASKS, vision_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    for make in MADE.values():
        make(made)
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_pretrained(tiny.pretraining(), file)
    return file


@pytest.fixture(scope="module")
def probed(root: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 22 with a model of this project's, in one go."""
    out = tmp_path_factory.mktemp("out")
    probe(weights, root, out, "--max-iter", "4")
    return out


def probe(model: Path | str, root: Path, out: Path, *words: str) -> None:
    """The recipe's main, on the CPU."""
    given = ["--model", str(model), "--root", str(root), "--out", str(out), "--device", "cpu", "--threads", "1"]
    linear_probe.main([*given, *words])


def values(out: Path) -> dict[str, float]:
    """Task -> its number."""
    return {row.task: row.value for row in read_results(out / "results.json")}


@pytest.mark.parametrize("name", VISION_TASKS)
def test_each_task_runs_to_its_result(probed: Path, root: Path, name: str) -> None:
    rows = [row for row in read_results(probed / "results.json") if row.task == name]
    assert len(rows) == 1
    (row,) = rows
    task = vision_task(name, root)
    assert (row.metric, row.model, row.made_by) == (task.metric, "small", "recipes/linear_probe.py")
    assert 0 <= row.value <= 1
    train, valid = task.train_and_valid()
    assert (row.settings["num_train"], row.settings["num_valid"]) == (len(train), len(valid))
    assert row.settings["num_test"] == len(task.test())
    assert row.settings["whole"] is False
    assert 1e-6 <= row.settings["lambda"] <= 1e6


def test_the_scorecard_has_a_column_for_each(root: Path) -> None:
    ours = {(name, vision_task(name, root).metric) for name in VISION_TASKS[:22]}  # one that is added has none
    assert ours == {column.key for column in COLUMNS if column.domain == "vision"}


def test_data_are_whole_within_a_hundredth(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from probing import print_sizes

    task = vision_task("pets", root)
    assert print_sizes(task, 3680, 3669)
    assert print_sizes(task, 3679, 3640)
    assert print_sizes(task, None, 3669)
    assert capsys.readouterr().out == ""
    assert not print_sizes(task, 3640, 3669)
    assert not print_sizes(task, 3680, 3600)
    assert "3600 to test on (of 3669)" in capsys.readouterr().out


def test_a_perfect_model_scores_one_on_every_task(root: Path, tmp_path: Path) -> None:
    probe("seers:painter", root, tmp_path, "--max-iter", "60")
    assert values(tmp_path) == dict.fromkeys(VISION_TASKS, 1.0)


def test_a_blind_model_gives_one_class_to_all(root: Path, tmp_path: Path) -> None:
    names = ["gtsrb", "food101", "caltech101"]
    probe("seers:blind", root, tmp_path, "--task", *names, "--max-iter", "30")
    for name, value in values(tmp_path).items():
        task = vision_task(name, root)
        counts = Counter(task.test().labels.tolist())
        by_class = (
            [1 / len(counts)] if task.metric == "mean_per_class" else [n / counts.total() for n in counts.values()]
        )
        assert any(value == pytest.approx(one) for one in by_class)


def test_shuffled_labels_score_chance(tmp_path: Path) -> None:
    """MNIST's files, in which pixels tell one class and labels another."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = bright(rng.integers(0, 4, 400).tolist(), 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 400, 28, 28) + pixels.tobytes())
        labels = rng.integers(0, 4, 400, dtype=np.uint8)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 400) + labels.tobytes())
    probe("seers:painter", tmp_path, tmp_path, "--task", "mnist", "--max-iter", "30")
    assert abs(values(tmp_path)["mnist"] - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5  # four standard deviations


def test_features_are_the_class_token_of_the_last_layer(probed: Path, root: Path, weights: Path) -> None:
    """From the file beside the results, with the view and the encoder called one by one."""
    from features import load_features

    from torchflava.models import from_pretrained
    from torchflava.transforms.image import EvalView, normalise

    (file,) = (probed / "features").glob("pets-*.safetensors")
    found, images = load_features(file)["test"], vision_task("pets", root).test()
    assert found.labels.tolist() == images.labels.tolist()
    model = from_pretrained(weights)
    view = EvalView(tiny.IMAGE_SIZE)
    for at in range(len(images)):
        with torch.no_grad():
            states = model.flava.image_encoder(normalise(view(images[at][0])[None]))
        torch.testing.assert_close(found.features[at], states.normed[0, 0], rtol=1e-4, atol=1e-5)


def test_features_are_computed_once_for_a_model_and_its_data(root: Path, weights: Path, tmp_path: Path) -> None:
    mine = tmp_path / "data"
    shutil.copytree(root / "oxford-iiit-pet", mine / "oxford-iiit-pet")
    out = tmp_path / "out"
    words = ("--task", "pets", "--max-iter", "3")
    probe(weights, mine, out, *words)
    (first,) = (out / "features").iterdir()
    made = first.stat().st_mtime_ns
    for image in (mine / "oxford-iiit-pet/images").iterdir():
        image.write_bytes(b"")  # nothing is decoded again
    probe(weights, mine, out, *words)
    assert [file.stat().st_mtime_ns for file in (out / "features").iterdir()] == [made]

    shutil.copytree(root / "oxford-iiit-pet", mine / "oxford-iiit-pet", dirs_exist_ok=True)
    other = tmp_path / "other.safetensors"
    save_pretrained(tiny.pretraining(seed=1), other)
    probe(other, mine, out, *words)
    assert len(list((out / "features").iterdir())) == 2
    listed = mine / "oxford-iiit-pet/annotations/test.txt"
    listed.write_text(listed.read_text().replace("Bengal_6 3", "Bengal_6 1"))
    probe(other, mine, out, *words)
    assert len(list((out / "features").iterdir())) == 3
    assert {row.model for row in read_results(out / "results.json")} == {"small", "other"}


def test_it_tells_each_lambda_and_what_is_left_out(
    root: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "data"
    shutil.copytree(root / "dtd", mine / "dtd")
    probe(weights, mine, tmp_path / "out", "--max-iter", "3", "--name", "mine")
    told = capsys.readouterr().out
    assert told.count("left out, ") == len(VISION_TASKS) - 1
    assert (
        f"left out, cifar10: there is no {mine}/cifar-10-batches-py/data_batch_1; it comes from cifar-10-python.tar.gz"
        in told
    )
    assert "dtd: 8 images to learn from (the whole data have 3760) and 4 to test on (of 1880)" in told
    assert told.count(" on the validation split") >= 7 + 2
    assert "dtd: λ 1.000e-06, accuracy " in told
    (row,) = read_results(tmp_path / "out/results.json")
    assert row.model == "mine"
    assert f"dtd: accuracy {row.value:.4f} on the test split, λ {row.settings['lambda']:.3e}" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--task", "pets"],
            r"pets: there is no \S+/oxford-iiit-pet/annotations/trainval.txt; it comes from annotations.tar.gz",
        ),
        (["--task", "pet"], "no task is called 'pet'; there are food101"),
        ([], f"holds the data of none of the {len(VISION_TASKS)} tasks"),
        (["--task", "all", "pets"], "all stands alone"),
        (["--max-iter", "0"], "--max-iter 0 must be 1 or more"),
        (["--batch-size", "0"], "--batch-size 0 must be 1 or more"),
        (["--image-size", "-1"], "--image-size -1 must be above 0"),
        (["--max-length", "2"], "--max-length 2 must be from 3 to 512"),
        (["--vocab", "nowhere.txt"], "--vocab nowhere.txt is not there"),
    ],
)
def test_what_cannot_be_is_told(weights: Path, tmp_path: Path, words: list[str], told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        probe(weights, tmp_path, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_are_told(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match="--model nothing is neither a file or folder that is there nor module:function"
    ):
        probe("nothing", root, tmp_path)
    with pytest.raises(
        SystemExit, match="--precision is for models that this project builds; seers:painter decides it"
    ):
        probe("seers:painter", root, tmp_path, "--precision", "bf16")
    for model, told in (
        ("no_such:one", "there is no module 'no_such'"),
        ("seers:nobody", "seers has no nobody"),
        ("seers:odd", "returned a dict; an Evaluated"),
    ):
        with pytest.raises(ValueError, match=told):
            probe(model, root, tmp_path, "--task", "dtd")


def test_precision_is_another_model(root: Path, weights: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        probe(weights, root, tmp_path, "--task", "dtd", "--max-iter", "2", "--precision", precision)
    low, high = (
        load_low(file) for file in sorted((tmp_path / "features").iterdir(), key=lambda f: f.stat().st_mtime_ns)
    )
    assert 0 < (low - high).abs().max() < 0.2


def load_low(file: Path) -> torch.Tensor:
    from features import load_features

    return load_features(file)["test"].features


def test_fields_are_told_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        linear_probe.check(["--help"], here=False)
    told = capsys.readouterr().out
    for name in Probe.__dataclass_fields__:
        if name != "subject":
            assert f"--{name.replace('_', '-')}" in told


@pytest.mark.slow
def test_two_ranks_find_what_one_does(root: Path, weights: Path, tmp_path: Path) -> None:
    words = [
        "--root",
        str(root),
        "--task",
        "pets",
        "food101",
        "--batch-size",
        "2",
        "--device",
        "cpu",
        "--max-iter",
        "50",
    ]
    script = str(ROOT / "recipes/linear_probe.py")
    for out, start in (("one", [sys.executable]), ("two", ["torchrun", "--standalone", "--nproc-per-node", "2"])):
        done = subprocess.run(
            [*start, script, "--model", str(weights), "--out", str(tmp_path / out), *words],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("on the test split") == 2
    one, two = (
        {row["task"]: row for row in json.loads((tmp_path / out / "results.json").read_text())}
        for out in ("one", "two")
    )
    assert {name: (row["value"], row["settings"]) for name, row in one.items()} == {
        name: (row["value"], row["settings"]) for name, row in two.items()
    }


def own_images(folder: Path) -> Path:
    """Four colours: as folders of classes, and as files of rows."""
    for split, num in (("train", 8), ("valid", 2), ("test", 3)):
        rows = []
        for number, name in enumerate(("red", "lime", "blue", "yellow")):
            for at in range(num + number):
                picture(folder / split / name / f"{at}.webp" if at else folder / split / name / "0.png", number)
                rows.append(f"{name}/{'0.png' if at == 0 else f'{at}.webp'}\t{name}")
        (folder / f"{split}.tsv").write_text("\n".join(["image\tlabel", *rows]))
    return folder


def of_own(folder: Path, ending: str, *splits: str) -> list[str]:
    return [word for split in splits for word in (f"--{split}", str(folder / f"{split}{ending}"))]


def test_folders_and_files_of_ones_own_are_probed(tmp_path: Path) -> None:
    mine = own_images(tmp_path / "shelf")
    by_folder = of_own(mine, "", "train", "test")
    probe("seers:painter", tmp_path, tmp_path / "a", *by_folder, "--max-iter", "60")
    rows = {row.metric: row for row in read_results(tmp_path / "a/results.json")}
    assert {row.task for row in rows.values()} == {"shelf"}
    assert {metric: row.value for metric, row in rows.items()} == {"accuracy": 1.0, "mean_per_class": 1.0}
    settings = rows["accuracy"].settings
    assert (settings["num_train"], settings["num_valid"], settings["num_test"]) == (
        38 - 8,
        8,
        18,
    )  # a fifth of 8, 9, 10, 11
    assert settings["whole"] is True
    for split in ("train", "valid", "test"):
        (mine / split).rename(tmp_path / split)
    files = of_own(mine, ".tsv", "train", "valid", "test")
    for split in ("train", "valid", "test"):
        text = (mine / f"{split}.tsv").read_text()
        (mine / f"{split}.tsv").write_text(
            "\n".join(f"{split}/{line}" if "." in line else line for line in text.split("\n"))
        )
    words = [*files, "--images", str(tmp_path), "--task", "mine", "--max-iter", "60"]
    probe("seers:painter", tmp_path, tmp_path / "b", *words)
    rows = {row.metric: row for row in read_results(tmp_path / "b/results.json")}
    assert {(row.task, row.value, row.settings["num_valid"]) for row in rows.values()} == {("mine", 1.0, 14)}


def test_the_mean_over_classes_of_ones_own_counts_each_class_alike(tmp_path: Path) -> None:
    mine = own_images(tmp_path / "shelf")
    probe("seers:blind", tmp_path, tmp_path / "out", *of_own(mine, "", "train", "test"), "--max-iter", "30")
    found = {row.metric: row.value for row in read_results(tmp_path / "out/results.json")}
    assert found == {"accuracy": pytest.approx(6 / 18), "mean_per_class": 0.25}  # all are called the commonest


def test_what_of_ones_own_cannot_be_is_told(tmp_path: Path) -> None:
    mine = own_images(tmp_path / "shelf")

    def ends(told: str, *words: str) -> None:
        with pytest.raises(SystemExit, match=told):
            probe("seers:painter", tmp_path, tmp_path / "out", *words)

    both = of_own(mine, "", "train", "test")
    ends("need --train and --test", *both[:2])
    ends("need --train and --test", "--valid", str(mine / "valid"))
    ends("images of your own are one task", *both, "--task", "a", "b")
    ends("'pets' is one of the paper's tasks .*call yours by another name", *both, "--task", "pets")
    ends("--train nowhere is not there", "--train", "nowhere", *both[2:])
    picture(mine / "test/pink/0.png", 1)
    ends(r"has the label 'pink'; there are blue, lime, red, yellow", *both)
    (mine / "train.tsv").write_text("image\tlabel\nno.png\tred\nred/0.png\tblue\n")
    ends(r"train.tsv, line 2 names .*no.png, which is not there", *of_own(mine, ".tsv", "train", "test"))
    (mine / "train.tsv").write_text("image\tlabel\nred/0.png\tred\n")
    ends("all rows of .* have the label 'red'", "--images", str(mine / "train"), *of_own(mine, ".tsv", "train", "test"))
    (tmp_path / "bare/train/a").mkdir(parents=True)
    ends("hold no image", *of_own(tmp_path / "bare", "", "train"), *both[2:])
