"""What can be evaluated: runs at any of their checkpoints, weights in others' layouts, and the documented open_clip model."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
sys.path.insert(0, str(Path(__file__).parent))

import evaluated
import linear_probe
import measure_scenes
import pretrain
import report
import zero_shot
from evaluation_settings import Subject, _of_subject
from fake_hub import serving, use
from made_tasks import MADE, picture
from results import read_results

from torchflava.models import from_pretrained, save_pretrained
from torchflava.training import session

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
        patch.setattr(report, "report", lambda *parts: None)
        folder = tmp_path_factory.mktemp("runs")
        pretrain.main(
            ["--preset", "tiny", "--steps", "4", "--save-every", "2", "--folder", str(folder), "--name", "run"]
        )
    return folder / "run"


def opened(model: Path | str, **told: object) -> evaluated.Evaluated:
    with session(0, "cpu") as ranks:
        return evaluated.open_evaluated(Subject(str(model), device="cpu", **told), ranks.device)


def test_a_run_brings_its_model_vocabulary_and_sizes(run: Path) -> None:
    found = opened(run)
    model = from_pretrained(run)
    view = found.view(torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8))
    assert view.shape == (3, model.flava.image_encoder.image_size, model.flava.image_encoder.image_size)
    assert found.embed_text is not None
    assert found.embed_text(["a red circle", "two blue squares"]).shape == (2, model.flava.embed_dim)
    assert found.match is not None
    assert found.match(torch.stack([view, view]), ["a red circle", "two blue squares"]).shape == (2,)


def test_a_model_on_the_hub(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("model.safetensors", "vocab.txt", "config.json")
    with serving() as hub:
        use(hub, monkeypatch, tmp_path)
        hub.add("some/model", {name: (run / name).read_bytes() for name in names})
        found, subject = opened("some/model"), Subject("some/model")
        assert [*_of_subject(subject, places=True)] == []
        assert (subject.shown, subject.place) == ("model", Path("runs/model"))
    pictures = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    own = opened(run)
    views = torch.stack([own.view(picture) for picture in pictures])
    assert found.embed_text is not None
    assert torch.equal(found.embed_image(views), own.embed_image(views))
    assert torch.equal(found.embed_text(["a red circle"]), own.embed_text(["a red circle"]))


def test_an_encoder_by_itself_is_no_model_to_evaluate(run: Path, tmp_path: Path) -> None:
    save_pretrained(from_pretrained(run).flava.image_encoder, tmp_path)
    with pytest.raises(
        ValueError, match=r"holds one part by itself, ImageEncoder; a whole FLAVA or CLIP is due.*--init-image"
    ):
        opened(tmp_path)


def test_a_run_that_was_stopped_is_read_from_its_last_checkpoint(run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    (stopped / "model.safetensors").unlink()
    pictures = torch.randint(0, 256, (4, 3, 60, 60), dtype=torch.uint8)

    def features(folder: Path) -> torch.Tensor:
        found = opened(folder)
        assert found.features is not None
        return found.features(torch.stack([found.view(image) for image in pictures]))

    whole = features(run)
    assert torch.equal(features(stopped), whole)
    own = from_pretrained(run).flava.image_encoder
    larger = own.image_size + own.embed.patch_size
    assert opened(stopped, image_size=larger).view(pictures[0]).shape == (3, larger, larger)
    shutil.rmtree(stopped / "step-00000004")
    assert not torch.equal(features(stopped), whole)
    shutil.rmtree(stopped / "step-00000002")
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor a checkpoint yet"):
        opened(stopped)


def test_other_image_sizes_and_lengths(run: Path) -> None:
    own = from_pretrained(run).flava.image_encoder
    larger = own.image_size + own.embed.patch_size
    found = opened(run, image_size=larger, max_length=5)
    view = found.view(torch.zeros(3, 50, 50, dtype=torch.uint8))
    assert view.shape[-1] == larger
    assert found.features is not None
    assert found.features(view[None]).shape == (1, own.width)
    assert found.embed_text is not None
    long = "a red circle and a red circle and a red circle"
    assert torch.allclose(
        found.embed_text([long]), found.embed_text(["a red circle"]), atol=1e-6
    )  # [CLS] a red circle [SEP]


def test_a_run_s_numbers_lie_in_its_folder(run: Path, tmp_path: Path) -> None:
    MADE["dtd"](tmp_path)
    linear_probe.main(
        ["--model", str(run), "--task", "dtd", "--root", str(tmp_path), "--device", "cpu", "--max-iter", "2"]
    )
    (row,) = read_results(run / "results.json")
    assert (row.task, row.model) == ("dtd", "run")
    assert list((run / "features").glob("dtd-*.safetensors"))


@pytest.mark.slow
def test_the_documented_open_clip_model_goes_through_both_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of docs/tasks.md, with weights drawn in place of those fetched."""
    pytest.importorskip("open_clip")
    told = (ROOT / "docs/tasks.md").read_text().partition("<!-- an open_clip model -->")[2]
    code = told.partition("```python\n")[2].partition("```")[0]
    assert 'pretrained="openai"' in code
    (tmp_path / "my_clip.py").write_text(code.replace('pretrained="openai"', "pretrained=None"))
    monkeypatch.chdir(tmp_path)
    MADE["dtd"](tmp_path / "data")
    for name in ("red", "blue"):
        picture(tmp_path / "classes" / name / "0.png", ("red", "lime", "blue").index(name))
    shared = ["--model", "my_clip:vit_b_32", "--device", "cpu", "--out", str(tmp_path / "out"), "--threads", "1"]
    linear_probe.main([*shared, "--task", "dtd", "--root", str(tmp_path / "data"), "--max-iter", "5"])
    zero_shot.main([*shared, "--images", "classes"])
    rows = {(row.task, row.metric): row for row in read_results(tmp_path / "out/results.json")}
    assert set(rows) == {("dtd", "accuracy"), ("classes", "zero_shot_accuracy")}
    assert {row.model for row in rows.values()} == {"my_clip:vit_b_32"}
    from features import load_features

    (file,) = (tmp_path / "out/features").iterdir()
    assert load_features(file)["test"].features.shape == (4, 768)  # before the projection to 512
