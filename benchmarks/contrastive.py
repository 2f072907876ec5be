"""Losses in chunks beside whole tables: `python benchmarks/contrastive.py`; some minutes.

One process does one rank's share of the contrastive loss: its rows against the columns of all ranks, given and not gathered, so
that nothing travels; forward and backward, embeddings 512 wide, float32. And the loss over words, from states to gradients.
Memory is the most that is resident above what was there before, the inputs; each measurement is a process of its own, sides
take turns, medians count. Time is the processor's, on one thread. What is too large or too long here is not run, but counted.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro
from machine import ROOT, facts, from_now_on, most

WIDTH, WORDS, STATES = 512, 30_522, 768
PLAIN, CHUNKS = "plain", "chunks"


@dataclass(frozen=True)
class Config:
    """Compare chunks with whole tables."""

    batches: tuple[int, ...] = (8192, 32768)
    """Rows of all ranks."""
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    rows: tuple[int, ...] = (1536, 3072)
    """Labelled rows of the loss over words."""
    turns: int = 3
    most_gb: float = 5.0
    """Of whole tables; three are there at once at most."""
    longest: float = 12.0
    """Seconds that one measurement may take, by its products at 100 GFLOP/s; a share that takes longer is not run."""
    out: str = "benchmarks/results"
    one: str = ""
    """Used by itself: one measurement, as WHAT,SIDE,ROWS,COLUMNS; prints what it found."""


def main(config: Config) -> None:
    """Print the tables and write them."""
    if config.one:
        what, side, rows, columns = config.one.split(",")
        print(json.dumps({"contrastive": contrastive, "words": words}[what](side, int(rows), int(columns))))
        return
    lines = list(report(config))
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contrastive.md").write_text("\n".join(lines) + "\n")


def contrastive(side: str, rows: int, columns: int) -> dict[str, float]:
    """Memory in MB and seconds of a rank's share."""
    import torch
    import torch.nn.functional as F

    from torchflava.losses.compared import compare

    pairs, others = (F.normalize(torch.randn(n, 2, WIDTH), dim=-1).requires_grad_() for n in (rows, columns))
    scale, labels = torch.tensor([14.3], requires_grad=True), torch.arange(rows)
    every = torch.ones(rows, dtype=torch.bool)

    def whole() -> torch.Tensor:
        ways = [scale * pairs[:, way] @ others[:, 1 - way].T for way in (0, 1)]
        return sum(F.cross_entropy(table, labels, reduction="none") for table in ways).sum() / 2

    def chunks() -> torch.Tensor:
        return compare(pairs, others, scale, contrast=every)

    return _taken(whole if side == PLAIN else chunks)


def words(side: str, rows: int, columns: int) -> dict[str, float]:
    """Memory in MB and seconds of the loss over words in bfloat16, from states to the gradients of states and weight."""
    import torch
    import torch.nn.functional as F

    from torchflava.losses import fused_prediction_loss, masked_prediction_loss

    states = torch.randn(1, rows, STATES).bfloat16().requires_grad_()
    weight = (0.02 * torch.randn(columns, STATES)).bfloat16().requires_grad_()
    bias, labels = torch.zeros(columns).bfloat16().requires_grad_(), torch.randint(0, columns, (1, rows))

    def whole() -> torch.Tensor:
        return masked_prediction_loss(F.linear(states, weight, bias), labels).mean

    def chunks() -> torch.Tensor:
        return fused_prediction_loss(states, weight, bias, labels=labels).mean

    return _taken(whole if side == PLAIN else chunks)


def _taken(loss: object) -> dict[str, float]:
    before, began = from_now_on(), time.process_time()
    loss().backward()
    return {"memory": most() - before, "seconds": time.process_time() - began}


def measured(what: str, side: str, rows: int, columns: int) -> dict[str, float]:
    """One measurement, in a process of its own."""
    command = [sys.executable, __file__, "--one", f"{what},{side},{rows},{columns}"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
    print(what, side, rows, columns, found, flush=True)
    return found


def report(config: Config) -> Iterator[str]:
    """The results in words, as they come."""
    from torchflava.models import count_table

    yield from ("# benchmarks/contrastive.py", "", "## The contrastive loss, one rank's share", "")
    yield from ("| rows | ranks | of a rank | counted, MB | whole, MB | chunks, MB | whole, s | chunks, s | chunks / whole |",
                "|--:|--:|--:|--:|--:|--:|--:|--:|--:|")  # fmt: skip
    for batch in config.batches:
        for ranks in config.ranks:
            rows = batch // ranks
            inputs = 8 * WIDTH * (rows + batch)
            line = f"| {batch:,} | {ranks} | {rows:,} | {(count_table(rows, batch, WIDTH) - inputs) / 1e6:,.0f} | "
            if 12 * rows * batch * WIDTH / 100e9 > config.longest:
                yield f"{line}- | - | - | - | - |"
                continue
            yield line + compared(config, "contrastive", rows, batch)
    yield from ("", f"## The loss over {WORDS:,} words, of states {STATES} wide, bfloat16", "")
    yield from (
        "| labelled rows | all logits, MB | chunks, MB | all logits, s | chunks, s | chunks / all |",
        "|--:|--:|--:|--:|--:|--:|",
    )
    for rows in config.rows:
        yield f"| {rows:,} | " + compared(config, "words", rows, WORDS)
    yield from (
        "",
        "Whole: with tables of all rows by all columns. Counted: chunks, by `torchflava.models.count_table`, inputs left out.",
        "Time is the processor's; MB are decimal; - was not run, being too large or too long for this machine.",
        "",
        *facts(threads=1),
        f"`python benchmarks/contrastive.py --turns {config.turns}`, shared with others.",
    )


def compared(config: Config, what: str, rows: int, columns: int) -> str:
    """Both sides in turns: medians of memory and time, and of the turns' ratios of time."""
    sides = [CHUNKS] if 12 * rows * columns > 1e9 * config.most_gb else [PLAIN, CHUNKS]
    turns = [{side: measured(what, side, rows, columns) for side in sides} for _ in range(config.turns)]
    cells = [
        f"{statistics.median(turn[side][unit] for turn in turns):{form}}" if side in sides else "-"
        for unit, form in (("memory", ",.0f"), ("seconds", ".2f"))
        for side in (PLAIN, CHUNKS)
    ]
    both = PLAIN in sides
    ratio = statistics.median(turn[CHUNKS]["seconds"] / turn[PLAIN]["seconds"] for turn in turns) if both else None
    return " | ".join([*cells, "-" if ratio is None else f"{ratio:.2f}"]) + " |"


if __name__ == "__main__":
    main(tyro.cli(Config))
