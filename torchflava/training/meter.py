"""What a run says of itself: a progress bar or lines, TensorBoard events and a JSONL log, without stopping the device.

Values stay on the device until they are written: reading one earlier would wait for the step that makes it.
"""

import json
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
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from torchflava.distributed import gather, rank, sum_over_ranks, world_size

_LINE_EVERY = 5.0  # seconds, where there is no terminal to redraw a bar on


class Meter:
    """Collects the losses of each kind of batch and writes their means every few steps.

    Args:
        folder: receives `log.jsonl` and TensorBoard's events; None on ranks that do not write.
        steps: of the whole run.
        every: steps between two records.
        start: the step to begin at.
    """

    def __init__(self, folder: Path | None, steps: int, every: int, *, start: int = 0) -> None:
        self.steps = steps
        self.every = every
        self.folder = folder
        self._values: dict[str, list[Tensor]] = defaultdict(list)
        self._shown: dict[str, float] = {}
        self._lr = 0.0
        self._samples = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        self._spoke = 0.0
        self._began = self._since
        if folder is not None:
            self._events = SummaryWriter(str(folder), purge_step=start + 1)
            self._log = folder / "log.jsonl"
            _forget_after(self._log, start, steps)
            # `torchx run` on a terminal shows the job's output as it comes, and says so in this variable.
            live = sys.stderr.isatty() or os.environ.get("TTY_COMPATIBLE") == "1"
            self._bar = tqdm(total=steps, initial=start, disable=not live, unit="step", dynamic_ncols=True, leave=True)

    def add(
        self, kind: str, losses: Mapping[str, Tensor], *, samples: int, waited: float, lr: float, norm: Tensor | None
    ) -> None:
        """Note one step: its losses on this rank's device, its samples over all ranks, and seconds waited for data.

        The norm of the gradients is None, on every rank, where they overflowed and the step was not taken.
        """
        for name, value in losses.items():
            self._values[f"{kind}/{name}"].append(value.detach())
        if norm is not None:
            self._values["step/grad_norm"].append(norm.detach())
        self._lr = lr
        self._samples += samples
        self._waited += waited

    def step(self, step: int, more: Callable[[], Mapping[str, float]] = dict) -> None:
        """Step number `step` is done (counting from 1): every few of them, write, with what `more` then returns."""
        if self.folder is not None:
            self._bar.update(1)
        if step % self.every and step != self.steps:
            return
        seconds = time.perf_counter() - self._since
        record = _means(self._values) | {"step/lr": self._lr} | dict(more())
        record["step/samples_per_s"] = self._samples / seconds
        record["step/data_wait"] = self._waited / seconds
        wrong = [name for name, value in record.items() if not math.isfinite(value)]
        if wrong:
            raise FloatingPointError(
                f"by step {step}, {', '.join(wrong)} is no finite number; go on from the last checkpoint with a lower "
                "learning rate, or look at the data of these steps"
            )
        self._values.clear()
        self._samples, self._waited, self._since = 0, 0.0, time.perf_counter()
        self.write(step, record)
        if self.folder is not None:
            self._shown.update(record)
            self._speak(step)

    def state(self) -> dict[str, list[list[float]]]:
        """What no record has had yet, by name, rank and step, for a checkpoint between two records. Called by every rank."""
        return {n: gather(torch.stack(v).float()[None], "none").tolist() for n, v in sorted(self._values.items())}

    def load(self, state: Mapping[str, list[list[float]]], device: torch.device) -> None:
        """Go on with what `state` had; at another number of ranks with the mean over its ranks, which records are of anyway."""
        for name, values in state.items():
            of_ranks = torch.tensor(values, device=device)
            self._values[name] = list(of_ranks[rank()] if len(values) == world_size() else of_ranks.mean(0))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within is no training, so the samples a second leave its time out."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """A record of `step`, into the log and TensorBoard's events."""
        if self.folder is None:
            return
        with self._log.open("a") as log:
            log.write(json.dumps({"step": step, **record}) + "\n")
        for name, value in record.items():
            self._events.add_scalar(name, value, step)

    def _speak(self, step: int) -> None:
        told = "  ".join(
            f"{kind} "
            + " ".join(f"{n.split('/')[1]} {v:.2f}" for n, v in self._shown.items() if n.split("/")[0] == kind)
            for kind in sorted({n.split("/")[0] for n in self._shown} - {"step"})
        )
        rate = f"{self._shown['step/samples_per_s']:.0f} samples/s"
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{told}  {rate}", refresh=False)
        elif time.perf_counter() - self._spoke > _LINE_EVERY or step == self.steps:
            self._spoke = time.perf_counter()
            drawn = tqdm.format_meter(step, self.steps, time.perf_counter() - self._began, ncols=72, unit="step")
            print(f"{drawn}  {told}  {rate}", flush=True)

    def close(self) -> None:
        """Write out what is left."""
        if self.folder is not None:
            self._bar.close()
            self._events.close()


def _forget_after(log: Path, step: int, steps: int) -> None:
    """Drop what a run wrote past the checkpoint that it goes on from, for those steps come again."""
    if log.is_file():
        lines = [line for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        # What was measured after the last step is measured anew even by a run that had nothing left to do.
        kept = [line for line in lines if json.loads(line)["step"] < step + ('"measured/' not in line or step < steps)]
        part = log.with_name(f".{log.name}.part")
        part.write_text("".join(f"{line}\n" for line in kept))
        part.replace(log)  # at once: a run that is killed here has lost nothing


def _means(values: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """The mean over steps and ranks of each; the same names on every rank, as the kind of a step is the same."""
    names = sorted(values)
    means = sum_over_ranks(torch.stack([torch.stack([v.float() for v in values[name]]).mean() for name in names]))
    return dict(zip(names, (means / world_size()).tolist(), strict=True))
