"""The model of many GPUs counts what ranks really send, and its times are what they must be at the edges."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))

import on_paper
from on_paper import Ranks
from ranks import on_ranks

from torchflava.losses import mean_losses
from torchflava.models import VERBS, FlavaForPreTraining
from torchflava.training import recompute, shard
from torchflava.training.fsdp import mesh_of
from torchflava.training.optim import clip_gradients

ROWS = 3
VERB_OF = {
    "c10d._allgather_base_.default": "all-gather",
    "_c10d_functional.all_gather_into_tensor.default": "all-gather",
    "c10d._reduce_scatter_base_.default": "reduce-scatter",
    "_c10d_functional.reduce_scatter_tensor.default": "reduce-scatter",
    "c10d.allreduce_.default": "all-reduce",
    "_c10d_functional.all_reduce.default": "all-reduce",
}
QUIET = {"_c10d_functional.wait_tensor.default", "_c10d_functional._wrap_tensor_autograd.default"}
Sent = Counter[tuple[str, int]]
"""How often so many bytes were sent by that verb."""


class Seen(TorchDispatchMode):
    """Notes every collective of a rank; an unknown one is an error."""

    def __init__(self, world_size: int) -> None:
        super().__init__()
        self.world_size = world_size
        self.sent: Sent = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(of, DTensor) for of in types):
            return NotImplemented  # it sends by calls of its own, which come here again
        made = func(*args, **(kwargs or {}))
        name = str(func)
        if func.namespace in ("c10d", "_c10d_functional") and name not in QUIET:
            self.sent[VERB_OF[name], self._whole(name, args)] += 1
        return made

    def _whole(self, name: str, args: Any) -> int:
        """Bytes: the longest tensor that is given; the functional all-gather is given a part only."""
        tensors = [x for arg in args for x in (arg if isinstance(arg, list) else [arg]) if isinstance(x, torch.Tensor)]
        most = max(x.numel() * x.element_size() for x in tensors)
        return most * self.world_size if name.startswith("_c10d_functional.all_gather") else most


def sent_by(model: FlavaForPreTraining, kind: str, world_size: int) -> Sent:
    """One step's collectives; the second step's, for FSDP prepares itself in the first."""
    for _ in range(2):
        with Seen(world_size) as seen:
            sum(mean_losses(model(tiny.batch_of(kind, ROWS))).values()).backward()
            clip_gradients(model, 1.0)
        model.zero_grad()
    return seen.sent


def deep() -> FlavaForPreTraining:
    """Three blocks, two and two: the order in which FSDP gathers ahead must not matter."""
    parts = {"image": tiny.image_encoder(depth=3), "fusion": tiny.fusion_encoder(depth=2)}
    return tiny.pretraining(parts=parts)


def sends(rank: int, world_size: int) -> dict[tuple[str, str, str], Sent]:
    """By spread, precision and kind."""
    found = {}
    for spread, precision in (("all", "bf16"), ("node", "fp32"), ("copies", "bf16")):
        if spread == "node" and world_size == 2:
            continue  # nodes of two would be the whole
        model = deep()
        if precision == "fp32":
            recompute(model.units())  # inside a unit, which is there already: it sends nothing more
        mesh = mesh_of(torch.device("cpu"), spread, per_node=2)
        shard(model, mesh, precision=precision, verbs=VERBS, whole=[model.contrastive])
        for kind in tiny.KINDS:
            found[spread, precision, kind] = sent_by(model, kind, world_size)
    return found


def counted(spread: str, precision: str, kind: str, world_size: int) -> Sent:
    shards = {"all": world_size, "node": 2, "copies": 1}[spread]
    ranks = Ranks(shards, world_size // shards)
    found = on_paper.collectives(deep(), kind, ROWS, ranks=ranks, precision=precision)
    return Counter((sent.verb, sent.nbytes) for sent in found)


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_what_is_counted_is_what_ranks_send_to_the_byte(world_size: int) -> None:
    for of_rank in on_ranks(world_size, sends)[sends]:
        assert len(of_rank) == (6 if world_size == 2 else 9)
        for (spread, precision, kind), sent in of_rank.items():
            assert sent == counted(spread, precision, kind, world_size), (spread, kind)
