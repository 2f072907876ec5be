"""The scorecard against the averages and steps that the paper prints."""

import csv
import io

import pytest

from torchflava.evaluation import AVERAGES, COLUMNS, PUBLISHED, TASKS, Row, as_csv, as_markdown, averages, effects
from torchflava.evaluation import shown_averages as shown

ROWS = {row.name: row for row in PUBLISHED}


def test_counts_of_the_paper() -> None:
    assert len(TASKS) == 35
    assert [sum(column.domain == domain for column in COLUMNS) for domain in AVERAGES[:3]] == [22, 8, 11]
    assert len({column.key for column in COLUMNS}) == len({column.title for column in COLUMNS}) == 41
    assert [column.task for column in COLUMNS if column.metric == "mean_per_class"] == (
        ["aircraft", "pets", "caltech101", "flowers102"]
    )


def test_flavas_own_cells_give_what_the_paper_prints() -> None:
    found = averages(ROWS["FLAVA"].cells)
    assert round(found["vision"], 2) == 79.44
    assert round(found["nlp"], 2) == 78.20  # printed 78.19
    assert round(found["multimodal"], 2) == 69.92
    assert round(found["macro"], 2) == 75.85
    assert ROWS["FLAVA"].printed == {"vision": 79.44, "nlp": 78.19, "multimodal": 69.92, "macro": 75.85}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_full_domains_give_the_printed_average(row: Row) -> None:
    for name, number in averages(row.cells).items():
        assert number == pytest.approx(row.printed.get(name, number), abs=0.0125)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_printed_macro_averages_are_thirds_with_what_is_missing_as_nothing(row: Row) -> None:
    if "macro" in row.printed:
        assert row.printed["macro"] == pytest.approx(sum(row.printed.get(d, 0.0) for d in AVERAGES[:3]) / 3, abs=0.01)


def test_cells_are_of_columns_and_per_cent() -> None:
    known = {column.key for column in COLUMNS}
    for row in PUBLISHED:
        assert row.cells or row.printed
        assert set(row.cells) <= known
        assert set(row.printed) <= set(AVERAGES)
        assert all(1 < number < 100 for number in (*row.cells.values(), *row.printed.values()))


def test_effects_are_those_of_the_papers_text() -> None:
    """Section 4: MMM and ITM add 2.86 multimodal, 9.42 language and .21 vision; trained encoders 2.13 of the macro average."""
    lines = [line.split("|")[1:6] for line in effects(PUBLISHED).splitlines()[2:]]
    told = {name.strip(): [float(cell) for cell in cells] for name, *cells in lines}
    assert told["MMM and ITM"] == pytest.approx([0.21, 9.42, 2.86, 4.17])
    assert told["unimodal images and texts"] == pytest.approx([-1.06, 1.33, -1.79, -0.51])
    assert told["trained encoders to start from"][3] == pytest.approx(2.13)
    assert effects(PUBLISHED[:1]) == ""


def test_an_average_with_a_hole_is_no_average() -> None:
    cells = dict(ROWS["FLAVA"].cells)
    del cells["sst", "accuracy"]
    assert set(averages(cells)) == {"nlp", "multimodal"}
    assert averages({}) == {}


def test_markdown_leaves_holes_and_names_its_sources() -> None:
    mine = Row("mine", {("cifar10", "accuracy"): 12.345, ("coco", "ir@1"): 0.0}, {}, "measured here")
    told = as_markdown([mine, ROWS["BERT base"]])
    assert "| CIFAR10 | 12.35 |  |" in told or "| CIFAR10 | 12.34 |  |" in told
    assert "| COCO IR@1 | 0.00 |  |" in told
    assert "| ImageNet |  |  |" in told
    assert "| **vision average** |  |  |" in told
    assert "| **nlp average** |  | **80.86** |" in told
    assert "- mine: measured here" in told
    assert len({line.count("|") for line in told.splitlines() if line.startswith("|")}) == 1


def test_csv_holds_every_number() -> None:
    read = {line["model"]: line for line in csv.DictReader(io.StringIO(as_csv(PUBLISHED)))}
    for row in PUBLISHED:
        line = read[row.name]
        for column in COLUMNS:
            told = line[":".join(column.key)]
            assert (float(told) if told else None) == pytest.approx(row.cells.get(column.key))
        for name in AVERAGES:
            assert (float(line[name]) if line[name] else None) == pytest.approx(shown(row).get(name), abs=1e-3)
        assert line["source"] == row.source
