"""The mechanics of a run: processes, sharding, optimizer, checkpoints, meters. It knows modules, not FLAVA."""

from torchflava.training.accumulate import Across, accumulate
from torchflava.training.checkpoint import Checkpoints, best_checkpoint, full_weights, last_checkpoint, load_checkpoint
from torchflava.training.fsdp import compile_units, mesh_of, recompute, shard
from torchflava.training.initialise import give_weights, initialise
from torchflava.training.meter import Meter
from torchflava.training.optim import adamw, clip_gradients, set_learning_rate, warmup_cosine, warmup_linear
from torchflava.training.precision import Scaler
from torchflava.training.run import Run, attention_kernels, session
from torchflava.training.signals import REQUEUE, StopSignals

__all__ = [
    "REQUEUE",
    "Across",
    "Checkpoints",
    "Meter",
    "Run",
    "Scaler",
    "StopSignals",
    "accumulate",
    "adamw",
    "attention_kernels",
    "best_checkpoint",
    "clip_gradients",
    "compile_units",
    "full_weights",
    "give_weights",
    "initialise",
    "last_checkpoint",
    "load_checkpoint",
    "mesh_of",
    "recompute",
    "session",
    "set_learning_rate",
    "shard",
    "warmup_cosine",
    "warmup_linear",
]
