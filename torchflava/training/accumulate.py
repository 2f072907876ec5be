"""A step's gradients from parts of its batch, one after another: memory is that of a part, the gradients are the batch's.

A loss that compares all rows with each other, as the contrastive one does, is no sum over parts. For it the rows are embedded
first, part by part and without gradient; its gradients at the embeddings are found from all of them; and each part then goes
forward again and sends them back (cached embeddings: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size", §3.2).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

Part = TypeVar("Part")
Means = dict[str, Tensor]


class Across(NamedTuple):
    """A loss across all rows of a batch."""

    name: str
    """Of the loss, among those that the model returns."""
    embed: Callable[[Any], tuple[Tensor, ...]]
    """A part -> its rows' embeddings, (B, E) each; a verb of the model."""
    loss: Callable[..., Any]
    """(the embeddings of all parts, in order; all parts) -> what the model returns for this loss; a verb of the model."""
    replay: Callable[..., Any]
    """(a part, the gradients at its embeddings) -> the part for which the model's loss of this name sends them back."""


def accumulate(
    model: nn.Module,
    parts: Sequence[Part],
    means: Callable[[Mapping[str, Any]], Means],
    *,
    objective: Callable[[Means], Tensor],
    make: Callable[[Part], Any],
    across: Across | None = None,
) -> Means:
    """Add the gradients of `objective` over a batch to the model's, part by part; sharded gradients are reduced once.

    Args:
        model: may be sharded; called once a part, by every rank equally often.
        parts: of this rank's batch.
        means: the model's losses of a part -> their shares of the whole batch's means.
        objective: means -> what is minimised, linear in them.
        make: a part -> the batch that the model takes; called once or twice a part.
        across: a loss across all rows, if there is one.

    Returns:
        The whole batch's means, without gradient.
    """
    total: Means = {}
    gradients: list[tuple[Tensor, ...]] = []
    if across is not None:
        total, gradients = _across(parts, means, objective=objective, make=make, across=across)
    for at, part in enumerate(parts):
        _reduce_gradients(model, at == len(parts) - 1)
        batch = make(part)
        if across is None:
            found = means(model(batch))
            loss = objective(found)
        else:
            losses = dict(model(across.replay(batch, *gradients[at])))
            sent_back = losses.pop(across.name).total  # weighed already, as the gradients are
            found = means(losses) if losses else {}
            loss = objective(found) + sent_back if losses else sent_back
        loss.backward()  # type: ignore[no-untyped-call]
        for name, value in found.items():
            total[name] = total[name] + value.detach() if name in total else value.detach()
    return total


def _across(
    parts: Sequence[Any],
    means: Callable[[Mapping[str, Any]], Means],
    *,
    objective: Callable[[Means], Tensor],
    make: Callable[[Any], Any],
    across: Across,
) -> tuple[Means, list[tuple[Tensor, ...]]]:
    """The mean of the loss across all rows, and its gradients at each part's embeddings; its own weights' are added."""
    with torch.no_grad():
        embedded = [across.embed(make(part)) for part in parts]
    whole = tuple(torch.cat(columns).float().requires_grad_() for columns in zip(*embedded, strict=True))
    found = means({across.name: across.loss(*whole, parts)})
    objective(found).backward()  # type: ignore[no-untyped-call]
    rows = [len(columns[0]) for columns in embedded]
    split = [torch.split(_gradient(column), rows) for column in whole]
    return {name: value.detach() for name, value in found.items()}, list(zip(*split, strict=True))


def _gradient(embedding: Tensor) -> Tensor:
    return torch.zeros_like(embedding) if embedding.grad is None else embedding.grad


def _reduce_gradients(model: nn.Module, now: bool) -> None:
    """Whether the next backward passes gradients on to other ranks, or keeps them for the last part."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
