"""A fine-tuned model's folder is a model like any other: evaluated, and fine-tuned again, over embeddings too."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
sys.path.insert(0, str(Path(__file__).parent))

import linear_probe
import zero_shot
from evaluation_settings import Subject
from made_tasks import MADE, picture
from made_tuning import TUNING
from results import read_results
from tuned import tiny_model, tune

from torchflava.models import Clip, EmbeddingsForClassification, from_pretrained

FEW = ["--steps", "2", "--warmup", "1", "--batch-size", "4", "--device", "cpu", "--image-size", "16"]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("flava", marks=pytest.mark.slow),
        "flava over embeddings",
        pytest.param("clip", marks=pytest.mark.slow),
    ],
)
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tuned")
    TUNING["hateful_memes"](made / "data")
    first = tiny_model(made / "first", clip=request.param == "clip")
    words = ["--task", "hateful_memes", "--model", str(first), "--data", str(made / "data"), *FEW]
    return tune(made, *words, *(["--head", "embeddings"] if "over" in request.param else []), name="memes")


def test_it_is_evaluated_where_it_lies(tuned: Path, tmp_path: Path) -> None:
    MADE["dtd"](tmp_path)
    for name in ("red", "film"):
        picture(tmp_path / "classes" / name / "0.png", 0)
    (tmp_path / "rows.tsv").write_text("filepath\tcaption\nred/0.png\ta red film\nfilm/0.png\tthe dog\n")
    shared = ["--model", str(tuned), "--device", "cpu", "--threads", "1"]
    linear_probe.main([*shared, "--task", "dtd", "--root", str(tmp_path), "--max-iter", "2"])
    zero_shot.main([*shared, "--images", str(tmp_path / "classes")])
    zero_shot.main([*shared, "--retrieval", str(tmp_path / "rows.tsv"), "--images", str(tmp_path / "classes")])
    rows = read_results(tuned / "results.json")
    assert {row.task for row in rows} == {"hateful_memes", "dtd", "classes", "rows"}
    assert {row.model for row in rows if row.task != "hateful_memes"} == {"memes"}


def test_its_outputs_are_those_that_were_measured(tuned: Path) -> None:
    """The probabilities that fine-tuning wrote, from the file alone."""
    from torchflava.tasks import tuning_task
    from torchflava.tasks.feeding import Feed
    from torchflava.transforms import WordPiece

    model, task = from_pretrained(tuned), tuning_task("hateful_memes", tuned.parent / "data")
    over = isinstance(model.flava, Clip) or json.loads((tuned / "config.json").read_text())["head"] == "embeddings"
    assert isinstance(model, EmbeddingsForClassification) == over
    feed = Feed(task, WordPiece.from_file(tuned), max_length=int(model.flava.text_encoder.max_length), image_size=16)
    split = task.measured["dev_seen"]
    with torch.no_grad():
        outputs = model(*feed.batch([feed.row(one) for one in split]).inputs(torch.device("cpu")))
    told = (tuned / "predictions_dev_seen.csv").read_text().splitlines()[1:]
    assert [float(line.split(",")[1]) for line in told] == pytest.approx(outputs.softmax(1)[:, 1].tolist(), abs=2e-6)


def test_it_is_tuned_again(tuned: Path, tmp_path: Path) -> None:
    words = ["--task", "hateful_memes", "--model", str(tuned), "--data", str(tuned.parent / "data"), *FEW]
    again = tune(tmp_path, *words, "--steps", "1", "--warmup", "0", "--lr", "1e-12", "--select", "")
    before, after = (from_pretrained(folder).flava.state_dict() for folder in (tuned, again))
    for name, tensor in before.items():
        assert torch.allclose(after[name], tensor, atol=1e-7), name


def test_one_that_is_not_at_its_end_is_told(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_bytes((tuned / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"has no model\.safetensors yet"):
        zero_shot.main(["--model", str(tmp_path / "half"), "--images", str(tmp_path)])
    (tmp_path / "half/step-00000001").mkdir()
    words = ["--task", "hateful_memes", "--data", str(tuned.parent / "data"), *FEW]
    with pytest.raises(ValueError, match="no weights yet; let it run to its end"):
        tune(tmp_path, *words, "--model", str(tmp_path / "half"))


def test_a_file_is_called_alike_by_all_recipes(tmp_path: Path) -> None:
    for file, name in (("first/model.safetensors", "first"), ("first/pytorch_model.bin", "first"), ("mine.pt", "mine")):
        assert Subject(str(tmp_path / file)).shown == name
