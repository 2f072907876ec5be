"""Models of a user's own that keep a graph, compute in half precision, or return what cannot be."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
sys.path.insert(0, str(Path(__file__).parent))

import linear_probe
import retrieving
import zero_shot
from evaluated import Evaluated
from made_tasks import MADE, picture
from results import read_results
from seers import COLOURS, colour, named, view

GRAPHS: list[bool] = []


def raw(device: torch.device) -> Evaluated:
    """Keeps a graph wherever one may be kept."""
    scale = torch.ones((), requires_grad=True)

    def kept(made: Tensor) -> Tensor:
        GRAPHS.append(made.requires_grad)
        return made

    return Evaluated(
        view,
        lambda views: kept(colour(views) * scale),
        lambda views: kept(colour(views) * scale),
        lambda texts: kept(named(texts) * scale),
        lambda views, texts: kept((colour(views) * named(texts)).sum(1) * scale),
    )


def half(device: torch.device) -> Evaluated:
    """As a model on a GPU often is."""
    return Evaluated(
        view,
        lambda views: colour(views).half(),
        lambda views: colour(views).half(),
        lambda texts: named(texts).bfloat16(),
        lambda views, texts: (colour(views) * named(texts)).sum(1).half(),
    )


def blank(device: torch.device) -> Evaluated:
    """Not a number for images."""
    return half(device)._replace(embed_image=lambda views: colour(views) * torch.nan)


def patches(device: torch.device) -> Evaluated:
    """A row for each patch, not for each image."""
    return half(device)._replace(
        features=lambda views: torch.ones(len(views), 4, 3), embed_image=lambda views: torch.ones(len(views), 4, 3)
    )


def several(device: torch.device) -> Evaluated:
    """As transformers' models, a tuple; and a matching head's two logits."""
    return half(device)._replace(
        features=lambda views: (colour(views),),  # type: ignore[arg-type, return-value]
        embed_text=lambda texts: (named(texts),),  # type: ignore[arg-type, return-value]
    )


def logits(device: torch.device) -> Evaluated:
    """A matching head's two logits."""
    return half(device)._replace(match=lambda views, texts: torch.ones(len(views), 2))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three classes of one image each, a captions file of the same, and a task."""
    rows = ["filepath\tcaption"]
    for number, name in enumerate(COLOURS[:3]):
        picture(tmp_path / "classes" / name / "0.png", number)
        rows.append(f"{name}/0.png\tthe {name} one")
    (tmp_path / "rows.tsv").write_text("\n".join(rows))
    MADE["dtd"](tmp_path / "tasks")
    return tmp_path


def classify(name: str, files: Path) -> float:
    zero_shot.main([*shared(name, files), "--images", str(files / "classes")])
    return read_results(files / "out/results.json")[0].value


def retrieve(name: str, files: Path) -> dict[str, float]:
    words = ["--retrieval", str(files / "rows.tsv"), "--images", str(files / "classes"), "--rerank", "10"]
    zero_shot.main([*shared(name, files), *words])
    return {row.metric: row.value for row in read_results(files / "out/results.json")}


def shared(name: str, files: Path) -> list[str]:
    return ["--model", f"test_own_models:{name}", "--out", str(files / "out"), "--device", "cpu", "--threads", "1"]


@pytest.mark.parametrize("name", ["raw", "half"])
def test_graphs_and_half_precision_change_nothing(name: str, files: Path) -> None:
    GRAPHS.clear()
    assert classify(name, files) == 1.0
    assert set(retrieve(name, files).values()) >= {1.0}
    linear_probe.main([*shared(name, files), "--task", "dtd", "--root", str(files / "tasks"), "--max-iter", "9"])
    assert (name == "raw") == bool(GRAPHS)
    assert not any(GRAPHS)  # a graph would hold the views of all images


def test_what_is_not_a_number_is_no_class(files: Path) -> None:
    with pytest.raises(ValueError, match="embeddings of images hold numbers that are not finite"):
        classify("blank", files)
    assert not (files / "out").exists()


def test_what_is_no_row_for_each_is_told_at_the_first_batch(files: Path) -> None:
    with pytest.raises(
        ValueError, match=r"the model made \(1, 4, 3\) of a batch of 1|made \(3, 4, 3\) of a batch of 3"
    ):
        classify("patches", files)
    with pytest.raises(ValueError, match="texts: the model made a tuple of a batch of 3"):
        classify("several", files)
    for name, told in (("patches", r"\(2, 4, 3\)"), ("several", "a tuple")):
        with pytest.raises(
            ValueError, match=f"two pictures that try the features: the model made {told} of a batch of 2"
        ):
            linear_probe.main([*shared(name, files), "--task", "dtd", "--root", str(files / "tasks")])
    with pytest.raises(ValueError, match=r"the model's match made \(9, 2\) of 9 pairs; a number for each"):
        retrieve("logits", files)


def test_images_that_are_reranked_are_read_once(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, once = [], retrieving.read_image
    monkeypatch.setattr(retrieving, "read_image", lambda file: (read.append(file), once(file))[1])
    retrieve("half", files)
    assert len(read) == len(set(read)) == 3
