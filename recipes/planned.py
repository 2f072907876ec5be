"""What a run needs on so many GPUs: rows at a time, memory by what takes it, and time. For recipes/plan.py."""

from bisect import bisect_left
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from presets import Config, Weights, needs_codes
from start import build

from torchflava.batch import Batch, ImageBatch, PairBatch, TextBatch
from torchflava.codebooks import load_codebook
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.models import States, count_states, count_table, step_flops
from torchflava.models.hub import find_or_fetch_codebook
from torchflava.training import Budget, fsdp_budget, recompute
from torchflava.transforms.collate import TEXT_BUCKET
from torchflava.transforms.tokenizer import load_tokenizer


class Machines(NamedTuple):
    """What there is."""

    per_node: int
    """GPUs."""
    room: int
    """Bytes of a GPU that a run may fill."""


class Need(NamedTuple):
    """What a run needs on each of so many GPUs; memory in bytes."""

    gpus: int
    rows: int
    """Of a GPU in a step."""
    micro: int
    """Rows at a time."""
    budget: Budget
    states: States
    """Of the kind of batch that takes most."""
    kind: str
    table: int
    """The contrastive loss of all rows of this GPU; there with the states if the rows come at once, before them if not."""
    standing: int
    """The codebook, and the embeddings that are kept over all parts."""

    @property
    def passes(self) -> int:
        """Forwards and backwards of a step."""
        return -(-self.rows // self.micro)

    @property
    def at_once(self) -> int:
        """Of forward and backward, or of what comes before or after them if that is more."""
        parts = self.states.most + (self.table if self.passes == 1 else 0)
        return max(parts, self.table, self.budget.update)

    @property
    def total(self) -> int:
        """The most."""
        return self.budget.weights + self.budget.gradients + self.budget.gathered + self.standing + self.at_once


class Planner:
    """Plans for one run, whose model it builds without memory; each batch is counted once.

    Args:
        config: of the run.
        machines: to plan for.
    """

    def __init__(self, config: Config, machines: Machines) -> None:
        there = _is_there(config.codebook) and needs_codes(config)
        codebook = load_codebook(find_or_fetch_codebook(config.codebook)) if there else None
        num_codes = config.num_codes if codebook is None else codebook.num_codes
        words = load_tokenizer(config.vocab).vocab_size if _is_there(config.vocab) else config.vocab_size
        with torch.device("meta"):
            self.model = build(config, words, num_codes)
            only = replace(Weights(0, 0, 0, 0, 0, 0), contrastive=config.weights.contrastive)
            self._embedding = build(replace(config, weights=only), words, num_codes)
        recompute(self.model.units(), config.recompute)
        self.config, self.machines = config, machines
        self.shares = {kind: share for kind, share in asdict(config.shares).items() if share}
        self._codebook = _size_of_codebook(config) if codebook is None else _size(codebook)
        self._states = cache(self._counted)

    def plan(self, gpus: int) -> Need | None:
        """The run with the most rows at a time that fit, or the rows of `--micro-batch`; None if they do not."""
        rows = self.config.batch_size // gpus
        if self.config.micro_batch:
            sizes = [min(self.config.micro_batch, rows)]
        else:
            sizes = [size for size in range(rows, 0, -1) if rows % size == 0 and self._may_fit(size)]
        if sizes and self._fits(gpus, sizes[0]):
            return self.need(gpus, sizes[0])
        parts = sizes[1:]  # apart from the first, which may be the whole, for with parts gradients take more
        at = bisect_left(parts, True, key=lambda micro: self._fits(gpus, micro))
        return self.need(gpus, parts[at]) if at < len(parts) else None

    def under(self, config: Config) -> "Planner":
        """For the same run under other settings of how it is computed; what was counted is kept, where it is the same."""
        if config.recompute != self.config.recompute:
            return Planner(config, self.machines)
        other = copy(self)
        other.config = config
        return other

    def least(self, gpus: int) -> Need:
        """The run with one row at a time, or those of `--micro-batch`."""
        return self.need(gpus, min(self.config.micro_batch or 1, self.config.batch_size // gpus))

    def need(self, gpus: int, micro: int) -> Need:
        """What it takes with so many rows at a time."""
        rows, model = self.config.batch_size // gpus, self.model
        shards = {"all": gpus, "node": min(gpus, self.machines.per_node), "copies": 1}[self.config.spread]
        of_run = {"shards": shards, "precision": self.config.precision, "offload": self.config.offload}
        again = self.config.recompute != "none" and not self.config.compiled  # a compiled block keeps its casts
        of_run |= {"accumulates": micro < rows, "alone": gpus == 1, "recomputed": again}
        budget = fsdp_budget(model, model.units(), **of_run)
        found = {kind: self._states(kind, micro) for kind in self.shares}
        kind = max(found, key=lambda each: found[each].most)
        compares = "pair" in self.shares and model.contrastive is not None
        width = model.flava.embed_dim
        table = count_table(rows, rows * gpus, width) if compares else 0
        kept = (
            4 * 4 * rows * width if compares and micro < rows else 0
        )  # two embeddings and their gradients, in float32
        return Need(gpus, rows, micro, budget, found[kind], kind, table, self._codebook + kept)

    def seconds(self, need: Need, flops: float) -> float:
        """Of a step of the mixture's mean, if a GPU does `flops` operations a second; what is computed twice is counted so."""
        done = 0.0
        for kind, share in self.shares.items():
            batch = batch_of(kind, need.rows, self.config)
            once = step_flops(self.model, batch, world_size=need.gpus)
            again = once / 3 if self.config.recompute == "full" else 0.0  # selective computes no product again
            if kind == "pair" and need.passes > 1:
                again += step_flops(self._embedding, batch) / 3
            done += share * (once + again)
        return done / flops

    def _may_fit(self, micro: int) -> bool:
        """False where what is kept of one row already says that it does not; it grows in proportion, within a hundredth."""
        return 0.95 * micro * max(self._states(kind, 1).kept for kind in self.shares) <= self.machines.room

    def _fits(self, gpus: int, micro: int) -> bool:
        return self.need(gpus, micro).total <= self.machines.room

    def _counted(self, kind: str, rows: int) -> States:
        return count_states(self.model, batch_of(kind, rows, self.config), self.config.precision)


def helps(planner: Planner, gpus: int) -> Iterator[str]:
    """What would make a run fit that does not, each with the rows at a time that it then has."""
    config = planner.config
    ways: dict[str, Config] = {}
    if config.micro_batch:
        ways["a smaller --micro-batch"] = replace(config, micro_batch=0)
    if config.spread != "all" and gpus > 1:
        ways["--spread all"] = replace(config, spread="all")
    if not config.offload:
        ways["--offload"] = replace(config, offload=True)
    if config.recompute == "none":
        ways["--recompute selective"] = replace(config, recompute="selective")
    if config.recompute != "full":
        ways["--recompute full"] = replace(config, recompute="full")
    found = {name: planner.under(changed).plan(gpus) for name, changed in ways.items()}
    if not any(found.values()) and {"--offload", "--recompute full"} <= ways.keys():
        both = replace(config, recompute="full", offload=True)
        found["--recompute full --offload"] = planner.under(both).plan(gpus)
    more = [gpus * 2**doubled for doubled in range(1, 5) if planner.config.batch_size % (gpus * 2**doubled) == 0]
    counts = next(((count, need) for count in more if (need := planner.plan(count))), None)
    if counts is not None:
        found[f"{counts[0]} GPUs"] = counts[1]
    for name, need in found.items():
        if need is not None:
            yield f"{name} ({need.micro:,} row{'s' * (need.micro > 1)} at a time, {need.total / 1e9:.1f} GB)"


def batch_of(kind: str, rows: int, config: Config) -> Batch:
    """A batch without data, of the longest texts that the settings let through."""
    side, patches = config.image_size, (config.image_size // config.patch_size) ** 2
    asked = round(patches * config.patch_mask_rate)
    with torch.device("meta"):
        pixels, masked = torch.empty(rows, 3, side, side), torch.empty(rows, patches, dtype=torch.bool)
        at = torch.empty(rows, asked, dtype=torch.int64)
        if kind == "image":
            return ImageBatch(pixels, masked, at, at)
        if kind == "text":
            return TextBatch(*_texts(rows, config.text_length or config.max_length, config.mask_rate))
        ids, keep, places, labels = _texts(rows, config.max_length, config.mask_rate)
        yes = torch.empty(rows, dtype=torch.bool)
        return PairBatch(pixels, masked, at, at, ids, keep, ids, keep, places, labels, yes, yes)


def _texts(rows: int, length: int, rate: float) -> tuple[torch.Tensor, ...]:
    """Each word is hidden by itself, and the row with most counts for all: four standard deviations above the mean."""
    words = length - 2
    hidden = min(words, rate * words + 4 * (rate * (1 - rate) * words) ** 0.5)
    words = max(1, -(-int(hidden) // TEXT_BUCKET)) * TEXT_BUCKET
    ids, at = torch.empty(rows, length, dtype=torch.int64), torch.empty(rows, words, dtype=torch.int64)
    return ids, torch.empty(rows, length, dtype=torch.bool), at, at


def _size_of_codebook(config: Config) -> int:
    """Of one that is not there yet: DALL-E's, where a file is named, or one fitted to patches."""
    if not needs_codes(config):
        return 0
    if config.codebook:
        shapes = dalle_layout(num_codes=config.num_codes).values()
        return 4 * sum(torch.Size(shape).numel() for shape in shapes)
    patch = config.code_size // (config.image_size // config.patch_size)
    return 4 * config.num_codes * 3 * patch**2


def _size(codebook: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*codebook.parameters(), *codebook.buffers()))


def _is_there(path: str) -> bool:
    return bool(path) and Path(path).exists()
