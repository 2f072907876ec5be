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
from drawn import Case, Shape, drawn, our_batch
from on_paper import Collective, Machine, Ranks
from ranks import on_ranks

from torchflava.losses import mean_losses
from torchflava.models import VERBS, FlavaForPreTraining, step_flops
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


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_what_is_counted_is_what_ranks_send_to_the_byte(world_size: int) -> None:
    for of_rank in on_ranks(world_size, sends)[sends]:
        assert len(of_rank) == (6 if world_size == 2 else 9)
        for (spread, precision, kind), sent in of_rank.items():
            assert sent == counted(spread, precision, kind, world_size), (spread, kind)


def base() -> FlavaForPreTraining:
    return on_paper.on_meta("base")


def test_how_often_base_sends() -> None:
    """12 + 12 + 6 blocks, root and temperature; forward and backward, two last blocks twice."""
    gathers = 1 + 2 * (12 + 1 + 12 + 1 + 6) + 2 + 1  # the root once, the temperature twice, the embeddings
    scatters = 12 + 12 + 6 + 1 + 1 + 1
    found = on_paper.collectives(base(), "pair", 128, ranks=Ranks(64))
    assert Counter(sent.verb for sent in found) == {"all-gather": gathers, "reduce-scatter": scatters, "all-reduce": 2}
    copied = on_paper.collectives(base(), "pair", 128, ranks=Ranks(8, 8))
    over = [sent.nbytes for sent in copied if sent.group == "copies"]
    assert len(over) == 12 + 12 + 6 + 1 + 1
    assert 8 * sum(over) == on_paper.total(copied, "reduce-scatter", "gradients")  # each sums up its shards alone
    assert on_paper.total(found, "all-gather", "embeddings") == 2 * 4 * 128 * 64 * 512
    assert on_paper.collectives(base(), "pair", 128, ranks=Ranks(1)) == []


def test_positions_are_padded_to_all_ranks() -> None:
    """(1, 197, 768) is sent as (512, 197, 768): 155 MB in place of 0.3."""
    few, many = (on_paper.collectives(base(), "image", 16, ranks=Ranks(shards))[0].nbytes for shards in (1 + 1, 512))
    more = 2 * 768 * 510 * (197 + 3)  # positions and three class and mask tokens, in bf16
    assert more < many - few < 1.05 * more  # and rows of other weights


def ring(size: int) -> int:
    """How often a rank hands a chunk to the next until each has all; backwards in time, until each chunk is summed up."""
    handed, at, has = 0, list(range(size)), [{rank} for rank in range(size)]
    while any(len(chunks) < size for chunks in has):
        at = [at[rank - 1] for rank in range(size)]
        handed += 1
        for rank, chunk in enumerate(at):
            has[rank].add(chunk)
    return handed


@pytest.mark.parametrize("verb", ["all-gather", "reduce-scatter", "all-reduce"])
def test_what_each_sends_is_what_a_ring_hands_on(verb: Any) -> None:
    sent = Collective(verb, "weights", 7 * 1000, "all")
    assert on_paper.sent_by_each(sent, Ranks(7)) == 1000 * ring(7) * (
        2 if verb == "all-reduce" else 1
    )  # summed up, then handed round


def test_where_a_group_sends() -> None:
    """Inside a node by its links; one rank of each node by one port; all of eight nodes by eight ports each."""
    machine = Machine(link=100.0, network=20.0, reached=0.5, start=1.0, link_hop=0.1, network_hop=10.0)
    two = Ranks(8, 4)
    shards = Collective("all-gather", "weights", 800, "shards")
    assert on_paper.seconds_of(shards, two, machine) == pytest.approx((700 / 50, 1 + 7 * 0.1))
    copies = Collective("all-reduce", "gradients", 400, "copies")
    assert on_paper.seconds_of(copies, two, machine) == pytest.approx((2 * 300 / 10, 1 + 2 * 2 * 10.0))  # a tree of 4
    everyone = Collective("all-gather", "embeddings", 3200, "all")
    assert on_paper.seconds_of(everyone, two, machine) == pytest.approx((3100 / 50, 1 + 28 * 0.1 + 3 * 10.0))
    narrow = machine._replace(network=5.0)
    assert on_paper.seconds_of(everyone, two, narrow)[0] == pytest.approx(3100 / 20)


def test_a_step_is_computing_where_sending_is_free_and_sending_where_computing_is() -> None:
    shape, infinite = Shape("tiny", 48, 16, 3), float("inf")
    model = on_paper.on_meta("tiny", 48)
    of = {"ranks": Ranks(8, 2)}
    free = Machine(link=infinite, network=infinite, start=0, link_hop=0, network_hop=0)
    step = on_paper.step_of(model, shape, "pair", **of, machine=free)
    assert step.sent == 0
    assert step.seconds == step.compute == pytest.approx(3 * step.forward + step.update)
    assert step.bound == "computing"
    step = on_paper.step_of(model, shape, "pair", **of, machine=Machine(flops=infinite, memory=infinite))
    of_each = [on_paper.seconds_of(s, *of.values(), Machine()) for s in on_paper.collectives(model, "pair", 3, **of)]
    assert step.seconds == step.sent == pytest.approx(sum(map(sum, of_each)))
    assert step.hops == pytest.approx(sum(hops for _, hops in of_each))
    assert step.bound == "hops"
    again = on_paper.step_of(model, shape, "pair", **of, machine=free, recompute=True)
    assert again.backward == pytest.approx(1.5 * on_paper.step_of(model, shape, "pair", **of, machine=free).backward)


def test_a_batch_without_data_has_the_shape_of_a_drawn_one() -> None:
    shape = Shape("tiny", 48, 16, 3)
    ours = our_batch(drawn(shape), Case("image", "given"))
    assert step_flops(on_paper.on_meta("tiny", 48), ours) == step_flops(
        on_paper.on_meta("tiny", 48), on_paper.shaped(shape, "image")
    )


def test_what_is_not_counted_is_refused() -> None:
    with pytest.raises(ValueError, match="'words' in 'bf16'"):
        on_paper.collectives(base(), "words", 3, ranks=Ranks(2))
    with pytest.raises(ValueError, match="all six losses"):
        on_paper.collectives(tiny.pretraining(itm_input="clean"), "pair", 3, ranks=Ranks(2))
