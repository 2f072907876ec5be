"""A run's processes: started by torchrun, or this one alone; NCCL on GPUs, gloo on the CPU."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh

from torchflava.distributed import rank, world_size
from torchflava.training.allocator import keep_freed_memory
from torchflava.training.fsdp import mesh_of


class Run(NamedTuple):
    """Where a process stands in its run."""

    rank: int
    world_size: int
    device: torch.device
    """This process's own."""
    mesh: DeviceMesh
    """(world_size,): all ranks."""

    @property
    def leads(self) -> bool:
        """True on the one rank that prints and writes."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


@contextmanager
def session(seed: int, device: str = "auto") -> Iterator[Run]:
    """Join the process group that torchrun's environment names (a group of one without it), seeded; leave it at the end.

    On the CPU the process keeps from then on what it frees (`training/allocator.py`).

    Args:
        seed: of torch's, numpy's and Python's generators, the same on every rank: weights are drawn alike everywhere.
        device: `auto` takes the GPU of this process's local rank if there is one, else the CPU; or `cpu`, `cuda`.

    Raises:
        ValueError: for another device, or for `cuda` where there is none.
    """
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend, device_id=chosen if chosen.type == "cuda" else None)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # for a user's part that draws from it; ours never do
    torch.manual_seed(seed)
    try:
        yield Run(rank(), world_size(), chosen, mesh_of(chosen))
    finally:
        dist.destroy_process_group()


def _device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no GPU; use auto or cpu, or install a CUDA build of torch")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
