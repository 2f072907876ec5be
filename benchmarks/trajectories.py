"""How losses fall in bf16 and fp16 beside fp32: `python benchmarks/trajectories.py`; ten minutes on two cores.

Each run is `recipes/pretrain.py` on two gloo ranks under FSDP2, with the same seed, hence the same weights, samples and masks;
only what is measured after the last step is left out. The losses and the norm of the gradients of every step go into
results/trajectories.json, which tests/recipes/test_trajectories.py holds new runs against, and their differences into
results/trajectories.md. In float16 the loss is scaled by 1,024 from the start, as the 65,536 that torch begins with overflows on
the first steps, which are then lost; one run begins far too high on purpose, beside a float32 run that leaves out the same steps.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from machine import ROOT, commit, processor

Record = dict[str, float]
MADE_BY = "python benchmarks/trajectories.py"


class Run(NamedTuple):
    """A run to be compared."""

    words: str
    """Of the recipe's command line."""
    scale: float = 0.0
    """What float16's loss is multiplied with at first; 0 leaves it to the recipe."""
    left_out: tuple[int, ...] = ()
    """Steps, counted from 1, that change no weight, as those do that overflow."""


OVERFLOWING = (1, 2, 3, 4, 5, 8, 9)
"""The steps that overflow where the scale begins with 2^18: images and texts bear 2^13, pairs 2^11."""
TINY = "--preset tiny --steps 20"
SCENES = "--preset scenes --steps 200 --log-every 1 --save-every 200"
RUNS = {
    "tiny fp32": Run(TINY),
    "tiny bf16": Run(f"{TINY} --precision bf16"),
    "tiny fp16": Run(f"{TINY} --precision fp16", scale=2.0**10),
    "tiny fp16, overflowing": Run(f"{TINY} --precision fp16", scale=2.0**18),
    "tiny fp32, left out": Run(TINY, left_out=OVERFLOWING),
    "scenes fp32": Run(SCENES),
    "scenes bf16": Run(f"{SCENES} --precision bf16"),
    "scenes fp16": Run(f"{SCENES} --precision fp16", scale=2.0**10),
}
CLOSE = 40
"""The first steps of scenes, in which the runs are compared step by step: later ones part, as any two roundings do."""
LAST = 50
"""The last steps of scenes, whose mean is compared."""


@dataclass(frozen=True)
class Config:
    """Record the trajectories of training in three precisions."""

    out: str = "benchmarks/results"
    one: str = ""
    """Used by itself: be a rank of the run of this name, whose folder is made in `out`."""


def main(config: Config) -> None:
    """Run all, and write what they logged and how they differ."""
    if config.one:
        on_a_rank(RUNS[config.one], Path(config.out))
        return
    out, runs = Path(config.out), {}
    for name in RUNS:
        runs[name] = trajectory(name)
        print(f"{name}: {len(runs[name])} steps", flush=True)
    kept = {"made by": MADE_BY} | facts()
    out.mkdir(parents=True, exist_ok=True)
    (out / "trajectories.json").write_text(as_text(kept, runs))
    (out / "trajectories.md").write_text("\n".join(told(kept, runs)) + "\n")
    draw(
        {name.removeprefix("scenes "): run for name, run in runs.items() if "scenes" in name}, out / "trajectories.png"
    )


def trajectory(name: str) -> list[Record]:
    """Run one of `RUNS` and return its log."""
    with tempfile.TemporaryDirectory() as folder:
        start = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        start += ["--local-addr", "127.0.0.1", __file__, "--one", name, "--out", folder]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        command = [sys.executable, "-m", "torch.distributed.run", *start]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the run {name!r} ended with {done.returncode}:\n{done.stderr}")
        return logged(Path(folder))


def logged(folder: Path) -> list[Record]:
    """What the run of `on_a_rank` logged, a record a step, without what depends on the machine."""
    from torchflava.training import TIMED

    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]
    rounded = [{k: v if k == "step" else float(f"{v:.7g}") for k, v in record.items()} for record in records]
    return [record for record in rounded if len(record) > 1]


def on_a_rank(run: Run, folder: Path) -> None:
    """The recipe's `main`, on this rank; the scaler is set as `run` says, and nothing is measured at the end."""
    sys.path.insert(0, str(ROOT / "recipes"))
    import measure_scenes
    import report
    import start
    from pretrain import main as pretrain

    begin = start.start

    def begun(*given: Any) -> Any:
        started = begin(*given)
        if run.scale:
            started.scaler.load(started.scaler.state() | {"scale": run.scale})
        _leave_out(started.scaler, run.left_out)
        return started

    start.start = begun
    measure_scenes.measure_scenes = lambda measured: ([], [])
    report.report = lambda *given: None
    pretrain([*run.words.split(), "--device", "cpu", "--name", "run", "--folder", str(folder)])


def _leave_out(scaler: Any, steps: Sequence[int]) -> None:
    """Make some of the scaler's steps unwanted."""
    step, asked = scaler.step, count(1)

    def later(optimizer: Any, *, wanted: bool = True) -> bool:
        return step(optimizer, wanted=next(asked) not in steps and wanted)

    scaler.step = later


def facts() -> dict[str, str]:
    """Where the runs were made."""
    import torch

    cpu = f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return {"commit": commit(), "torch": torch.__version__, "machine": f"{os.cpu_count()} x {cpu}"}


def as_text(kept: Mapping[str, str], runs: Mapping[str, Sequence[Record]]) -> str:
    """JSON with a record a line, so that what changes between two versions can be read."""
    parts = []
    for name, records in runs.items():
        head = json.dumps(RUNS[name]._asdict())[:-1]
        parts.append(f"{json.dumps(name)}: {head}, " + '"records": [\n' + ",\n".join(map(json.dumps, records)) + "\n]}")
    return json.dumps(kept, indent=1)[:-2] + ',\n "runs": {\n' + ",\n".join(parts) + "\n}}\n"


def names_of(records: Sequence[Record]) -> list[str]:
    """The losses, by kind of batch, and the norm of the gradients."""
    names = {name for record in records for name in record if "/" in name and not name.startswith("step/")}
    return [*sorted(names), "step/grad_norm"]


def furthest(exact: Sequence[Record], other: Sequence[Record], name: str) -> float:
    """The largest difference of a value at any step that has it in both, relative to `exact`."""
    return max(abs(b[name] / a[name] - 1) for a, b in zip(exact, other, strict=True) if name in a and name in b)


def last_mean(records: Sequence[Record], name: str) -> float:
    """The mean of a loss over those of the last steps that have it."""
    return statistics.mean(record[name] for record in records[-LAST:] if name in record)


def told(kept: Mapping[str, str], runs: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """The differences in words."""
    skipped = runs["tiny fp16, overflowing"][-1]["step/skipped"]
    yield from (
        "# benchmarks/trajectories.py",
        "",
        f"{kept['machine']}, shared with others; torch {kept['torch']}, commit {kept['commit']}. Made by "
        f"`{kept['made by']}`, which makes them anew. Two gloo ranks under FSDP2, one thread each, one seed.",
        "",
        "## tiny, 20 steps of 8 samples",
        "",
        "The largest difference from fp32 at any step, relative to fp32. The last column begins with a scale of 2^18: "
        f"{skipped:.0f} steps overflow, are left out and are counted (`step/skipped`); it is compared with an fp32 run that "
        "leaves out the same steps.",
        "",
        "| | bf16 | fp16 | fp16, overflowing |",
        "|---|--:|--:|--:|",
    )
    pairs = [("fp32", "bf16"), ("fp32", "fp16"), ("fp32, left out", "fp16, overflowing")]
    for name in names_of(runs["tiny fp32"]):
        far = [furthest(runs[f"tiny {a}"], runs[f"tiny {b}"], name) for a, b in pairs]
        yield f"| {name} | " + " | ".join(f"{100 * value:.2f} %" for value in far) + " |"
    yield from _of_scenes(runs)


def _of_scenes(runs: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    yield from (
        "",
        "## scenes, the default preset, 200 steps of 64 samples",
        "",
        f"The largest difference from fp32 at any of the first {CLOSE} steps, and the mean of each loss over the last {LAST}. "
        "Between them the contrastive loss begins to fall, steeply, and runs that differ by a rounding part there: the single "
        "steps differ, the curves do not ([trajectories.png](trajectories.png)).",
        "",
        f"| | bf16, first {CLOSE} | fp16, first {CLOSE} | fp32, last {LAST} | bf16, last {LAST} | fp16, last {LAST} |",
        "|---|--:|--:|--:|--:|--:|",
    )
    exact, *others = (runs[f"scenes {precision}"] for precision in ("fp32", "bf16", "fp16"))
    for name in names_of(exact):
        far = [f"{100 * furthest(exact[:CLOSE], other[:CLOSE], name):.2f} %" for other in others]
        yield f"| {name} | " + " | ".join([*far, *(f"{last_mean(run, name):.3f}" for run in (exact, *others))]) + " |"


def draw(runs: Mapping[str, Sequence[Record]], path: Path) -> None:
    """The curves by `recipes/plot.py`."""
    sys.path.insert(0, str(ROOT / "recipes"))
    import plot

    found = {}
    for run, records in runs.items():
        having = {name: [record for record in records if name in record] for name in names_of(records)}
        found[run] = {n: plot.Curve([r["step"] for r in rows], [r[n] for r in rows]) for n, rows in having.items()}
    plot.draw(found).savefig(path, dpi=60)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
