"""What a run says of itself: a progress bar or lines and records of its losses and its speed, without stopping the device.

Values stay on the device until they are written: reading one earlier would wait for the step that makes it.
"""

import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from torchflava.distributed import gather, rank, sum_over_ranks, world_size
from torchflava.training.machine import peak_memory
from torchflava.training.records import Records

_LINE_EVERY = 5.0  # seconds, where there is no terminal to redraw a bar on

TIMED = ("step/samples_per_s", "step/data_wait", "step/mfu", "step/peak_memory_gb")
"""What of a record depends on the machine, and differs between two runs that learn the same."""


class Meter:
    """Collects the losses of each kind of batch and writes their means every few steps.

    Args:
        folder: receives `log.jsonl` and TensorBoard's events; None on ranks that do not write.
        steps: of the whole run.
        every: steps between two records.
        start: the step to begin at.
        device: this rank's, whose peak memory is told.
        peak_flops: the most floating-point operations a second that `device` can do; without it no utilisation is told.
        wandb: a project of Weights & Biases that gets the records too, if named.
    """

    def __init__(
        self,
        folder: Path | None,
        steps: int,
        every: int,
        *,
        start: int = 0,
        device: torch.device | None = None,
        peak_flops: float | None = None,
        wandb: str = "",
    ) -> None:
        self.steps = steps
        self.every = every
        self.folder = folder
        self.device = torch.device("cpu") if device is None else device
        self.peak_flops = peak_flops
        self._shown: dict[str, float] = {}
        self._lr = 0.0
        self._spoke = 0.0
        self._start, self._began = start, time.perf_counter()
        self._clear()
        if folder is not None:
            self._records = Records(folder, steps, start=start, wandb=wandb)
            # `torchx run` on a terminal shows the job's output as it comes, and says so in this variable.
            live = sys.stderr.isatty() or os.environ.get("TTY_COMPATIBLE") == "1"
            self._bar = tqdm(total=steps, initial=start, disable=not live, unit="step", dynamic_ncols=True, leave=True)

    def add(
        self,
        kind: str,
        losses: Mapping[str, Tensor],
        *,
        samples: int,
        waited: float,
        lr: float,
        norm: Tensor | None,
        flops: float = 0.0,
        fine: Tensor | None = None,
    ) -> None:
        """Note one step.

        Args:
            kind: of its batch.
            losses: by name, on this rank's device.
            samples: over all ranks.
            waited: seconds, for data.
            lr: learning rate.
            norm: of the gradients; None, on every rank, where they overflowed and the step was not taken.
            flops: floating-point operations that this rank's part of the step needs.
            fine: () bool, the same on every rank: False where the values are to be left out of the means. All are in,
                unless given.
        """
        for name, value in losses.items():
            self._values[f"{kind}/{name}"].append((value.detach(), fine))
        if norm is not None:
            self._values["step/grad_norm"].append((norm.detach(), fine))
        self._lr = lr
        self._samples += samples
        self._flops += flops
        self._waited += waited

    def step(self, step: int, more: Callable[[], Mapping[str, float]] = dict) -> None:
        """Step number `step` is done (counting from 1): every few of them, write, with what `more` then returns.

        Raises:
            FloatingPointError: if something to be written is no finite number.
        """
        if self.folder is not None:
            self._bar.update(1)
        if step % self.every and step != self.steps:
            return
        seconds = time.perf_counter() - self._since
        record = _means(self._values) | {"step/lr": self._lr} | dict(more()) | self._speed(seconds)
        wrong = [name for name, value in record.items() if not math.isfinite(value)]
        if wrong:
            raise FloatingPointError(
                f"by step {step}, {', '.join(wrong)} is no finite number; go on from the last checkpoint with a lower "
                "learning rate, or look at the data of these steps"
            )
        self._clear()
        self.write(step, record)
        if self.folder is not None:
            self._shown.update(record)
            self._speak(step)

    def rewind(self, step: int) -> None:
        """Forget all that came after `step`, for the run goes on from there."""
        self._clear()
        if self.folder is not None:
            self._records.rewind(step)
            self._bar.n = step

    def state(self) -> dict[str, list[list[list[float]]]]:
        """What no record has had yet, for a checkpoint between two records: by name, (rank, step, value and whether it is fine).

        Called by every rank.
        """
        told = {}
        for name, values in sorted(self._values.items()):
            each, fine = _stacked(values)
            told[name] = gather(
                torch.stack([torch.where(fine, each, 0.0), fine.float()], dim=-1)[None], "none"
            ).tolist()
        return told

    def load(self, state: Mapping[str, list[list[list[float]]]]) -> None:
        """Go on with what `state` had; at another number of ranks with the mean over its ranks, which records are of anyway."""
        for name, values in state.items():
            of_ranks = torch.tensor(values, device=self.device)
            total, count = of_ranks.sum(0).unbind(-1)
            mean = torch.stack([total / count.clamp(min=1), (count > 0).float()], dim=-1)
            mine = of_ranks[rank()] if len(values) == world_size() else mean
            self._values[name] = [(value, fine.bool()) for value, fine in mine]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within is no training, so the samples a second leave its time out."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """A record of `step`, into the log and wherever else records go."""
        if self.folder is not None:
            self._records.write(step, record)

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """(3, H, W) uint8: a picture of `step`, wherever pictures go."""
        if self.folder is not None:
            self._records.picture(step, name, image)

    def close(self) -> None:
        """Write out what is left."""
        if self.folder is not None:
            self._bar.close()
            self._records.close()

    def _clear(self) -> None:
        self._values: dict[str, list[tuple[Tensor, Tensor | None]]] = defaultdict(list)
        self._samples, self._flops, self._waited = 0, 0.0, 0.0
        self._since = time.perf_counter()

    def _speed(self, seconds: float) -> dict[str, float]:
        """Of the steps since the last record, which took so long; memory is the most since the process began."""
        told = {"step/samples_per_s": self._samples / seconds, "step/data_wait": self._waited / seconds}
        if self.peak_flops and self._flops:
            told["step/mfu"] = self._flops / seconds / self.peak_flops
        return told | {"step/peak_memory_gb": peak_memory(self.device) / 1e9}

    def _speak(self, step: int) -> None:
        told = "  ".join(
            f"{kind} "
            + " ".join(f"{n.split('/')[1]} {v:.2f}" for n, v in self._shown.items() if n.split("/")[0] == kind)
            for kind in sorted({n.split("/")[0] for n in self._shown} - {"step"})
        )
        speed = _speed_in_words(self._shown)
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{told}  {speed}", refresh=False)
        elif time.perf_counter() - self._spoke > _LINE_EVERY or step == self.steps:
            self._spoke = now = time.perf_counter()
            begun = min(self._start, step)
            drawn = tqdm.format_meter(step, self.steps, now - self._began, ncols=72, unit="step", initial=begun)
            print(f"{drawn}  {told}  {speed}", flush=True)


def _speed_in_words(record: Mapping[str, float]) -> str:
    words = [f"{record['step/samples_per_s']:.0f} samples/s"]
    if "step/mfu" in record:
        words.append(f"MFU {100 * record['step/mfu']:.1f} %")
    words.append(f"peak {record['step/peak_memory_gb']:.1f} GB")
    words.append(f"data wait {100 * record['step/data_wait']:.0f} %")
    return "  ".join(words)


def _means(values: Mapping[str, list[tuple[Tensor, Tensor | None]]]) -> dict[str, float]:
    """The mean over fine steps and ranks of each; the same names on every rank, as the kind of a step is the same."""
    if not values:
        return {}
    names = sorted(values)
    means = sum_over_ranks(torch.stack([torch.stack(_mean(values[name])) for name in names])).tolist()
    return {name: mean / world_size() for name, (mean, count) in zip(names, means, strict=True) if count}


def _mean(values: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
    """The mean over the fine steps, and their number."""
    each, fine = _stacked(values)
    if all(fine is None for _, fine in values):
        return each.mean(), torch.full_like(each[0], len(values))
    count = fine.sum().float()
    return torch.where(fine, each, 0.0).sum() / count.clamp(min=1), count


def _stacked(values: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor]:
    """(steps,) float32 values, and (steps,) bool, whether each is fine."""
    each = torch.stack([value.float() for value, _ in values])
    fine = [torch.ones_like(value, dtype=torch.bool) if fine is None else fine for value, fine in values]
    return each, torch.stack(fine)
