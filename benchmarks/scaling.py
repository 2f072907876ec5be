"""What our step costs as batch, text, image and ranks grow, and many GPUs on paper: `python benchmarks/scaling.py`.

Measured are seconds a sample and memory of steps of `recipes/pretrain.py`'s way, codes given, each size in a process of its
own (`turns.py`), beside counted operations; ten minutes on two free cores, a minute with `--size tiny`. Ranks
are processes with gloo on this machine, so that they show what ranks cost each other in work, not in waiting for a network.
`on_paper.py` has the model of many GPUs and its assumptions.
"""

import json
import socket
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import tyro
from drawn import Case, Shape
from machine import facts
from turns import Process, Work

SWEEPS = ("batch", "text", "image", "weak", "strong")
"""Rows of a batch; tokens of a text; pixels of an image's side; ranks with as many rows each; ranks that share the rows."""
X_OF = {
    "batch": "pairs of a batch",
    "text": "tokens of a text",
    "image": "pixels of an image's side",
    "weak": "ranks, as many pairs each",
    "strong": "ranks that share the pairs",
}


@dataclass(frozen=True)
class Config:
    """Measure sizes and ranks, and put many GPUs on paper. Sizes that are not given are few for `tiny`, more for others."""

    size: str = "small"
    image_size: int = 112
    patch_size: int = 16
    batch_size: int = 8
    """Of all sweeps but the batch's; for ranks, of each (weak) or of all (strong)."""
    batch_sizes: tuple[int, ...] = ()
    text_lengths: tuple[int, ...] = ()
    image_sizes: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    turns: int = 3
    """After one to warm up."""
    precision: str = "fp32"
    sweeps: tuple[str, ...] = SWEEPS
    paper: tuple[str, ...] = ("base:128", "base:=8192", "2.7b:32:recompute")
    """What is put on paper: size:rows of a GPU, or size:=rows of all; with :recompute where blocks are computed again."""
    gpus: tuple[int, ...] = (1, 8, 64, 256, 512)
    measured: str = ""
    """A scaling.json from before, whose numbers are taken in place of measuring."""
    out: str = "benchmarks/results"


FEW = {"batch_sizes": (1, 4), "text_lengths": (16, 64), "image_sizes": (32, 64), "ranks": (1, 2)}
MORE = {
    "batch_sizes": (1, 2, 4, 8, 16, 32),
    "text_lengths": (32, 64, 128, 256, 512),
    "image_sizes": (96, 144, 192, 240, 288),
    "ranks": (1, 2, 4),
}


class Point(NamedTuple):
    """One size that is measured."""

    sweep: str
    x: int
    """Where it stands in its sweep."""
    shape: Shape
    """Of each rank's batch."""
    case: Case
    ranks: int = 1

    @property
    def samples(self) -> int:
        """Of all ranks."""
        return self.ranks * self.shape.batch_size


@dataclass
class Found:
    """What was measured at a point."""

    point: Point
    flops: int
    """Of a sample, counted by `torchflava.models.step_flops`."""
    seconds: list[float] = field(default_factory=list)
    """The processor's, of all ranks together, turn by turn."""
    memory: float = 0.0
    """MB: the most during a step above what was there before, of the first rank."""
    held: float = 0.0
    """MB that were there before."""

    @property
    def each(self) -> float:
        """Seconds a sample, the median."""
        return statistics.median(self.seconds) / self.point.samples


def main(config: Config) -> None:
    """Print the page and write it, with its figure."""
    from scaling_figure import draw
    from scaling_paper import planned, told_of

    config = settled(config)
    plans = planned(config.paper, config.gpus)
    out = Path(config.out) / file_name(config)
    out.parent.mkdir(parents=True, exist_ok=True)
    if config.measured:
        where, found = read(Path(config.measured))
    else:
        found = [one for sweep in config.sweeps for one in measure(config, points(config, sweep))]
        where = [*facts(threads=1), told(config)]
        out.with_suffix(".json").write_text(json.dumps({"where": where, "found": [vars(one) for one in found]}) + "\n")
    text = "\n".join([*page(config, found, where), *told_of(plans)]) + "\n"
    print(text)
    out.with_suffix(".md").write_text(text)
    draw(found, plans).savefig(out.with_suffix(".png"), dpi=110)


def read(file: Path) -> tuple[list[str], list["Found"]]:
    """Where it was measured, and what, as `main` wrote it."""
    kept = json.loads(file.read_text())
    found = []
    for one in kept["found"]:
        sweep, x, shape, case, ranks = one.pop("point")
        found.append(Found(Point(sweep, x, Shape(*shape), Case(*case), ranks), **one))
    return kept["where"], found


def told(config: Config) -> str:
    """The settings that shape the numbers."""
    sides = f"{config.image_size} px and {config.batch_size} rows, unless the table says otherwise"
    return f"{config.size}, {config.precision}, {sides}; {config.turns} turns."


def settled(config: Config) -> Config:
    """The sizes filled in.

    Raises:
        SystemExit: for an unknown sweep, or ranks that do not share the batch evenly.
    """
    if unknown := set(config.sweeps) - set(SWEEPS):
        raise SystemExit(f"--sweeps {' '.join(sorted(unknown))}: there are {', '.join(SWEEPS)}")
    default = FEW if config.size == "tiny" else MORE
    config = Config(**vars(config) | {name: getattr(config, name) or sizes for name, sizes in default.items()})
    if uneven := [ranks for ranks in config.ranks if config.batch_size % ranks]:
        raise SystemExit(f"--batch-size {config.batch_size} is no multiple of {uneven[0]} ranks; choose one that is")
    return config


def file_name(config: Config) -> str:
    """`scaling` for the size small; otherwise with the size."""
    return "scaling" if config.size == Config.size else f"scaling-{config.size}"


def points(config: Config, sweep: str) -> list[Point]:
    """All sizes of a sweep."""
    base = Shape(
        config.size, config.image_size, config.patch_size, config.batch_size, codebook_width=4
    )  # codes are given
    pair, text = Case("pair", "given", False, config.precision), Case("text", precision=config.precision)
    if sweep == "batch":
        return [Point(sweep, x, base._replace(batch_size=x), pair) for x in config.batch_sizes]
    if sweep == "text":
        return [Point(sweep, x, base._replace(text_length=x), text) for x in config.text_lengths]
    if sweep == "image":
        return [Point(sweep, x, base._replace(image_size=x), pair) for x in config.image_sizes]
    share = {x: 1 if sweep == "weak" else x for x in config.ranks}
    return [Point(sweep, x, base._replace(batch_size=config.batch_size // share[x]), pair, x) for x in config.ranks]


def measure(config: Config, asked: Sequence[Point]) -> list[Found]:
    """Memory of each point first, in processes that have done nothing else; then seconds, point after point, in turns."""
    found = [Found(point, flops_of(point)) for point in asked]
    with ExitStack() as stack:
        groups = [stack.enter_context(Group(point, config.precision)) for point in asked]
        for one, group in zip(found, groups, strict=True):
            of_rank = group.ask("memory", one.point.case)[0]
            one.held, one.memory = of_rank["before"], of_rank["most"] - of_rank["before"]
        for turn in range(config.turns + 1):
            for one, group in zip(found, groups, strict=True):
                took = sum(group.ask("seconds", one.point.case))
                one.seconds += [took] if turn else []  # the first warms up
        for one in found:
            print(f"{one.point.sweep} {one.point.x}: {one.each:.3f} s a sample, {one.memory:,.0f} MB", flush=True)
    return found


def flops_of(point: Point) -> int:
    """Counted operations of a sample."""
    from drawn import drawn, our_batch
    from on_paper import on_meta

    from torchflava.models import step_flops

    with_images = point.shape.image_size, point.shape.patch_size
    model = on_meta(point.shape.size, *with_images)
    batch = our_batch(drawn(point.shape), point.case)
    return step_flops(model, batch, world_size=point.ranks) // point.shape.batch_size


class Group:
    """The ranks of a point, each a process with one thread; a context, which ends them."""

    def __init__(self, point: Point, precision: str) -> None:
        work = Work("ours", False, precision, point.shape, threads=1, clock="processor")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(point.ranks)}
        alone = {"OMP_NUM_THREADS": "1"}
        env = [alone | where | {"RANK": str(rank)} if point.ranks > 1 else alone for rank in range(point.ranks)]
        self._processes = [Process(work, each) for each in env]
        self._threads = ThreadPoolExecutor(point.ranks)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *error: object) -> None:
        list(self._threads.map(lambda process: process.__exit__(*error), self._processes))
        self._threads.shutdown()

    def ask(self, what: str, case: Case) -> list:
        """Each rank's answer; all are asked at once, for they wait for each other."""
        return list(self._threads.map(lambda process: process.ask(what, case), self._processes))


def page(config: Config, found: Sequence[Found], where: Sequence[str]) -> Iterator[str]:
    """The measured half of the report."""
    yield from (f"# benchmarks/scaling.py: {config.size}", "", *where)
    yield from ("", f"![cost and memory against size, and many GPUs on paper]({file_name(config)}.png)", "")
    yield from ("## Measured", "", *NOTES, "")
    for sweep in dict.fromkeys(one.point.sweep for one in found):
        of_sweep = [one for one in found if one.point.sweep == sweep]
        head = [X_OF[sweep], "s a sample", "least to most", "GFLOP a sample", "GFLOP/s", "MB of a step", "MB before"]
        head += ["MB that a rank sends a step"] if sweep in ("weak", "strong") else []
        yield from (f"| {' | '.join(head)} |", f"|{'--:|' * len(head)}")
        yield from (*map(line, of_sweep), "")


NOTES = (
    "A step forward and backward, codes given, as recipes/pretrain.py runs it, one thread a rank. Seconds are the processor's,",
    "of all ranks together, for others use the machine too; what a rank waits for is not in them. Points take turns, and medians",
    "count. Operations are those that the model computes (torchflava.models.step_flops), so the same GFLOP/s in two lines mean",
    "that time follows operations. Memory is the most that is resident during the first step above what was there before (model,",
    "batch, process), gradients included, of one rank. Texts are a batch of texts alone, all else of pairs; captions are drawn",
    "anew for each number of rows, so operations a sample differ a little. What ranks send is counted (benchmarks/on_paper.py).",
)


def line(one: Found) -> str:
    """Of a table."""
    each = [took / one.point.samples for took in one.seconds]
    numbers = f"{one.each:.3f} | {min(each):.3f} to {max(each):.3f} | {one.flops / 1e9:.2f} | {one.flops / one.each / 1e9:.1f}"
    sent = f" {sent_by(one.point) / 1e6:,.0f} |" if one.point.sweep in ("weak", "strong") else ""
    return f"| {one.point.x} | {numbers} | {one.memory:,.0f} | {one.held:,.0f} |{sent}"


def sent_by(point: Point) -> float:
    """Bytes that each rank sends in a step, counted."""
    from on_paper import Ranks, collectives, on_meta, sent_by_each

    model, ranks = on_meta(point.shape.size, point.shape.image_size, point.shape.patch_size), Ranks(point.ranks)
    of = {"ranks": ranks, "precision": point.case.precision, "clips": False}
    return sum(sent_by_each(sent, ranks) for sent in collectives(model, point.case.kind, point.shape.batch_size, **of))


if __name__ == "__main__":
    main(tyro.cli(Config))
