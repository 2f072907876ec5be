"""Ours beside transformers' and TorchMultimodal's FLAVA in speed and memory: `python benchmarks/step.py`; half an hour at base.

Steps of pairs, images and texts, forward and backward with all losses; reading (embedding and classifying); the most memory of
a step of pairs; and the share of what the machine's own matrix product does. `drawn.py` has the samples, `sides.py` how each
side is built and fed, `needed.py` what is counted, `goals.py` the goals. Sides are processes that take turns, for absolute times
differ by a factor of two from hour to hour on a shared machine. On a GPU: the same command, and `--compiled` once more.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import tyro
from drawn import Case, Shape, drawn
from goals import Goal, weighted
from needed import needed_flops
from step_page import OURS, PEERS, page
from turns import Process, Work

Precision = Literal["fp32", "bf16"]
Times = dict[tuple[str, Case], list[float]]


@dataclass(frozen=True)
class Config:
    """Compare steps, reading and memory."""

    size: str = "base"
    image_size: int = 224
    patch_size: int = 16
    batch_size: int = 8
    text_length: int = 128
    """Tokens of a text without an image, all of them words; the paper's 512 take four times as long."""
    codebook_width: int = 256
    read_batch: int = 32
    """Images or captions read at once."""
    turns: int = 5
    """After one to warm up."""
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    """bf16 is autocast in the peers and in reading; our steps cast weights as training does."""
    parts: tuple[Literal["steps", "memory", "reading", "operations", "profile"], ...] = (
        "steps",
        "memory",
        "reading",
        "operations",
        "profile",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    """0 leaves torch's choice."""
    compiled: bool = False
    """torch.compile: ours block by block, as training does, theirs as a whole."""
    sharded: bool = True
    """Our steps as `recipes/pretrain.py` runs them; else a plain module under autocast."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What our blocks compute again in backward in the steps; memory is told of all three, with the time that each takes."""
    optimizer: bool = False
    """A step of AdamW too."""
    all_keep: bool = False
    """The peers keep freed memory on the CPU as ours does, which their users' processes do not."""
    clock: Literal["wall", "processor"] = "wall"
    """processor: the processor's seconds, for a machine that others use too; with `--threads 1`, on the CPU."""
    product: int = 0
    """Width of the matrices whose product tells the machine's rate; 0 is 4,096 on the CPU and 16,384 on a GPU."""
    out: str = "benchmarks/results"


@dataclass
class Measured:
    """All numbers of a run."""

    times: Times
    """Seconds by side and case, turn by turn."""
    rates: dict[str, list[float]]
    """Operations a second of the machine's product by precision, turn by turn."""
    memory: dict[tuple[str, str], dict[str, float]]
    """MB by side and precision: `before` the step, and the `most` in it; ours by what is computed again, with its `seconds`."""
    operations: dict[tuple[str, Case], float]
    """Of the products in a step, by side and case; those that are needed, too."""
    profile: dict[tuple[str, str], dict[str, float]]
    """Seconds of a step of pairs with given codes by torch's operators, by side and precision."""


def main(config: Config) -> None:
    """Print the page and write it."""
    config, measured = settled(config), Measured(defaultdict(list), defaultdict(list), {}, {}, {})
    for precision in config.precisions:
        if "steps" in config.parts:
            take_turns(config, measured, precision, reads=False)
        if "reading" in config.parts:
            take_turns(config, measured, precision, reads=True)
        if "memory" in config.parts:
            weigh(config, measured, precision)
        if "profile" in config.parts:
            watch(config, measured, precision)
    if "operations" in config.parts:
        count(config, measured)
    text = "\n".join(page(config, measured, goals(config, measured))) + "\n"
    print(text)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file_name(config)).write_text(text)


def settled(config: Config) -> Config:
    """The device found, and the product's width chosen."""
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.clock == "processor" and (device != "cpu" or config.threads != 1):
        raise SystemExit("--clock processor adds up all threads and knows no GPU: give --device cpu --threads 1")
    width = config.product or (16_384 if device == "cuda" else 4_096)
    return Config(**vars(config) | {"device": device, "product": width})


def file_name(config: Config) -> str:
    """`step.md` for the size base on the CPU; otherwise with what differs."""
    differs = [config.size if config.size != "base" else "", config.device if config.device != "cpu" else ""]
    differs += ["compiled" if config.compiled else "", "" if config.sharded else "plain"]
    differs += ["all-keep" if config.all_keep else ""]
    differs += [f"recompute-{config.recompute}" if config.recompute != "none" else ""]
    return "-".join(["step", *filter(None, differs)]) + ".md"


def shape_of(config: Config, *, reads: bool) -> Shape:
    """Of the batches."""
    size = config.read_batch if reads else config.batch_size
    sides = config.image_size, config.patch_size
    return Shape(config.size, *sides, size, config.text_length, config.codebook_width)


def work_of(config: Config, side: str, precision: str, *, reads: bool, recompute: str = "") -> Work:
    """For a process; of ours, what it computes again, as the configuration has it unless given."""
    shape = shape_of(config, reads=reads)
    options = {
        "compiled": config.compiled,
        "sharded": config.sharded,
        "optimizer": config.optimizer,
        "recompute": recompute or config.recompute,
        "clock": config.clock,
        "keeps": config.all_keep,
    }
    return Work(side, reads, precision, shape, config.device, config.threads, **options)


def step_cases(precision: str) -> list[Case]:
    """All sides trimmed alike."""
    images = [Case(kind, codes, False, precision) for kind in ("pair", "image") for codes in ("online", "given")]
    return [*images, Case("text", precision=precision)]


def user_cases() -> list[Case]:
    """The peers as their users run them."""
    return [Case("pair", "online", True), Case("image", "online", True), Case("text", padded=True)]


def read_cases(precision: str) -> list[Case]:
    """What is read."""
    return [Case(kind, precision=precision) for kind in ("embed_image", "embed_text", "classify")]


def take_turns(config: Config, measured: Measured, precision: str, *, reads: bool) -> None:
    """All cases of a precision, side after side, again and again."""
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(Process(work_of(config, side, precision, reads=reads)))
            for side in ("ours", *PEERS)
        }
        asked = [(side, case) for case in (read_cases if reads else step_cases)(precision) for side in sides]
        if not reads and precision == config.precisions[0]:
            asked += [(side, case) for case in user_cases() for side in PEERS]
        for turn in range(config.turns + 1):
            if not reads:
                found = sides["ours"].ask("rate", config.product, precision)
                measured.rates[precision] += [found] if turn else []
            for side, case in asked:
                took = sides[side].ask("seconds", case)
                if turn:  # the first warms up
                    measured.times[side, case].append(took)
            print(f"{precision} {'reading' if reads else 'steps'}: turn {turn} of {config.turns}", flush=True)


def weigh(config: Config, measured: Measured, precision: str) -> None:
    """The most memory of a step of pairs, each in a new process; ours in each way of `--recompute`, with its time."""
    case = Case("pair", "online", False, precision)
    works = {side: work_of(config, "ours", precision, reads=False, recompute=how) for how, side in OURS.items()}
    works |= {side: work_of(config, side, precision, reads=False) for side in PEERS}
    for side, work in works.items():
        with Process(work) as process:
            measured.memory[side, precision] = process.ask("memory", case)
            if side not in PEERS:
                took = [process.ask("seconds", case) for _ in range(config.turns)]
                measured.memory[side, precision]["seconds"] = median(took)
        print(f"{precision} memory: {side} {measured.memory[side, precision]}", flush=True)


def watch(config: Config, measured: Measured, precision: str) -> None:
    """What a step of pairs spends its time on, each side in a new process."""
    for side in ("ours", *PEERS):
        with Process(work_of(config, side, precision, reads=False)) as process:
            measured.profile[side, precision] = process.ask("profile", Case("pair", "given", False, precision))


def count(config: Config, measured: Measured) -> None:
    """The products of a step of each kind, each side in a new process."""
    shape, cases = shape_of(config, reads=False), [case._replace(precision="fp32") for case in step_cases("fp32")]
    for side in ("ours", *PEERS):
        with Process(work_of(config, side, "fp32", reads=False)) as process:
            measured.operations |= {(side, case): process.ask("operations", case) for case in cases}
    measured.operations |= {("needed", case): needed_flops(shape, drawn(shape), case) for case in cases}


def goals(config: Config, measured: Measured) -> Iterator[Goal]:
    """Those of issue 7 that this benchmark measures."""
    factor = {"mixture online": 1.4, "mixture given": 1.7, "image online": 1.25, "image given": 1.8}
    for precision in config.precisions:
        for name, goal in factor.items():
            kind, codes = name.split()
            if config.compiled and config.device == "cuda" and kind == "mixture":
                goal = 2.0
            told = f"step of {'the mixture' if kind == 'mixture' else 'images'}, codes {codes}, {precision}"
            of = [seconds(measured.times, side, kind, codes, precision=precision) for side in ("ours", *PEERS)]
            yield Goal(told, goal, of[0], dict(zip(PEERS, of[1:], strict=True)))
    first = config.precisions[0]
    mine = seconds(measured.times, "ours", "mixture", "online", precision=first)
    users = {side: seconds(measured.times, side, "mixture", "online", precision="fp32", padded=True) for side in PEERS}
    yield Goal(
        f"step of the mixture, codes online, {first} beside the peers in fp32 with captions padded to 77",
        3.0,
        mine,
        users,
    )
    yield from memory_goals(config, measured)
    for precision in config.precisions:
        for case in read_cases(precision):
            peers = {side: measured.times.get((side, case), []) for side in PEERS}
            yield Goal(f"{case.kind}, {precision}", 1.5, measured.times.get(("ours", case), []), peers)
    for precision in config.precisions:
        for codes in ("online", "given"):
            told = f"share of the machine's rate, step of the mixture, codes {codes}, {precision}"
            yield Goal(
                told, 0.5 if config.device == "cuda" else 0.75, shares(config, measured, codes, precision), {}, ""
            )


def memory_goals(config: Config, measured: Measured) -> Iterator[Goal]:
    """Of the step of pairs, beyond what was there before it."""
    for precision in config.precisions:
        more = {
            side: [found["most"] - found["before"]]
            for side in (*OURS.values(), *PEERS)
            if (found := measured.memory.get((side, precision)))
        }
        peers = {side: more.get(side, []) for side in PEERS}
        for side in OURS.values():
            told = f"memory of the step of pairs, {precision}{side.removeprefix('ours')}"
            yield Goal(told, 0.5, more.get(side, []), peers, "MB", at_most=True)


def seconds(times: Times, side: str, kind: str, codes: str, *, precision: str, padded: bool = False) -> Sequence[float]:
    """Turn by turn, of a kind or of the mixture."""
    of = {
        name: times.get((side, Case(name, "-" if name == "text" else codes, padded, precision)), [])
        for name in ("pair", "image", "text")
    }
    return weighted(of) if kind == "mixture" else of[kind]


def shares(config: Config, measured: Measured, codes: str, precision: str) -> list[float]:
    """Needed operations of the mixture's step over what the machine's product does in that time, turn by turn."""
    shape = shape_of(config, reads=False)
    samples = drawn(shape)
    cases = {kind: Case(kind, "-" if kind == "text" else codes) for kind in ("pair", "image", "text")}
    (needed,) = weighted({kind: [needed_flops(shape, samples, case)] for kind, case in cases.items()})
    took = seconds(measured.times, "ours", "mixture", codes, precision=precision)
    return [needed / one / rate for one, rate in zip(took, measured.rates[precision], strict=False)]


if __name__ == "__main__":
    main(tyro.cli(Config))
