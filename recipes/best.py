"""Which checkpoint of a run is kept as the best: the one of the best reading by `--select` (paper §4.1: zero-shot accuracy)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from presets import Config

from torchflava.evaluation import Reading
from torchflava.models import FlavaForPreTraining
from torchflava.training import Run, best_checkpoint, last_checkpoint, load_checkpoint, read_state


class Selection:
    """The best reading so far; every rank has the same, for all ranks have the same readings.

    Args:
        config: its `select` names the reading; empty selects nothing. Of one whose name ends in "loss" the least is the best.
        where: the run's checkpoints lie, a folder or a URL.
        run: its processes.
    """

    def __init__(self, config: Config, where: Path | str, run: Run) -> None:
        self.config, self.where, self.run = config, where, run
        found = last_checkpoint(where) if run.leads and best_checkpoint(where) else None
        self.value = run.agree(read_state(found).get("selected", {}).get(config.select) if found else None)

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
        value = next((r.value for r in readings if r.name == name), None)
        if value is None:
            raise ValueError(f"--select {name!r} is not measured; there are: {', '.join(r.name for r in readings)}")
        is_best = self.value is None or (value < self.value if name.endswith("loss") else value > self.value)
        if is_best and value == value:  # NaN is never the best
            self.value = value
            return True
        return False

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"selected": {} if self.value is None else {self.config.select: self.value}}

    def settle(self, model: FlavaForPreTraining) -> None:
        """Give the model the weights of the best checkpoint, if it is not the last."""
        both = (best_checkpoint(self.where), last_checkpoint(self.where)) if self.run.leads else None
        best, last = self.run.agree(both)
        if self.config.select and best is not None and best != last:
            load_checkpoint(best, model)
            if self.run.leads:
                print(
                    f"{self.config.select} was best, {self.value:.4f}, at {Path(best).name}: these weights it is",
                    flush=True,
                )
