"""Settings of where a run is kept, how it is watched and what ends it, which pretraining and a codebook's training share."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Keeping:
    """Each is a flag; what a run computes is none of them."""

    preset: str = "scenes"
    """Where the other settings start from."""
    folder: str = "runs"
    """Where the run's own folder is made."""
    name: str = ""
    """Of the run's own folder; the same command then goes on from what is there. Without one, each start makes a new folder,
    but where a job that may start again has a name."""
    resume: str = ""
    """A run's folder to go on with, under the same settings."""
    checkpoints: str = ""
    """Where checkpoints lie instead of the run's own folder, another folder or a URL such as s3://bucket/run; a start goes on
    from what is there, on any machine."""
    save_every: int = 400
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 2
    """Checkpoints that are kept, the last ones."""
    keep_every: int = 0
    """Checkpoints of steps that are a multiple of it are kept too; 0 keeps none."""
    log_every: int = 10
    """Steps between two records in the log."""
    wandb: str = ""
    """A project of Weights & Biases that gets the records too; needs: pip install 'torchflava[wandb]'."""
    profile_at: int = 0
    """The first of three steps of which a profiler's trace is written into the run's folder; 0 means none."""
    debug: bool = False
    """Have the ranks compare which samples they are at in every step, not just in the first 20."""
    on_spike: Literal["stop", "skip", "rollback"] = "stop"
    """What to do about a step with a loss or a gradient that is no finite number, or a spike: stop, leave its gradients out and
    go on, or go back to the last checkpoint and leave the step out."""
    spike: float = 0.0
    """Standard deviations above its running mean from which a loss is a spike; 0 means only what is no finite number."""


RANGES = (
    ("save_every", 1, math.inf),
    ("keep", 1, math.inf),
    ("keep_every", 0, math.inf),
    ("log_every", 1, math.inf),
    ("profile_at", 0, math.inf),
    ("spike", 0, math.inf),
)
"""Setting, least, and what it must stay below."""
