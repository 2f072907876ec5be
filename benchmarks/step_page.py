"""The report of `step.py`, in Markdown."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from drawn import Case
from goals import Goal, table
from machine import facts

PEERS = ("transformers", "TorchMultimodal")
OURS = {"none": "ours", "selective": "ours, --recompute selective", "full": "ours, --recompute full"}
"""What our side's memory is told under, by what it computes again."""
Times = Mapping[tuple[str, Case], Sequence[float]]


def page(config: Any, measured: Any, goals: Iterable[Goal]) -> Iterator[str]:
    """The report of `step.py`: its settings, what it measured, and the goals."""
    yield from (f"# benchmarks/step.py: {config.size}, {config.image_size} px, batch {config.batch_size}", "")
    yield from facts(config.device, threads=config.threads, packages=("transformers", "torchmultimodal-nightly"))
    yield from ("", *NOTES, told(config), "")
    yield from (*table(goals), "")
    if any(measured.rates.values()):
        named = (f"{statistics.median(r) / 1e9:,.0f} GFLOP/s in {p}" for p, r in measured.rates.items() if r)
        yield from (f"The machine's product of {config.product}²: {', '.join(named)} (medians).", "")
    if measured.times:
        yield from (*all_times(measured.times), "")
    if measured.memory:
        yield from (*all_memory(measured.memory), "")
    if measured.operations:
        yield from (*all_operations(measured.operations), "")
    if measured.profile:
        yield from all_operators(measured.profile)


OPERATORS = {
    "products": ("mm", "addmm", "mkldnn_convolution", "cudnn_convolution", "convolution_backward"),
    "products within attention": (
        "bmm",
        "baddbmm",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
        *(
            f"_{kernel}_attention_{way}"
            for kernel in ("flash", "efficient", "cudnn")
            for way in ("forward", "backward")
        ),
    ),
    "copies and casts": ("copy_", "cat", "fill_"),
    "softmax": ("_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data"),
    "GELU": ("gelu", "gelu_backward"),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "sums and multiples": ("add", "add_", "sum", "mul", "mul_", "div", "div_"),
}
"""Kinds of work by torch's names of operators, the CPU's and GPUs'."""


NOTES = (
    "Medians of turns in which the sides followed each other. The mixture is .70 pairs, .15 images, .15 texts. All sides have",
    "one size, the same samples and the same losses (tests/benchmarks holds their values and labelled rows beside each other):",
    "captions of 8 to 24 tokens, trimmed to the batch's longest unless padded; texts that fill their rows. Codes online: the",
    "dVAE runs in the step: in bf16 the peers' does within their autocast, ours by `--code-precision bf16`, its last convolution",
    "in float32 and where codes are asked for. Codes given: transformers gets them as `mim_labels`,",
    "TorchMultimodal, which takes none, through a codebook that hands them on. Ours starts from the loader's bytes, with",
    "`prepare` in the step; the peers get normalised floats. A text step of transformers leaves out the clean text, which no",
    "loss reads, unless its users' processor is followed (padded). Needed operations: benchmarks/needed.py. Memory is the most",
    "during one forward and backward, gradients included, above what was there before: model, codebook and process. Beside it",
    "stand the seconds of our step in each way of `--recompute`, medians of steps in a row, to be compared among themselves.",
)


def told(config: Any) -> str:
    """The settings that shape the numbers."""
    how = "as recipes/pretrain.py runs them (one rank)" if config.sharded else "a plain module under autocast"
    words = f"{config.turns} turns. Our steps: {how}. Texts of {config.text_length} tokens. Reading {config.read_batch} at once."
    return (
        words
        + (f" With --recompute {config.recompute}." if config.recompute != "none" else "")
        + (" Compiled." if config.compiled else "")
        + f" {'All sides keep' if config.all_keep else 'On the CPU ours keeps'} freed memory (docs/decisions/0075)."
        + (" With AdamW." if config.optimizer else "")
        + (" Seconds are the processor's." if config.clock == "processor" else "")
    )


def all_times(times: Times) -> Iterator[str]:
    """Medians in seconds, with the least and the greatest."""
    yield from (f"| seconds | ours | {' | '.join(PEERS)} |", "|---|--:|--:|--:|")
    for case in dict.fromkeys(case for _, case in times):
        found = [times.get((side, case)) for side in ("ours", *PEERS)]
        cells = [f"{statistics.median(t):.3f} ({min(t):.3f} to {max(t):.3f})" if t else "" for t in found]
        words = [case.kind, *([f"codes {case.codes}"] if case.codes != "-" else []), case.precision]
        yield f"| {', '.join(words + (['padded'] if case.padded else []))} | {' | '.join(cells)} |"


def all_memory(memory: dict[tuple[str, str], dict[str, float]]) -> Iterator[str]:
    """In MB."""
    yield "| memory, step of pairs, codes online, MB | before | most | more | of it gradients | its seconds |"
    yield "|---|--:|--:|--:|--:|--:|"
    for (side, precision), of in memory.items():
        numbers = (of["before"], of["most"], of["most"] - of["before"], of["gradients"])
        took = f"{of['seconds']:.3f}" if "seconds" in of else ""
        yield f"| {side}, {precision} | {' | '.join(f'{number:,.0f}' for number in numbers)} | {took} |"


def all_operations(operations: Mapping[tuple[str, Case], float]) -> Iterator[str]:
    """Of the products in a step, and by how many times a peer's would be faster if it left out what it need not do."""
    sides = ("needed", "ours", *PEERS)
    yield f"| products of a step, TFLOP | {' | '.join(sides)} | most that leaving out can give |"
    yield "|---|" + "--:|" * (len(sides) + 1)
    for case in dict.fromkeys(case for _, case in operations):
        found = [operations[side, case] / 1e12 for side in sides]
        words = [case.kind, *([f"codes {case.codes}"] if case.codes != "-" else [])]
        yield f"| {', '.join(words)} | {' | '.join(f'{x:.3g}' for x in found)} | {min(found[2:]) / found[0]:.2f} |"


def all_operators(profile: Mapping[tuple[str, str], Mapping[str, float]]) -> Iterator[str]:
    """Seconds by kind of work."""
    yield f"| seconds of a step of pairs, codes given, under torch's profiler | {' | '.join(OPERATORS)} | the rest |"
    yield "|---|" + "--:|" * (len(OPERATORS) + 1)
    for (side, precision), of in profile.items():
        sums = dict.fromkeys([*OPERATORS, "the rest"], 0.0)
        for name, seconds in of.items():
            sums[_kind(name.removeprefix("aten::"))] += seconds
        yield f"| {side}, {precision} | {' | '.join(f'{seconds:.3f}' for seconds in sums.values())} |"


def _kind(operator: str) -> str:
    for kind, words in OPERATORS.items():
        if operator in words:
            return kind
    return "the rest"
