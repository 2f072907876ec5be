"""Which checkpoint of a run is kept as the best: the one of the best reading by `--select` (paper §4.1: zero-shot accuracy)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from presets import Config
from torch import nn

from torchflava.evaluation import Reading
from torchflava.training import Run, best_checkpoint, last_checkpoint, load_checkpoint, read_state


class Selection:
    """The best reading so far; every rank has the same, for all ranks have the same readings.

    Args:
        config: its `select` names the reading; empty selects nothing. Of one whose name ends in "loss" the least is the best.
        where: the run's checkpoints lie, a folder or a URL.
        run: its processes.

    Raises:
        ValueError: if the best so far was chosen by another reading, or if none was and no step is left.
    """

    def __init__(self, config: Config, where: Path | str, run: Run) -> None:
        self.config, self.where, self.run = config, where, run
        chosen, step = run.agree(_chosen(where) if run.leads else None)
        if config.select:
            _check_chosen(config, where, chosen, step)
        self.value: float | None = chosen.get(config.select)

    def due(self, step: int) -> bool:
        """Whether `step` is one to measure after: by `measure_every`; the last one only for the sake of selecting."""
        every, steps = self.config.measure_every, self.config.steps
        return bool(every) and (step % every == 0 if step < steps else bool(self.config.select))

    def better(self, readings: Sequence[Reading]) -> bool:
        """Whether these readings are better than all before, which they then replace.

        Raises:
            ValueError: if the one to select by is not among them.
        """
        name = self.config.select
        if not name:
            return False
        value = self.read(readings)
        is_best = self.value is None or (value < self.value if name.endswith("loss") else value > self.value)
        if is_best and value == value:  # NaN is never the best
            self.value = value
            return True
        return False

    def read(self, readings: Sequence[Reading]) -> float:
        """The value of the reading to select by.

        Raises:
            ValueError: if it is not among them.
        """
        name = self.config.select
        value = next((r.value for r in readings if r.name == name), None)
        if value is None:
            raise ValueError(f"--select {name!r} is not measured; there are: {', '.join(r.name for r in readings)}")
        return value

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"selected": {} if self.value is None else {self.config.select: self.value}}

    def settle(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Give the model the weights of the best checkpoint, if it is not the last; none is, where no reading was a number.

        Args:
            model: may be sharded.
            optimizer: of its parameters, where what it keeps of them is needed still.
        """
        if self.value is None:
            return
        both = (best_checkpoint(self.where), last_checkpoint(self.where)) if self.run.leads else None
        best, last = self.run.agree(both)
        if best is not None and best != last:
            load_checkpoint(best, model, optimizer)
            if self.run.leads:
                print(
                    f"{self.config.select} was best, {self.value:.4f}, at {Path(best).name}: these weights it is",
                    flush=True,
                )


def _chosen(where: Path | str) -> tuple[dict[str, float], int]:
    """The reading that the best checkpoint was chosen by, with its value, and the steps done."""
    last = last_checkpoint(where)
    if last is None:
        return {}, 0
    state = read_state(last)
    return (state.get("selected", {}) if best_checkpoint(where) is not None else {}), state["step"]


def _check_chosen(config: Config, where: Path | str, chosen: dict[str, float], step: int) -> None:
    name = config.select
    if chosen and name not in chosen:
        (old,) = chosen
        raise ValueError(
            f"--select {name!r}, but the best checkpoint in {where} was chosen by {old!r}; go on with --select {old!r}, or "
            f"start a new run to choose by {name!r}"
        )
    if not chosen and step >= config.steps:
        raise ValueError(
            f"--select {name!r} has nothing to choose from: the run in {where} has done its {config.steps} steps, and none of "
            "its checkpoints was kept as the best; leave it out, or start a new run with it"
        )
