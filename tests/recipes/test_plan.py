"""Plans: the largest part that fits, found by trying all; sums, commands and complaints."""

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import flava

from torchflava.codebooks import fit_patches
from torchflava.heads import MaskedPredictionHead
from torchflava.models import save_pretrained

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import plan
from planned import Machines, Planner, batch_of, helps
from presets import parse

ROOT = Path(__file__).parents[2]
WORDS = ["--preset", "scenes", "--model", "tiny", "--batch-size", "192"]


def planner(room: int, *words: str, per_node: int = 8) -> Planner:
    return Planner(parse([*WORDS, *words], places=False), Machines(per_node, room))


@pytest.fixture(scope="module")
def ample() -> Planner:
    return planner(10**12)


@pytest.mark.slow
def test_the_largest_part_that_fits_is_found(ample: Planner) -> None:
    """192 / 2 = 96 rows: each of its divisors is tried by hand."""
    takes = {micro: ample.need(2, micro).total for micro in (96, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)}
    assert [*takes.values()] == sorted(takes.values(), reverse=True)
    for room in (takes[96], takes[96] - 1, takes[24] + 5, takes[12] - 1, takes[1]):
        least = ample.under(ample.config)
        least.machines = Machines(8, room)
        found = least.plan(2)
        assert found is not None
        assert found.micro == max(micro for micro, total in takes.items() if total <= room)
        assert found.passes * found.micro == found.rows == 96
    least.machines = Machines(8, takes[1] - 1)
    assert least.plan(2) is None


def test_the_total_is_of_its_parts(ample: Planner) -> None:
    at_once, parts = ample.need(2, 96), ample.need(2, 24)
    weights = sum(parameter.numel() for parameter in ample.model.parameters())
    half = -(-weights // 2)
    assert (at_once.budget.weights, at_once.budget.gradients) == (12 * half, 4 * half)
    assert (parts.budget.weights, parts.budget.gradients) == (12 * half, 4 * weights)
    codebook = 4 * 128 * 3 * 12 * 12
    assert (at_once.standing, parts.standing) == (codebook, codebook + 16 * 96 * ample.model.flava.embed_dim)
    standing = at_once.budget.weights + at_once.budget.gradients + at_once.budget.gathered + at_once.standing
    assert at_once.total == standing + at_once.states.most + at_once.table
    assert parts.at_once == max(parts.states.most, parts.table, parts.budget.update)
    assert parts.kind == "pair"


def test_settings_of_the_run_count(ample: Planner) -> None:
    base = ample.need(2, 24)
    assert planner(10**12, "--precision", "bf16").need(2, 24).states.kept < 0.7 * base.states.kept
    again = {how: planner(10**12, "--recompute", how).need(2, 24).states for how in ("selective", "full")}
    assert again["full"].most < 0.6 * base.states.most
    assert again["full"].most < 0.8 * again["selective"].most < 0.7 * base.states.most
    assert ample.under(replace(ample.config, spread="copies")).need(2, 24).budget.weights == 3 * base.budget.gradients
    assert ample.under(replace(ample.config, spread="node")).need(2, 24).budget == base.budget
    away = ample.under(replace(ample.config, offload=True)).need(2, 24).budget
    assert (away.weights, away.in_main_memory) == (0, base.budget.weights * 4 // 3)
    assert ample.under(replace(ample.config, micro_batch=5)).plan(2) == ample.need(2, 5)
    alone = planner(10**12, "--shares.pair", "0", "--shares.image", "0", "--shares.text", "1")
    assert (alone.need(2, 24).kind, alone.need(2, 24).table) == ("text", 0)


def test_compiled_blocks_keep_what_one_gpu_casts_though_they_are_computed_again() -> None:
    words = {"kept": [], "again": ["--recompute", "full"], "compiled": ["--recompute", "full", "--compiled"]}
    cast = {
        name: planner(10**12, "--precision", "bf16", *more).need(1, 24).budget.gathered for name, more in words.items()
    }
    assert cast["again"] < cast["kept"] == cast["compiled"]


def test_what_would_help_fits(ample: Planner) -> None:
    short = ample.under(replace(ample.config, micro_batch=24))
    short.machines = Machines(8, ample.need(2, 24).total - 1)
    told = list(helps(short, 2))
    assert told[0].startswith("a smaller --micro-batch (16 rows at a time")
    assert any(word.startswith("--recompute selective (") for word in told)
    assert any(word.startswith("--recompute full (") for word in told)
    assert any(word.startswith("--offload (") for word in told)


def test_time_counts_what_is_computed_twice(ample: Planner) -> None:
    from torchflava.models import step_flops

    shares = {"pair": 0.7, "image": 0.15, "text": 0.15}
    batches = {kind: batch_of(kind, 96, ample.config) for kind in shares}
    once = sum(share * step_flops(ample.model, batches[kind], world_size=2) for kind, share in shares.items())
    assert ample.seconds(ample.need(2, 96), 1e9) == pytest.approx(once / 1e9)
    parts = ample.seconds(ample.need(2, 24), 1e9)
    assert 1.05 < parts / (once / 1e9) < 4 / 3
    for how, more in (("selective", 1), ("full", 4 / 3)):
        again = planner(10**12, "--recompute", how)
        assert again.seconds(again.need(2, 96), 1e9) == pytest.approx(more * once / 1e9)


def test_what_is_printed_starts_the_run_that_was_planned(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["--gpus", "2", "16", "--gpu-gb", "0.02", "--per-node", "8", "--gpu", "A100", "--", *WORDS])
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith(("| 2 |", "| 16 |"))]
    assert len(rows) == 2
    assert all(row.count("|") == 13 for row in rows)
    commands = [shlex.split(line) for line in out.splitlines() if line.startswith("torchx run")]
    assert [command[5:9] for command in commands] == [["--nodes", "1", "--gpus", "2"], ["--nodes", "2", "--gpus", "8"]]
    for command, row in zip(commands, rows, strict=True):
        config = parse(command[command.index("--") + 1 :], places=False)
        assert replace(config, micro_batch=0) == parse(WORDS, places=False)
        at_a_time, of_a_gpu = (int(row.split(" | ")[at]) for at in (2, 1))
        assert (config.micro_batch or of_a_gpu) == at_a_time
    assert "630 of pairs, 135 of images, 135 of texts" in out
    assert "Time is assumed, not measured: 40% of 19.5 TFLOPS" in out


def test_a_codebook_is_found_as_a_run_finds_it(tmp_path: Path) -> None:
    """In a folder too, beside a model's weights."""
    images = torch.randint(0, 256, (40, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fit_patches(images, num_codes=37, patch_size=4).save(tmp_path / "codebook.safetensors")
    save_pretrained(flava(), tmp_path / "model.safetensors")
    for place in (tmp_path, tmp_path / "codebook.safetensors"):
        model = planner(10**12, "--codebook", str(place)).model
        assert isinstance(model.mim, MaskedPredictionHead)
        assert model.mim.num_codes == 37


@pytest.mark.parametrize(("codebook", "told"), [("nowhere/encoder.pkl", True), ("", False)])
def test_a_dvae_s_time_is_said_to_be_left_out(capsys: pytest.CaptureFixture[str], codebook: str, told: bool) -> None:
    """It encodes every image of every step, unless codes.py did."""
    plan.main(["--gpus", "2", "--", *WORDS, "--codebook", codebook])
    assert ("recipes/data/codes.py" in capsys.readouterr().out) is told


@pytest.mark.slow
def test_what_does_not_fit_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["--gpus", "2", "--gpu-gb", "0.002", "--", *WORDS])
    out = capsys.readouterr().out
    assert "On 2 GPUs it does not fit: with 1 row at a time it takes" in out
    assert "GB of the 0.0 that may be filled" in out
    assert "torchx" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpus", "7", "--", *WORDS], "--batch-size 192 is no multiple of 7 GPUs; the nearest that are: 189 or 196"),
        (["--gpus", "500", "--", *WORDS], "--batch-size 192 is no multiple of 500 GPUs; the nearest that are: 500"),
        (["--gpus", "12", "--", *WORDS], "--gpus 12 fill no nodes of 8; choose a multiple, or say --per-node"),
        (["--gpus", "0", "--", *WORDS], "--gpus 0 must be 1 or more"),
        (["--gpu", "B52", "--", *WORDS], "--gpu B52 is not known; choose of A100"),
        (["--mfu", "1.5", "--", *WORDS], "--mfu 1.5 must be above 0 and at most 1"),
        (["--reserve", "1", "--", *WORDS], "--reserve 1.0 must be at least 0 and below 1"),
        (["--gpu-gb", "0", "--", *WORDS], "--gpu-gb 0 must be above 0"),
        (["--preset", "tiny", "--", *WORDS], "--preset is given twice; name one"),
        (["--preset", "huge"], "no preset is called 'huge'"),
        (["--", "--image-size", "50"], "--image-size 50 is no multiple of --patch-size 12"),
    ],
)
def test_what_cannot_be_planned_is_told(words: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as end:
        plan.main(words)
    assert told in str(end.value)


def test_help_needs_no_torch() -> None:
    code = "import sys, plan\ntry: plan.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "recipes", capture_output=True, text=True, check=True
    )
    assert "--gpu-gb" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_the_page_has_the_table_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    plan.main(["--preset", "flava"])
    page = (ROOT / "docs/launching/batch.md").read_text()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(printed) == 5
    assert "\n".join(printed) in page
