"""The benchmark of scaling: its sizes, what is written and read again, and the whole at the size tiny."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")

import scaling
import scaling_paper
import sides
from on_paper import Ranks
from scaling import Config, Found

TINY = Config(size="tiny", image_size=32, batch_size=4, turns=1, paper=("tiny:3",), gpus=(1, 8, 16))


def test_each_sweep_changes_one_thing() -> None:
    config = scaling.settled(TINY)
    of = {sweep: scaling.points(config, sweep) for sweep in scaling.SWEEPS}
    assert [point.shape.batch_size for point in of["batch"]] == [1, 4]
    assert [point.shape.text_length for point in of["text"]] == [16, 64]
    assert [point.shape.image_size for point in of["image"]] == [32, 64]
    assert [(point.ranks, point.shape.batch_size, point.samples) for point in of["weak"]] == [(1, 4, 4), (2, 4, 8)]
    assert [(point.ranks, point.shape.batch_size, point.samples) for point in of["strong"]] == [(1, 4, 4), (2, 2, 4)]
    assert {point.case.kind for point in of["text"]} == {"text"}


def test_wrong_words_are_told() -> None:
    with pytest.raises(SystemExit, match="no multiple of 3 ranks"):
        scaling.settled(Config(ranks=(1, 3)))
    with pytest.raises(SystemExit, match="--sweeps rows"):
        scaling.settled(Config(sweeps=("rows",)))
    for paper in ("tiny", "tiny:many", "tiny:3:twice", "tiny:3:recompute:4", "huge:3"):
        with pytest.raises(SystemExit, match=f"--paper {paper}"):
            scaling_paper.planned((paper,), (1,))
    with pytest.raises(SystemExit, match="--gpus 12 fill no nodes"):
        scaling_paper.planned(("tiny:3",), (12,))


def test_operations_of_a_sample_do_not_grow_with_ranks_but_for_the_columns_compared() -> None:
    one, two = (scaling.flops_of(point) for point in scaling.points(scaling.settled(TINY), "weak"))
    assert two - one == 3 * 4 * 4 * 32  # each row against four columns more, both ways, in 32 dimensions, three times


def test_a_line_tells_medians() -> None:
    config = scaling.settled(TINY)
    found = Found(scaling.points(config, "batch")[1], 2 * 10**9, [4.0, 8.0, 2.0], memory=120.4, held=3000.0)
    assert scaling.line(found) == "| 4 | 1.000 | 0.500 to 2.000 | 2.00 | 2.0 | 120 | 3,000 |"
    alone, both = scaling.points(config, "weak")
    assert scaling.line(replace(found, point=alone)).endswith("| 3,000 | 0 |")
    model = sides.our_model(both.shape)
    unread = sum(x.numel() for part in (model.mim, model.mlm) for x in part.parameters())
    moved = (
        2 * sum(x.numel() for x in model.parameters()) - unread
    )  # gathered, and but for the heads of other kinds reduced
    assert 1 < scaling.sent_by(both) / (4 * moved / 2) < 1.05  # each keeps a half; blocks are gathered again


def test_ways_of_spreading() -> None:
    assert scaling_paper.ways(1) == [("all", Ranks(1))]
    assert scaling_paper.ways(8) == [("all", Ranks(8)), ("copies", Ranks(1, 8))]
    assert scaling_paper.ways(64) == [("all", Ranks(64)), ("node", Ranks(8, 8)), ("copies", Ranks(1, 64))]


def test_a_batch_of_all_is_shared_where_its_rows_fit() -> None:
    plans = scaling_paper.planned(("tiny:=1024", "tiny:3:recompute"), (1, 8))
    found = [(plan.name, plan.spread, plan.ranks.world, plan.shape.batch_size) for plan in plans]
    assert found[:2] == [("tiny, a batch of 1,024", spread, 8, 128) for spread in ("all", "copies")]
    assert [rows for *_, rows in found[2:]] == [3, 3, 3]
    assert plans[2].efficiency == 1  # one GPU beside itself
    assert plans[3].rate == pytest.approx(8 * 3 / plans[3].mixture)
    with pytest.raises(SystemExit, match="8 GPUs do not share it evenly"):
        scaling_paper.planned(("tiny:=1001",), (8,))


@pytest.mark.slow
def test_the_whole_at_the_size_tiny_and_again_from_its_numbers(tmp_path: Path) -> None:
    few = {"sweeps": ("batch", "text", "weak"), "batch_sizes": (1,), "text_lengths": (8,), "out": str(tmp_path)}
    scaling.main(Config(**vars(TINY) | few))
    page = (tmp_path / "scaling-tiny.md").read_text()
    assert page.count("| s a sample |") == 3
    assert page.count("| copies |") == 2  # on 8 and on 16
    assert (tmp_path / "scaling-tiny.png").stat().st_size > 30_000
    again = {"measured": str(tmp_path / "scaling-tiny.json"), "out": str(tmp_path / "again")}
    scaling.main(Config(**vars(TINY) | few | again))
    assert (tmp_path / "again/scaling-tiny.md").read_text() == page
