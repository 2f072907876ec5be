"""results.json and the recipe that sets them beside the paper."""

import json
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import scorecard
from results import FILE, Measured, Result, find_results, read_results, write_results

from torchflava.evaluation import COLUMNS, PUBLISHED


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [Measured("cifar10", "accuracy", 0.9), Measured("coco", "tr@1", 0.25)]
    file = write_results(tmp_path / "run", rows, model="tiny", made_by="recipes/linear_probe.py", settings={"seed": 3})
    assert file == tmp_path / "run" / FILE
    found = read_results(file)
    assert [(row.task, row.metric, row.value) for row in found] == [tuple(row) for row in rows]
    assert {(row.model, row.made_by, row.settings["seed"]) for row in found} == {("tiny", "recipes/linear_probe.py", 3)}
    assert all(row.date.endswith("+00:00") for row in found)
    assert [path.name for path in file.parent.iterdir()] == [FILE]


def test_measured_again_takes_the_place_of_its_own_rows_alone(tmp_path: Path) -> None:
    write_results(tmp_path, [Measured("a", "m", 0.1), Measured("b", "m", 0.2)], model="x", made_by="r")
    write_results(tmp_path, [Measured("a", "m", 0.3)], model="y", made_by="r")
    write_results(tmp_path, [Measured("b", "m", 0.4)], model="x", made_by="r")
    found = [(row.model, row.task, row.value) for row in read_results(tmp_path / FILE)]
    assert found == [("x", "a", 0.1), ("y", "a", 0.3), ("x", "b", 0.4)]


def test_of_several_folders_the_newest_counts(tmp_path: Path) -> None:
    for folder, date, value in (
        ("one", "2026-01-02T00:00:00+00:00", 0.2),
        ("two/deep", "2026-01-01T23:30:00-01:00", 0.3),  # half an hour later
        ("three", "2026-01-01T00:00:00+00:00", 0.1),
    ):
        (tmp_path / folder).mkdir(parents=True)
        row = {"task": "a", "metric": "m", "value": value, "model": "x", "made_by": "r", "date": date}
        (tmp_path / folder / FILE).write_text(json.dumps([row]))
    assert [row.value for row in find_results([tmp_path])] == [0.3]


ROW = {"task": "a", "metric": "m", "value": 1, "model": "x", "made_by": "r", "date": "2026-01-02T00:00:00+00:00"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        json.dumps([{"task": "a"}]),
        json.dumps([ROW | {"colour": "red"}]),
        json.dumps([ROW | {"value": "high"}]),
        json.dumps([ROW | {"value": math.nan}]),
        json.dumps([ROW | {"date": "yesterday"}]),
        json.dumps([ROW | {"date": "2026-01-02"}]),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is not a file of results"):
        find_results([tmp_path])


def test_what_cannot_be_compared_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to write"):
        write_results(tmp_path, [], model="x", made_by="r")
    with pytest.raises(ValueError, match="a, m: the value nan"):
        write_results(tmp_path, [Measured("a", "m", math.nan)], model="x", made_by="r")
    with pytest.raises(ValueError, match="is not a folder"):
        find_results([tmp_path / "none"])
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_writes_table_csv_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flava = next(row for row in PUBLISHED if row.name == "FLAVA")
    ours = [Measured(*column.key, flava.cells[column.key] / 100 - 0.01) for column in COLUMNS]
    write_results(tmp_path / "a", ours, model="whole", made_by="recipes/finetune.py")
    emoji = [Measured("cifar10", "accuracy", 0.5), Measured("emoji", "zero-shot, all 64", 0.123)]
    write_results(tmp_path / "b", emoji, model="part", made_by="recipes/linear_probe.py")
    out = tmp_path / "card"
    scorecard.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out), "--beside", "FLAVA", "BERT base"])
    told = (out / "scorecard.md").read_text()
    assert told in capsys.readouterr().out
    head, *lines = [line for line in told.splitlines() if line.startswith("|")]
    assert head == "|  | whole | part | FLAVA | BERT base |"
    cells = {line.split("|")[1].strip(" *"): [c.strip(" *") for c in line.split("|")[2:-1]] for line in lines}
    assert cells["CIFAR10"] == ["91.87", "50.00", "92.87", ""]
    assert cells["vision average"] == ["78.44", "", "79.44", ""]
    assert cells["nlp average"] == ["77.20", "", "78.19", "80.86"]
    assert cells["macro average"] == ["74.85", "", "75.85", ""]
    assert cells["emoji"] == ["zero-shot, all 64", "part", "0.1230"]
    assert "measured by recipes/linear_probe.py, 20" in told
    assert len((out / "scorecard.csv").read_text().splitlines()) == 5
    with Image.open(out / "scorecard.png") as drawn:
        assert min(drawn.size) > 600


def test_the_figure_has_a_mark_for_every_cell() -> None:
    drawn = scorecard.figure(PUBLISHED)
    try:
        marks = [sum(len(line.get_xdata()) for line in axis.lines) for axis in drawn.axes]
        of = [sum(column.domain == d and column.key in row.cells for row in PUBLISHED for column in COLUMNS)
              for d in ("vision", "nlp", "multimodal")]  # fmt: skip
        assert marks[:3] == of
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == [row.name for row in PUBLISHED]
    finally:
        plt.close(drawn)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--beside", "GPT"], "no row 'GPT'"),
        (["{empty}"], "no results.json in"),
        (["{empty}/none"], "is not a folder"),
        (["--beside"], "nothing to show"),
    ],
)
def test_complaints(words: list[str], message: str, tmp_path: Path) -> None:
    words = [word.format(empty=tmp_path) for word in words]
    with pytest.raises(SystemExit, match=message):
        scorecard.main([*words, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_result_has_the_schema_that_the_page_tells() -> None:
    assert list(Result.__dataclass_fields__) == ["task", "metric", "value", "model", "made_by", "date", "settings"]


def test_a_number_from_a_part_of_the_data_stands_beside_the_papers_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, whole in (("all", True), ("few", False)):
        rows = [Measured("cifar10", "accuracy", 0.9 if whole else 0.123)]
        write_results(tmp_path / folder, rows, model=folder, made_by="r", settings={"whole": whole})
    scorecard.main([str(tmp_path), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "| cifar10, a part of its data | accuracy | few | 0.1230 |" in told
    assert "12.3" not in (tmp_path / "out" / "scorecard.csv").read_text()
    assert "90.0" in (tmp_path / "out" / "scorecard.csv").read_text()
