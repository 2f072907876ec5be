"""Checkpoints: all that a run needs to go on, in safetensors and JSON, so that nothing is ever unpickled.

A checkpoint is a folder `step-00000200/` with `model.safetensors`, `optimizer.safetensors` and `state.json`; it is
written under another name and renamed when whole, so a killed save never shadows a good one.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from torchflava.distributed import rank

FORMAT = 1
"""Of the folder; raised when an older reader could not read it."""


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, *, optimizer: torch.optim.Optimizer, config: dict[str, Any]
) -> Path:
    """Write the checkpoint after `step` steps; called by every rank, written by the first.

    Returns:
        The checkpoint's folder, `folder/step-…`.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = full_weights(model)
    moments = get_optimizer_state_dict(model, optimizer, options=options)
    target = folder / f"step-{step:08d}"
    if rank() == 0:
        _write(target, weights, moments, {"format": FORMAT, "step": step, "config": config})
    if dist.is_initialized():
        dist.barrier()
    return target


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a sharded model, whole and on the CPU, on the first rank; empty on the others. Called by every rank."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {name: v for name, v in get_model_state_dict(model, options=whole).items() if isinstance(v, Tensor)}


def _write(target: Path, weights: dict[str, Any], moments: dict[str, Any], state: dict[str, Any]) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in weights.items()}, partial / "model.safetensors")
    tensors = {f"{name}/{key}": v.contiguous() for name, parts in moments["state"].items() for key, v in parts.items()}
    save_file(tensors, partial / "optimizer.safetensors")
    state["param_groups"] = moments["param_groups"]
    (partial / "state.json").write_text(json.dumps(state, indent=1))
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the greatest step in `folder`, if there is one."""
    found = sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())
    return found[-1] if found else None


def load_checkpoint(path: Path, model: nn.Module, *, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> int:
    """Read a checkpoint into a model and an optimizer on any number of ranks; returns the number of steps done.

    Raises:
        ValueError: if the checkpoint is damaged, of another format, or its config differs in what shapes the run.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        weights: dict[str, Any] = load_file(path / "model.safetensors")
        flat = load_file(path / "optimizer.safetensors")
    except (ValueError, SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to go on from the checkpoint before it") from error
    if state["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {state['format']}, this version reads {FORMAT}; use the version that wrote it"
        )
    differing = {key: (value, config.get(key)) for key, value in state["config"].items() if config.get(key) != value}
    if differing:
        told = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differing.items())
        raise ValueError(f"{path} belongs to another run: {told}; resume with the same settings or start a new folder")
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, weights, options=options)
    moments: dict[str, Any] = {}
    for key, tensor in flat.items():
        name, _, part = key.rpartition("/")
        moments.setdefault(name, {})[part] = tensor
    saved = {"state": moments, "param_groups": state["param_groups"]}
    # Not strict: a head of a kind that has not come up yet has no moments.
    set_optimizer_state_dict(model, optimizer, saved, options=StateDictOptions(full_state_dict=True, strict=False))
    return int(state["step"])
