"""What 8,192 pairs cost in micro-batches with cached embeddings: `python benchmarks/accumulation.py`; a quarter of an hour.

The size tiny really computes 8,192 pairs, at once and in micro-batches. The size base cannot do so at once on this machine: its
memory is measured for few pairs, whose number it is linear in, and the line is drawn on to 8,192. Memory is the most that is
resident during the step above what was before it, which is model, gradients and batch, each time in a process of its own:
with the gradients in it, it would be theirs alone for few pairs, as they grow while the states are given back. Time is the
processor's, on one thread, as the cores are shared; sides take turns and medians count.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from machine import ROOT, commit, from_now_on, most, processor

ALL = 8192


class Shape(NamedTuple):
    """A model's size and that of its samples."""

    image_size: int
    patch_size: int
    vocab_size: int
    num_codes: int
    num_tokens: int
    num_masked: int
    """Patches."""


SHAPES = {"tiny": Shape(32, 8, 300, 32, 16, 6), "base": Shape(224, 16, 30_522, 8192, 77, 75)}
"""The preset tiny's, and the paper's (table A.1)."""
MASKED_WORDS = 12


@dataclass(frozen=True)
class Config:
    """Compare a batch in micro-batches with the batch at once."""

    micro: tuple[int, ...] = (64, 256, 1024)
    """Rows of a micro-batch of the size tiny."""
    few: tuple[int, ...] = (2, 4, 8)
    """Rows of base's batches."""
    turns: int = 3
    out: str = "benchmarks/results"
    one: str = ""
    """Used by itself: one measurement, as WHAT,SIZE,ROWS,MICRO,TURNS; prints what it found."""


def main(config: Config) -> None:
    """Print the tables and write them."""
    if config.one:
        what, size, *numbers = config.one.split(",")
        print(json.dumps({"step": one_step, "table": table, "times": times}[what](size, *map(int, numbers))))
        return
    lines = list(report(config))
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "accumulation.md").write_text("\n".join(lines) + "\n")


def measured(what: str, size: str, rows: int, *, micro: int = 0, turns: int = 1) -> Any:
    """One measurement, in a process of its own."""
    command = [sys.executable, __file__, "--one", f"{what},{size},{rows},{micro},{turns}"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
    print(what, size, rows, micro, found, flush=True)
    return found


def one_step(size: str, rows: int, micro: int, turns: int) -> dict[str, float]:
    """Memory in MB and seconds of a step of `rows` pairs, `micro` at a time; all at once if that is 0."""
    model, batch = made(size, rows)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone().zero_()  # written to, so that it is resident
    before, began = from_now_on(), time.process_time()
    if micro:
        cached(model, batch, micro)
    else:
        at_once(model, batch)
    return {"memory": most() - before, "seconds": time.process_time() - began}


def table(size: str, rows: int, micro: int, turns: int) -> dict[str, float]:
    """Memory in MB and seconds of the contrastive loss of `rows` embeddings and its gradients, which the cached way keeps."""
    import torch

    model, _ = made(size, 1)
    with torch.no_grad():
        width = model.embed_pair(made(size, 1)[1])[0].shape[1]
    before, began = from_now_on(), time.process_time()
    image, text = (torch.nn.functional.normalize(torch.randn(rows, width), dim=1).requires_grad_() for _ in range(2))
    loss = model.contrast(image, text, torch.ones(rows, dtype=torch.bool))
    (loss.total / loss.num_rows).backward()
    seconds, kept = time.process_time() - began, 2 * 2 * image.numel() * 4 / 1e6
    return {"memory": most() - before, "kept": kept, "seconds": seconds}


def times(size: str, rows: int, micro: int, turns: int) -> dict[str, list[float]]:
    """Seconds of a step in turns: at once; cached; in the same micro-batches, each with a contrastive loss of its own."""
    model, batch = made(size, rows)
    sides: dict[str, Callable[[], None]] = {
        "at once": partial(at_once, model, batch),
        "cached": partial(cached, model, batch, micro),
        "uncached": partial(uncached, model, batch, micro),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            began = time.process_time()
            side()
            if turn:  # the first warms up
                found[name].append(time.process_time() - began)
    return found


def made(size: str, rows: int) -> tuple[Any, Any]:
    """The model, and a batch of random pairs as the model takes it."""
    import torch

    from torchflava.batch import PairBatch
    from torchflava.models import flava_for_pretraining, flava_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    s = SHAPES[size]
    flava = flava_model(size, image_size=s.image_size, patch_size=s.patch_size, vocab_size=s.vocab_size)
    num_patches = (s.image_size // s.patch_size) ** 2

    def some(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, (rows, *shape))

    keep, yes = torch.ones(rows, s.num_tokens, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    ids, words = some(s.vocab_size, s.num_tokens), min(MASKED_WORDS, s.num_tokens // 4)
    batch = PairBatch(
        torch.rand(rows, 3, s.image_size, s.image_size), torch.rand(rows, num_patches) < 0.4, some(num_patches, s.num_masked),
        some(s.num_codes, s.num_masked), ids, keep, ids, keep, some(s.num_tokens, words), some(s.vocab_size, words), yes, yes,
    )  # fmt: skip
    return flava_for_pretraining(flava, num_codes=s.num_codes), batch


def at_once(model: Any, batch: Any) -> None:
    """The batch's gradients."""
    from torchflava.losses import mean_losses

    sum(mean_losses(model(batch)).values()).backward()


def cached(model: Any, batch: Any, micro: int) -> None:
    """The same gradients from micro-batches."""
    import torch

    from torchflava.batch import CachedPairBatch
    from torchflava.training import Across

    def contrast(image: torch.Tensor, text: torch.Tensor, parts: Sequence[Any]) -> Any:
        return model.contrast(image, text, torch.cat([part.contrast for part in parts]))

    _in_parts(model, batch, micro, across=Across("contrastive", model.embed_pair, contrast, CachedPairBatch))


def uncached(model: Any, batch: Any, micro: int) -> None:
    """Not the same gradients: each micro-batch's rows are compared among themselves, so nothing goes forward twice."""
    _in_parts(model, batch, micro, across=None)


def _in_parts(model: Any, batch: Any, micro: int, *, across: Any) -> None:
    from torchflava.batch import PairBatch
    from torchflava.losses import mean_losses
    from torchflava.models.labelled import labelled_rows
    from torchflava.training import accumulate

    parts = [PairBatch(*(column[at : at + micro] for column in batch)) for at in range(0, len(batch.ids), micro)]
    means = partial(mean_losses, num_rows=labelled_rows(batch))
    accumulate(model, parts, means, objective=lambda m: sum(m.values()), make=lambda part: part, across=across)


def report(config: Config) -> Iterator[str]:
    """The results in words, as they come."""
    yield from ("# benchmarks/accumulation.py", "", *facts(), "", f"## tiny: {ALL:,} pairs, measured", "")
    yield from ("| micro-batch | memory, MB | time, s | time / at once |", "|--:|--:|--:|--:|")
    micros = (0, *config.micro)
    found = [[measured("step", "tiny", ALL, micro=micro) for micro in micros] for _ in range(config.turns)]
    for micro, turns in zip(micros, zip(*found, strict=True), strict=True):
        memory, seconds = (statistics.median(turn[name] for turn in turns) for name in ("memory", "seconds"))
        ratio = statistics.median(turn["seconds"] / row[0]["seconds"] for turn, row in zip(turns, found, strict=True))
        yield f"| {micro or 'at once'} | {memory:,.0f} | {seconds:.1f} | {ratio:.2f} |"
    yield from of_base(config)
    yield from of_time(config)


def of_base(config: Config) -> Iterator[str]:
    """Base's memory, measured for few pairs and drawn on."""
    small = config.few[0]
    whole = {rows: measured("step", "base", rows)["memory"] for rows in config.few}
    parts = measured("step", "base", config.few[-1], micro=small)["memory"]
    its, tinys = measured("table", "base", ALL), measured("table", "tiny", ALL)
    b, a = statistics.linear_regression(list(whole), list(whole.values()))
    off = max(abs(a + b * rows - memory) / memory for rows, memory in whole.items())
    told = ", ".join(f"{memory:,.0f} MB for {rows}" for rows, memory in whole.items())
    yield from (
        "",
        "## base at 224 px, 77 tokens, fp32: measured for few pairs, extrapolated to 8,192",
        "",
        f"At once, measured: {told}. The line through them is {a:,.0f} MB + {b:,.0f} MB a pair, off by {100 * off:.1f} % at "
        f"most. In micro-batches of {small}, {config.few[-1]} pairs were measured to "
        f"take {parts:,.0f} MB, where the line says {a + b * small:,.0f} for {small}.",
        "",
        f"The contrastive loss of {ALL:,} embeddings with its tables of {ALL:,} x {ALL:,} was measured by itself, with random "
        f"embeddings: {its['memory']:,.0f} MB and {its['seconds']:.0f} s (tiny: {tinys['memory']:,.0f} MB, "
        f"{tinys['seconds']:.0f} s). The cached way has it before the gradients and states of the micro-batches, so the larger "
        f"of the two counts; the embeddings and their gradients, {its['kept']:,.0f} MB, stay.",
        "",
        f"| {ALL:,} pairs, not run but extrapolated | memory, GB |",
        "|---|--:|",
        f"| at once | {(a + b * ALL + its['memory']) / 1e3:,.0f} |",
    )
    for micro in (small, 16, 64):
        yield f"| micro-batches of {micro} | {max(its['memory'], a + b * micro + its['kept']) / 1e3:,.1f} |"


def of_time(config: Config) -> Iterator[str]:
    """What going forward twice costs."""
    yield from (
        "",
        "## The second forward",
        "",
        "One process for each size, sides in turns, medians of the turns' ratios. Uncached: the same micro-batches, but each "
        "compares only its own rows, so nothing goes forward twice and the gradients are others.",
        "",
        "| size, pairs, micro-batch | cached / uncached | cached / at once |",
        "|---|--:|--:|",
    )
    for size, rows, micro, turns in (
        ("tiny", 1024, 64, 7),
        ("base", 4, 2, config.turns),
        ("base", 16, 8, config.turns),
    ):
        found = measured("times", size, rows, micro=micro, turns=turns)
        ratios = [
            statistics.median(ours / other for ours, other in zip(found["cached"], found[side], strict=True))
            for side in ("uncached", "at once")
        ]
        yield f"| {size}, {rows:,}, {micro} | {ratios[0]:.2f} | {ratios[1]:.2f} |"


def facts() -> Iterator[str]:
    """Where it was measured."""
    import torch

    yield f"{os.cpu_count()} x {processor()}, one thread, shared with others; torch {torch.__version__}, commit {commit()};"
    yield "`python benchmarks/accumulation.py`. MB and GB are decimal. That the gradients are the same is tested"
    yield "(tests/training/test_accumulate.py). Weights, gradients and the batch, there before, are not counted on either side."


if __name__ == "__main__":
    main(tyro.cli(Config))
