"""Which checkpoint of a run is kept as the best: the one of the best reading by `--select` (paper §4.1: zero-shot accuracy)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from presets import Config

from torchflava.evaluation import Reading
from torchflava.models import FlavaForPreTraining
from torchflava.training import Run, best_checkpoint, last_checkpoint, load_checkpoint


class Selection:
    """The best reading so far; every rank has the same, for all ranks have the same readings.

    Args:
        config: its `select` names the reading; empty selects nothing. Of one whose name ends in "loss" the least is the best.
        folder: of the run.
        run: its processes.
    """

    def __init__(self, config: Config, folder: Path, run: Run) -> None:
        self.config, self.folder, self.run = config, folder, run
        self.value: float | None = None
        found = run.agree(last_checkpoint(folder) if best_checkpoint(folder) else None)
        if found is not None:
            kept = json.loads((found / "state.json").read_text()).get("selected", {})
            self.value = kept.get(config.select)

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
        best, last = self.run.agree((best_checkpoint(self.folder), last_checkpoint(self.folder)))
        if self.config.select and best is not None and best != last:
            load_checkpoint(best, model)
            if self.run.leads:
                print(
                    f"{self.config.select} was best, {self.value:.4f}, at {best.name}: these weights it is", flush=True
                )
