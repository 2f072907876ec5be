"""A model in one process and sharded on two ranks, and the same step for both."""

from collections.abc import Callable
from typing import Any

import tiny
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from torchflava.batch import Batch
from torchflava.encoders import Encoded
from torchflava.losses import mean_losses
from torchflava.models import VERBS, FlavaForPreTraining
from torchflava.training.fsdp import shard
from torchflava.training.optim import adamw, clip_gradients

RANKS, ROWS, LR, MAX_NORM = 2, 3, 0.05, 0.5
State = dict[str, Tensor]


class BagOfWords(nn.Module):
    """A text part of one's own, without `units()`."""

    width, vocab_size = 10, tiny.VOCAB_SIZE

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mix = nn.Embedding(self.vocab_size, self.width), nn.Linear(self.width, self.width)

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Encoded:
        hidden = self.mix(self.words(ids)).tanh()  # FSDP2 warns of a sharded part that returns a view
        return Encoded(hidden, 2 * hidden)


def model_of(text: str = "ours") -> FlavaForPreTraining:
    """The same weights everywhere; with our text encoder or another's."""
    torch.manual_seed(0)
    return tiny.pretraining(parts={} if text == "ours" else {"text": BagOfWords()})


def sharded(text: str = "ours") -> FlavaForPreTraining:
    """`model_of`, on all ranks."""
    model = model_of(text)
    shard(model, init_device_mesh("cpu", (RANKS,)), verbs=VERBS)
    return model


def mine(kind: str, number: int) -> Batch:
    """A rank's rows of `whole`."""
    return tiny.part(tiny.batch_of(kind, RANKS * ROWS), slice(number * ROWS, (number + 1) * ROWS))


def whole(kind: str) -> Batch:
    """The batch of all ranks."""
    return tiny.batch_of(kind, RANKS * ROWS)


def optimizer_of(model: nn.Module) -> torch.optim.AdamW:
    """With a large eps: AdamW's first step is a sign otherwise, which rounding turns where a gradient is almost 0."""
    return adamw(model, LR, 0.1, eps=1e-2)


def nothing() -> None:
    """Done before an update unless something else is asked for."""


def step(
    model: FlavaForPreTraining,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    before_update: Callable[[], Any] = nothing,
) -> tuple[dict[str, Tensor], Tensor]:
    """One step; the means and the norm of the gradients before clipping."""
    optimizer.zero_grad()
    means = mean_losses(model(batch))
    sum(means.values()).backward()
    norm = clip_gradients(model, MAX_NORM)
    before_update()
    optimizer.step()
    model.clamp_temperature()
    return {name: mean.detach() for name, mean in means.items()}, norm.detach()


def weights(model: nn.Module) -> State:
    """All weights; of a sharded model this rank's rows of each, so that nothing needs to be sent."""
    return {n: (p.to_local() if isinstance(p, DTensor) else p).detach().clone() for n, p in model.named_parameters()}


def joined(shards: list[State]) -> State:
    """The rows of all ranks."""
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}
