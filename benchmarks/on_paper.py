"""What a step on many GPUs takes, on paper: operations over a rate, bytes over bandwidths, hops over latencies.

The bytes are counted from the model's parts, as `torchflava.training.shard` makes FSDP2 send them, and a test compares them
with what ranks really send, to the byte. All else is an assumption, and `Machine` holds them with where they come from. FSDP2
pads each weight's first dimension to a multiple of S, which is counted: positions (1, 1 + N, D) are sent S times.

Letters: W ranks, S ranks that share a copy of the weights, C copies, W = S x C; B rows of a rank, E embedding width.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from drawn import LONGEST, NUM_CODES, VOCAB_SIZE, Shape
from goals import SHARES
from torch import nn

from torchflava.batch import Batch, ImageBatch, PairBatch, TextBatch
from torchflava.models import FlavaForPreTraining, flava_for_pretraining, flava_model, step_flops

Verb = Literal["all-gather", "reduce-scatter", "all-reduce"]
Group = Literal["shards", "copies", "all"]
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_FP32 = 4
_READ = {"image": ("image",), "text": ("text",), "pair": ("image", "text", "fusion")}
"""The encoders that a kind of batch goes through."""
_LEARN = {
    "image": ("flava.image_encoder.", "mim."),
    "text": ("flava.text_encoder.", "mlm."),
    "pair": ("flava.", "mmm_image.", "mmm_text.", "itm.", "contrastive."),
}
"""The parts whose weights get a gradient from a kind of batch."""


class Ranks(NamedTuple):
    """How many there are, and over whom a weight is spread."""

    shards: int
    """S; 1 where each rank has a copy, as in DDP."""
    copies: int = 1
    """C; 1 where a weight is spread over all."""

    @property
    def world(self) -> int:
        """W."""
        return self.shards * self.copies


class Collective(NamedTuple):
    """What ranks send each other at once."""

    verb: Verb
    of: str
    """weights, gradients, embeddings, counts (of labelled rows) or norms (of gradients, for clipping)."""
    nbytes: int
    """Of the whole: what all have after an all-gather, what each gives to a reduce-scatter or an all-reduce."""
    group: Group
    """The ranks among which: those that share a copy, those that hold the same shard, or all."""
    backward: bool = False
    """Or after it; else in forward."""
    hidden: bool = False
    """Whether the rank computes meanwhile; else it waits."""


class Machine(NamedTuple):
    """Assumptions: NVIDIA's DGX H100, and NCCL's own estimates. Rates are a GPU's, a second, in one direction."""

    flops: float = 989e12
    """Dense bf16 (data sheet of the H100 SXM)."""
    utilisation: float = 0.4
    """Share of it that forward and backward reach: a guess, as `recipes/plan.py` makes it, the same for any number of rows."""
    memory: float = 3.35e12
    """Bytes of HBM3 (the same data sheet), which bound AdamW's update."""
    link: float = 450e9
    """Bytes of NVLink 4: half of the data sheet's 900 GB/s, which add up both directions."""
    network: float = 50e9
    """Bytes: one ConnectX-7 of 400 Gb/s a GPU, eight a node (DGX H100's user guide)."""
    reached: float = 0.8
    """Share of link and network that large messages reach: a guess."""
    per_node: int = 8
    start: float = 8.4e-6
    """Seconds of a collective among no one (NCCL, src/graph/tuning.cc, ring, protocol Simple, as the next two)."""
    link_hop: float = 3.4e-6
    network_hop: float = 14e-6


class Step(NamedTuple):
    """Seconds of a step on each rank."""

    forward: float
    """Computing."""
    backward: float
    """Computing, what is computed again included."""
    update: float
    """AdamW."""
    sent_forward: float
    """By links, while the rank computes."""
    sent_backward: float
    waited: float
    """For links, while it does not."""
    hops: float
    """Of all that is sent, hidden or not, the part that fewer bytes would not shorten."""

    @property
    def compute(self) -> float:
        """Without any sending."""
        return self.forward + self.backward + self.update

    @property
    def sent(self) -> float:
        """All sending, hidden or not."""
        return self.sent_forward + self.sent_backward + self.waited

    @property
    def seconds(self) -> float:
        """With sending behind computing, wherever it may be."""
        hidden = max(self.forward, self.sent_forward) + max(self.backward, self.sent_backward)
        return hidden + self.update + self.waited

    @property
    def bound(self) -> str:
        """What takes most of the step: computing, bytes or hops."""
        if self.seconds < 2 * self.compute and self.sent < self.compute:
            return "computing"
        return "hops" if 2 * self.hops > self.sent else "bytes"


def collectives(
    model: FlavaForPreTraining, kind: str, rows: int, *, ranks: Ranks, precision: str = "bf16", clips: bool = True
) -> list[Collective]:
    """All that a rank takes part in for one step of a batch that is computed at once, in the order of forward and backward.

    Args:
        model: with all losses, as `flava_for_pretraining` makes it; any device, not sharded.
        kind: image, text or pair.
        rows: B.
        ranks: those that there are.
        precision: of the gathered weights; gradients are reduced in float32.
        clips: whether gradients are clipped, for which their norm is found.

    Raises:
        ValueError: for an unknown kind or precision, or a model whose matching looks at the clean pair or that lacks a loss.
    """
    if kind not in _READ or precision not in _BYTES:
        raise ValueError(f"{kind!r} in {precision!r}; kinds are {', '.join(_READ)}, precisions {', '.join(_BYTES)}")
    parts = (model.mim, model.mlm, model.mmm_image, model.mmm_text, model.itm, model.contrastive)
    if model.itm_input != "masked" or None in parts:
        raise ValueError("counted is the model with all six losses and itm_input 'masked'; build it so")
    passes = list(_passes(model, kind))
    learnt = {id(p) for name, p in model.named_parameters() if name.startswith(_LEARN[kind])}
    units = list({id(unit): unit for unit in passes}.values())
    gathered = [_gather(unit.parameters(), _BYTES[precision], ranks) for unit in passes]
    contrasted = _contrasted(model, rows, ranks) if kind == "pair" else []
    root = _root(model)
    found = [_gather(root, _BYTES[precision], ranks)._replace(hidden=False), *gathered]
    found += [sent for sent in contrasted if not sent.backward]
    found += [_counts(kind)] if ranks.world > 1 else []
    found += [sent._replace(backward=True) for sent in gathered]
    found += [sent for sent in contrasted if sent.backward]
    for unit in reversed(units):
        found += _reduce(unit.parameters(), ranks)
    found += [sent._replace(hidden=False) for sent in _reduce([p for p in root if id(p) in learnt], ranks)]
    if clips:
        found.append(Collective("all-reduce", "norms", _FP32 * len(learnt), "shards", backward=True))
    return [sent for sent in found if _size(sent.group, ranks) > 1]


def sent_by_each(sent: Collective, ranks: Ranks) -> float:
    """Bytes that each rank sends, if the ranks stand in a ring, as NCCL has them for large messages."""
    size = _size(sent.group, ranks)
    return sent.nbytes * (size - 1) / size * (2 if sent.verb == "all-reduce" else 1)


def seconds_of(sent: Collective, ranks: Ranks, machine: Machine) -> tuple[float, float]:
    """Of bytes, and of hops: through a ring, or for an all-reduce through a tree where that is fewer hops.

    A group with K ranks of a node leaves it by K network ports.
    """
    size = _size(sent.group, ranks)
    inner = ranks.shards if sent.group == "copies" else 1  # ranks of other groups between two of this
    together = min(size, max(1, machine.per_node // inner))
    nodes = size // together
    rate = machine.link if nodes == 1 else min(machine.link, together * machine.network)
    ring = (size - nodes) * machine.link_hop + (nodes - 1) * machine.network_hop
    if sent.verb == "all-reduce":
        tree = (together - 1) * machine.link_hop + math.log2(nodes) * machine.network_hop
        ring = 2 * min(ring, tree)
    return sent_by_each(sent, ranks) / (machine.reached * rate), machine.start + ring


def step_of(
    model: FlavaForPreTraining, shape: Shape, kind: str, *, ranks: Ranks, machine: Machine, recompute: bool = False
) -> Step:
    """One step of that kind.

    Args:
        model: on the meta device, say.
        shape: of a rank's batch.
        kind: image, text or pair.
        ranks: those that there are.
        machine: the assumptions.
        recompute: whether blocks are computed again in backward.
    """
    flops = step_flops(model, shaped(shape, kind), world_size=ranks.world)
    forward = flops / 3 / (machine.flops * machine.utilisation)
    hidden, waited, hops = {False: 0.0, True: 0.0}, 0.0, 0.0
    for sent in collectives(model, kind, shape.batch_size, ranks=ranks):
        of_bytes, of_hops = seconds_of(sent, ranks, machine)
        hops += of_hops
        if sent.hidden:
            hidden[sent.backward] += of_bytes + of_hops
        else:
            waited += of_bytes + of_hops
    weights = sum(p.numel() for p in model.parameters()) / ranks.shards
    update = 7 * _FP32 * weights / machine.memory  # weight, gradient and two moments read, all but the gradient written
    return Step(forward, (3 if recompute else 2) * forward, update, hidden[False], hidden[True], waited, hops)


def mixture_of(
    model: FlavaForPreTraining, shape: Shape, *, ranks: Ranks, machine: Machine, recompute: bool = False
) -> float:
    """Seconds of a step of the mixture's mean, .70 pairs, .15 images, .15 texts."""
    of = {"ranks": ranks, "machine": machine, "recompute": recompute}
    return sum(share * step_of(model, shape, kind, **of).seconds for kind, share in SHARES.items())


def on_meta(size: str, image_size: int = 224, patch_size: int = 16) -> FlavaForPreTraining:
    """The model of that size without memory."""
    with torch.device("meta"):
        flava = flava_model(size, image_size=image_size, patch_size=patch_size, vocab_size=VOCAB_SIZE)
        return flava_for_pretraining(flava, num_codes=NUM_CODES)


def shaped(shape: Shape, kind: str) -> Batch:
    """A batch of that shape without data; captions of the longest of `drawn.py`, 15 % of the words hidden."""
    with torch.device("meta"):
        rows, patches, masked = shape.batch_size, shape.side**2, shape.num_masked

        def of(*more: int) -> torch.Tensor:
            return torch.empty(rows, *more, dtype=torch.int64)

        pixels = torch.empty(rows, 3, shape.image_size, shape.image_size)
        image = (pixels, of(patches), of(masked), of(masked))
        if kind == "image":
            return ImageBatch(*image)
        length = shape.text_length if kind == "text" else LONGEST
        asked = max(1, round(0.15 * length))
        text = (of(length), of(length), of(asked), of(asked))
        return TextBatch(*text) if kind == "text" else PairBatch(*image, of(length), of(length), *text, of(), of())


def _passes(model: FlavaForPreTraining, kind: str) -> Iterator[nn.Module]:
    """Each unit as often as forward calls it: the last block of image and text twice, for the clean and the masked view."""
    for name in _READ[kind]:
        units = model.flava.get_submodule(f"{name}_encoder").units()
        yield from units
        yield from units[-1:] if kind == "pair" and name != "fusion" else []


def _root(model: FlavaForPreTraining) -> list[nn.Parameter]:
    """What is in no unit, nor the temperature, which is a unit of its own."""
    apart = [*model.units(), *([] if model.contrastive is None else [model.contrastive])]
    theirs = {id(p) for part in apart for p in part.parameters()}
    return [p for p in model.parameters() if id(p) not in theirs]


def _contrasted(model: FlavaForPreTraining, rows: int, ranks: Ranks) -> list[Collective]:
    """The embeddings of all ranks and their gradients' way back; the temperature as a unit in float32."""
    loss = model.contrastive
    assert loss is not None
    gathered = Collective("all-gather", "embeddings", 2 * _FP32 * rows * ranks.world * model.flava.embed_dim, "all")
    weight = _gather(loss.parameters(), _FP32, ranks)
    found = [weight, gathered, weight._replace(backward=True)]
    if loss.gradients == "global":
        found.append(gathered._replace(verb="reduce-scatter", backward=True))
    return found + _reduce(loss.parameters(), ranks)


def _counts(kind: str) -> Collective:
    """The labelled rows of each loss, for the mean over all ranks."""
    return Collective("all-reduce", "counts", _FP32 * {"image": 1, "text": 1, "pair": 4}[kind], "all")


def _gather(weights: Iterable[nn.Parameter], size: int, ranks: Ranks) -> Collective:
    return Collective("all-gather", "weights", size * _padded(weights, ranks.shards), "shards", hidden=True)


def _reduce(weights: Iterable[nn.Parameter], ranks: Ranks) -> list[Collective]:
    """Scattered over those that share a copy, then summed over the copies."""
    whole = _FP32 * _padded(weights, ranks.shards)
    scatter = Collective("reduce-scatter", "gradients", whole, "shards", backward=True, hidden=True)
    return [scatter, Collective("all-reduce", "gradients", whole // ranks.shards, "copies", backward=True, hidden=True)]


def _padded(weights: Iterable[nn.Parameter], shards: int) -> int:
    """Numbers in all shards together, each as long as the first."""
    return sum(shards * -(-p.shape[0] // shards) * p.shape[1:].numel() for p in weights)


def _size(group: Group, ranks: Ranks) -> int:
    return {"shards": ranks.shards, "copies": ranks.copies, "all": ranks.world}[group]


def total(found: Sequence[Collective], verb: Verb, of: str) -> int:
    """Bytes of all of that kind."""
    return sum(sent.nbytes for sent in found if (sent.verb, sent.of) == (verb, of))
