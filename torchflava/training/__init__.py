"""The mechanics of a run: processes, sharding, optimizer, checkpoints, meters. It knows modules, not FLAVA."""

from torchflava.training.accumulate import Across, accumulate
from torchflava.training.average import averaged, update_average
from torchflava.training.budget import Budget, fsdp_budget
from torchflava.training.checkpoint import Checkpoints, full_weights, load_checkpoint
from torchflava.training.fsdp import compile_units, mesh_of, shard
from torchflava.training.initialise import give_weights, initialise
from torchflava.training.machine import peak_flops
from torchflava.training.meter import TIMED, Meter
from torchflava.training.optim import (
    adamw,
    adamw_by_depth,
    clip_gradients,
    half_cosine,
    set_learning_rate,
    warmup_cosine,
    warmup_linear,
)
from torchflava.training.places import Place
from torchflava.training.precision import Scaler
from torchflava.training.profile import Profile
from torchflava.training.recompute import Recompute, is_recomputed, recompute
from torchflava.training.run import Run, session
from torchflava.training.saved import (
    best_checkpoint,
    checked_state,
    differences,
    last_checkpoint,
    local_folder,
    place_of,
    read_state,
)
from torchflava.training.signals import REQUEUE, StopSignals
from torchflava.training.spikes import Spike, Spikes, drop_gradients
from torchflava.training.together import local_rank, together

__all__ = [
    "REQUEUE",
    "TIMED",
    "Across",
    "Budget",
    "Checkpoints",
    "Meter",
    "Place",
    "Profile",
    "Recompute",
    "Run",
    "Scaler",
    "Spike",
    "Spikes",
    "StopSignals",
    "accumulate",
    "adamw",
    "adamw_by_depth",
    "averaged",
    "best_checkpoint",
    "checked_state",
    "clip_gradients",
    "compile_units",
    "differences",
    "drop_gradients",
    "fsdp_budget",
    "full_weights",
    "give_weights",
    "half_cosine",
    "initialise",
    "is_recomputed",
    "last_checkpoint",
    "load_checkpoint",
    "local_folder",
    "local_rank",
    "mesh_of",
    "peak_flops",
    "place_of",
    "read_state",
    "recompute",
    "session",
    "set_learning_rate",
    "shard",
    "together",
    "update_average",
    "warmup_cosine",
    "warmup_linear",
]
