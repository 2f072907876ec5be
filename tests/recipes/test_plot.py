"""Figures from logs: every value of the log has its place, and no words lie on each other."""

import json
import sys
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import plot

LOSSES = ("image/mim", "text/mlm", "pair/itm", "pair/contrastive", "pair/mmm_text", "pair/mmm_image")
READINGS = (
    "image to text R@1",
    "image to text R@5",
    "zero-shot, all 64",
    "matching AUROC",
    "codes used",
    "a",
    "b",
    "c",
)


def run(folder: Path, factor: float = 1.0, *, steps: int = 40) -> Path:
    folder.mkdir(parents=True)
    records = []
    for step in range(1, steps + 1):
        losses = {name: factor * (at + 1) / step for at, name in enumerate(LOSSES)}
        records.append({"step": step} | losses | dict.fromkeys(plot._OF_STEP, factor * step))
        if step % 10 == 0:
            measured = {f"measured/{name}": factor * step / 100 for name in READINGS}
            records.append({"step": step} | measured | {"measured/mlm loss": 3.0, "measured/itm loss": 0.6})
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def test_a_log_is_read_by_name(tmp_path: Path) -> None:
    found = plot.curves(run(tmp_path / "a") / "log.jsonl")
    assert found["text/mlm"] == ([*range(1, 41)], [2.0 / step for step in range(1, 41)])
    assert found["measured/codes used"].steps == [10, 20, 30, 40]


@pytest.mark.parametrize("num_runs", [1, 3])
def test_every_value_is_drawn_with_labelled_axes_and_no_words_overlap(num_runs: int, tmp_path: Path) -> None:
    runs = {f"run {i}": plot.curves(run(tmp_path / str(i), 1.0 + i) / "log.jsonl") for i in range(num_runs)}
    figure = plot.draw(runs)
    used = [axes for axes in figure.axes if axes.axison]
    drawn = sorted(tuple(line.get_ydata()) for axes in used for line in axes.get_lines())
    assert drawn == sorted(tuple(curve.values) for found in runs.values() for curve in found.values())
    assert all(axes.get_xlabel() == "step" and axes.get_ylabel() and axes.get_title(loc="left") for axes in used)
    figure.canvas.draw()
    words = [text for axes in used for text in (axes._left_title, axes.xaxis.label, axes.yaxis.label)]
    boxes = [text.get_window_extent() for text in words]
    boxes += [legend.get_window_extent() for axes in used if (legend := axes.get_legend())]
    boxes += [axes.get_window_extent() for axes in used] + [legend.get_window_extent() for legend in figure.legends]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == ([] if num_runs == 1 else list(runs))
    plt.close(figure)


def test_smoothing_is_a_running_mean() -> None:
    assert plot._running_mean([1.0, 3.0, 5.0, 1.0], 2) == [1.0, 2.0, 4.0, 3.0]
    assert plot._running_mean([1.0, 3.0], 1) == [1.0, 3.0]


def test_the_command_writes_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run(tmp_path / "x" / "same"), run(tmp_path / "y" / "same", 2.0, steps=20)
    out = tmp_path / "figures" / "out.png"
    plot.main([str(a), str(b / "log.jsonl"), "--out", str(out), "--smooth", "4"])
    assert "x/same, y/same" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.size[0] == 1650
        assert len(picture.convert("RGB").resize((200, 200)).getcolors(1 << 20)) > 50


def test_a_line_half_written_is_left_out_and_others_are_told(tmp_path: Path) -> None:
    log = run(tmp_path / "a") / "log.jsonl"
    whole = plot.curves(log)
    log.write_text(log.read_text() + '{"step": 41, "image')
    assert plot.curves(log) == whole
    log.write_text("nonsense\n" + log.read_text())
    with pytest.raises(ValueError, match="line 1 is no record of a run"):
        plot.curves(log)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}"], "log.jsonl is not there; name the folder of a run"),
        (["{}/a", "{}/a"], "a run is named twice"),
        (["{}/a", "--names", "x", "y"], "--names are 2 different ones for 1 runs"),
        (["{}/a", "--smooth", "0"], "--smooth 0 must be 1 or more"),
        (["{}/a", "--out", "figure.txt"], "must end in .png, .pdf or .svg"),
        ([], "name a run's folder"),
    ],
)
def test_what_cannot_be_drawn_is_told(words: list[str], said: str, tmp_path: Path) -> None:
    run(tmp_path / "a")
    with pytest.raises(SystemExit, match=said):
        plot.main([word.format(tmp_path) for word in words])
