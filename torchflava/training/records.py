"""Where the records of a run go: a JSONL log and TensorBoard's events, always, and Weights & Biases, if it is asked for."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class Records:
    """One record after another; a run that goes on drops those that it will write again.

    Args:
        folder: receives `log.jsonl` and TensorBoard's events.
        steps: of the whole run.
        start: the step that the run begins at.
        wandb: a project of Weights & Biases; none, and its package is not even looked for.

    Raises:
        ValueError: if a project is named and the package is not installed.
    """

    def __init__(self, folder: Path, steps: int, *, start: int = 0, wandb: str = "") -> None:
        self.folder, self.steps = folder, steps
        self._wandb = _open_wandb(wandb, folder) if wandb else None
        self._open(start)

    def _open(self, start: int) -> None:
        self._events = SummaryWriter(str(self.folder), purge_step=start + 1)
        self._log = self.folder / "log.jsonl"
        _forget_after(self._log, start, self.steps)

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """The record of `step`."""
        with self._log.open("a") as log:
            log.write(json.dumps({"step": step, **record}) + "\n")
        for name, value in record.items():
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({"step": step, **record})

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """(3, H, W) uint8: a picture of `step`, for TensorBoard and Weights & Biases."""
        self._events.add_image(name, image.numpy(), step)
        if self._wandb is not None:
            self._wandb.log({"step": step, name: _wandb_module().Image(image.permute(1, 2, 0).numpy())})

    def rewind(self, step: int) -> None:
        """Drop what was written after `step`. Weights & Biases drops nothing: there, such steps have two points."""
        self._events.close()
        self._open(step)

    def close(self) -> None:
        """Write out what is left."""
        self._events.close()
        if self._wandb is not None:
            self._wandb.finish()


def _forget_after(log: Path, step: int, steps: int) -> None:
    """Drop what a run wrote past the checkpoint that it goes on from, for those steps come again."""
    if log.is_file():
        lines = [line for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        # What was measured after the last step is measured anew even by a run that had nothing left to do.
        kept = [line for line in lines if json.loads(line)["step"] < step + ('"measured/' not in line or step < steps)]
        part = log.with_name(f".{log.name}.part")
        part.write_text("".join(f"{line}\n" for line in kept))
        part.replace(log)  # at once: a run that is killed here has lost nothing


def _wandb_module() -> Any:
    return importlib.import_module("wandb")


def _open_wandb(project: str, folder: Path) -> Any:
    """A run of Weights & Biases by the name of the folder, which goes on where its path had one; with the run's settings."""
    try:
        wandb = _wandb_module()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the records shall go to Weights & Biases' project {project!r}, but its package is not there; "
            "pip install 'torchflava[wandb]'"
        ) from error
    kept = folder / "config.json"
    config = json.loads(kept.read_text()) if kept.is_file() else {}
    own = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]  # runs of one name in two places are two
    run = wandb.init(project=project, name=folder.name, id=own, resume="allow", dir=str(folder), config=config)
    # By its own count of calls, what a resumed run writes again would be thrown away.
    run.define_metric("*", step_metric="step")
    return run
