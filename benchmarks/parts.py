"""What a batch of pairs costs in parts: `python benchmarks/parts.py`. Memory and time of one step beside the batch at once.

Each measurement is a process of its own, so that its greatest memory is its own; what the process needs before the step is taken
off. Sides take turns; time is the processor's, on one thread. The goal: at most 1.35 times the time a pair, and memory that is
flat but for the contrastive loss's table of all rows by all columns, which a rank holds as (rows of the rank) x (rows of all).
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """Compare a batch in parts with the batch at once."""

    batch_sizes: tuple[int, ...] = (512, 2048, 8192)
    rows: int = 256
    """Of a part."""
    whole_up_to: int = 2048
    """The largest batch that is also computed at once; 8,192 takes 18 GB."""
    turns: int = 3
    out: str = "benchmarks/results"
    one: str = ""
    """Used by itself: measure one step of BATCH,ROWS and print what it took."""


def step(batch_size: int, rows: int) -> dict[str, float]:
    """Seconds of the processor and greatest memory of a step, in MB beyond what was there before."""
    import torch
    from torch import Tensor

    from torchflava.batch import CachedPairBatch, PairBatch
    from torchflava.losses import mean_losses
    from torchflava.models import flava_for_pretraining, flava_model
    from torchflava.models.labelled import labelled_rows
    from torchflava.training import Across, accumulate

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = flava_for_pretraining(flava_model("mini", image_size=48, patch_size=12, vocab_size=512), num_codes=128)
    whole = pairs(batch_size)

    def contrast(image: Tensor, text: Tensor, parts: list[PairBatch]) -> object:
        return model.contrast(image, text, torch.cat([part.contrast for part in parts]))

    parts = [PairBatch(*(column[at : at + rows] for column in whole)) for at in range(0, batch_size, rows)]
    before, began = _memory(), time.process_time()
    counts = labelled_rows(whole)
    accumulate(
        model,
        parts,
        partial(mean_losses, num_rows=counts),
        objective=lambda means: torch.stack(list(means.values())).sum(),
        make=lambda part: part,
        across=Across("contrastive", model.embed_pair, contrast, CachedPairBatch) if len(parts) > 1 else None,
    )
    return {"seconds": time.process_time() - began, "memory": _memory() - before}


def pairs(n: int) -> object:
    """Random pairs: 16 patches, 16 tokens."""
    import torch

    from torchflava.batch import PairBatch

    def some(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape)

    keep, yes = torch.ones(n, 16, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    return PairBatch(
        torch.rand(n, 3, 48, 48), torch.rand(n, 16) < 0.4, some(16, n, 6), some(128, n, 6), some(512, n, 16), keep,
        some(512, n, 16), keep, some(16, n, 4), some(512, n, 4), torch.rand(n) < 0.9, yes,
    )  # fmt: skip


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(batch_size: int, rows: int) -> dict[str, float]:
    """`step`, in a process of its own."""
    command = [sys.executable, __file__, "--one", f"{batch_size},{rows}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def row(batch_size: int, turns: list[tuple[dict[str, float] | None, dict[str, float]]]) -> str:
    """Medians of the turns, as a line of the table."""
    sides = [[whole for whole, _ in turns if whole], [parts for _, parts in turns]]
    memory = [f"{statistics.median(one['memory'] for one in side):,.0f}" if side else "-" for side in sides]
    each = [[1e3 * one["seconds"] / batch_size for one in side] for side in sides]
    times = [f"{statistics.median(side):.2f}" if side else "-" for side in each]
    ratio = f"{statistics.median(p['seconds'] / w['seconds'] for w, p in turns if w):.2f}" if sides[0] else "-"
    return f"| {batch_size:,} | {memory[0]} | {memory[1]} | {times[0]} | {times[1]} | {ratio} |"


def main(config: Config) -> None:
    """Print the table and write it."""
    if config.one:
        batch_size, rows = map(int, config.one.split(","))
        print(json.dumps(step(batch_size, rows)))
        return
    import torch

    lines = [
        "| batch | at once, MB | in parts, MB | at once, ms a pair | in parts, ms a pair | in parts / at once |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for batch_size in config.batch_sizes:
        turns = []
        for _ in range(config.turns):
            whole = measured(batch_size, batch_size) if batch_size <= config.whole_up_to else None
            turns.append((whole, measured(batch_size, config.rows)))
        lines.append(row(batch_size, turns))
        print(lines[-1], flush=True)
    told = f"torch {torch.__version__}, one thread, size mini at 48 px, parts of {config.rows} pairs"
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parts.md").write_text(f"# benchmarks/parts.py\n\n{told}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
