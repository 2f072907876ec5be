"""Losses and gradient norms that are no numbers, or far above what they were: found on the device, in every step, and kept out.

A step is looked at before the optimizer's: where it is not fine, its gradients are set to zero there and then, without a word
to the host, so weights never see them. What was found is read when the host wants to know, which waits for the device.
Letters: W ranks, n values: the losses of a kind of batch, and the gradients' norm.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from torchflava.distributed import gather

_SETTLE = 20  # steps of a kind after which its mean and deviation are good for something
_WINDOW = 100  # steps that the running mean is of, about


class Spike(NamedTuple):
    """A value that was not fine."""

    step: int
    """Counted as it was given."""
    kind: str
    """Of the batch."""
    name: str
    """Of the loss, or grad_norm."""
    value: float
    mean: float
    """Of the values of its name and kind before it."""
    deviation: float
    """The same values' standard deviation."""
    ranks: tuple[int, ...]
    """Those whose own losses are no finite numbers; all of them, if none's is."""

    def __str__(self) -> str:
        before = (
            f"{self.mean:.3g} +- {self.deviation:.2g} before" if self.deviation else "nothing before to compare with"
        )
        return f"{self.name} of {self.kind} batches was {self.value:.4g} at step {self.step} ({before})"


class Spikes:
    """Looks at each step's losses and gradient norm; every rank sees the same, for it looks at those of all ranks.

    Args:
        threshold: standard deviations above the running mean of the same loss of the same kind of batch (over about 100 of
            its steps, after the first 20) from which a value is not fine; 0 takes only what is no finite number.

    Raises:
        ValueError: for a threshold below 0 or not finite.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        if not 0 <= threshold < float("inf"):
            raise ValueError(f"threshold {threshold} must be 0, for what is no number alone, or above 0 and finite")
        self.threshold = threshold
        self._running: dict[str, _Running] = {}
        self._looked: list[_Looked] = []

    @torch.no_grad()
    def look(self, step: int, kind: str, losses: Mapping[str, Tensor], *, norm: Tensor | None) -> Tensor:
        """() bool on the device, the same on every rank: True if the step is fine. Every rank must look.

        Args:
            step: its number.
            kind: of its batch.
            losses: this rank's, whose mean over ranks is looked at; the same names for every batch of a kind.
            norm: of all ranks' gradients; None leaves it out, as where a loss scaler looks after gradients that overflow.
        """
        each = gather(torch.stack([loss.float() for loss in losses.values()])[None], "none")
        values, names = each.mean(0), tuple(losses)
        if norm is not None:
            values = torch.cat([values, norm.float().reshape(1).to(values.device)])
            names = (*names, "grad_norm")
        running = self._running.setdefault(kind, _Running.none(values))
        wrong = ~values.isfinite()
        if self.threshold and running.steps >= _SETTLE:
            wrong |= values > running.limit(self.threshold)
        fine = ~wrong.any()
        self._looked.append(_Looked(step, kind, names, fine, wrong, each, values, running))
        self._running[kind] = running.after(values, self.threshold)
        return fine

    def read(self) -> list[Spike]:
        """What was not fine since the last reading, the same on every rank. Waits for the device."""
        looked, self._looked = self._looked, []
        if not looked or bool(torch.stack([one.fine for one in looked]).all()):
            return []
        return [spike for one in looked for spike in one.spikes()]

    def state(self) -> dict[str, Any]:
        """The running means, for JSON; the same on every rank. Waits for the device."""
        return {kind: running.told() for kind, running in self._running.items()} if self.threshold else {}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what `state` told; what was looked at since is forgotten."""
        self._running = {kind: _Running.of(told, device) for kind, told in state.items()}
        self._looked = []


def drop_gradients(parameters: Iterable[nn.Parameter], fine: Tensor) -> None:
    """Set all gradients to zero in place if `fine`, () bool, is False; the host does not wait to learn of it."""
    if fine.device.type == "cpu" and bool(fine):
        return  # there is nobody to wait for here, and a pass over all gradients to be saved
    wrong = ~fine
    for parameter in parameters:
        if parameter.grad is not None:
            own = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            own.masked_fill_(wrong.to(own.device), 0.0)  # a product would leave NaN what it is


class _Running(NamedTuple):
    """Mean and variance of the values of a kind, the latest weighing most."""

    steps: int
    mean: Tensor
    """(n,)."""
    variance: Tensor
    """(n,)."""

    @classmethod
    def none(cls, like: Tensor) -> "_Running":
        return cls(0, torch.zeros_like(like), torch.zeros_like(like))

    @classmethod
    def of(cls, told: list[Any], device: torch.device) -> "_Running":
        return cls(told[0], torch.tensor(told[1], device=device), torch.tensor(told[2], device=device))

    def told(self) -> list[Any]:
        return [self.steps, self.mean.tolist(), self.variance.tolist()]

    def limit(self, threshold: float) -> Tensor:
        # Where values never differed, rounding alone would pass a deviation of 0.
        return self.mean + threshold * torch.maximum(self.variance.sqrt(), 1e-6 * self.mean.abs())

    def after(self, values: Tensor, threshold: float) -> "_Running":
        """With one step more. A spike counts as the limit that it passed: one does no harm, yet a new level is learnt."""
        if threshold and self.steps >= _SETTLE:
            values = torch.minimum(values, self.limit(threshold))
        weight = max(1 / (self.steps + 1), 1 / _WINDOW)
        apart = torch.where(values.isfinite(), values - self.mean, 0.0)
        variance = (1 - weight) * (self.variance + weight * apart.square())
        return _Running(self.steps + 1, self.mean + weight * apart, variance)


class _Looked(NamedTuple):
    """One step, on the device."""

    step: int
    kind: str
    names: tuple[str, ...]
    fine: Tensor
    """() bool."""
    wrong: Tensor
    """(n,) bool."""
    each: Tensor
    """(W, n losses): each rank's."""
    values: Tensor
    """(n,)."""
    before: _Running

    def spikes(self) -> list[Spike]:
        if bool(self.fine):
            return []
        own = (~self.each.isfinite()).any(1).nonzero().flatten().tolist()
        ranks = tuple(own or range(len(self.each)))
        columns = (self.names, self.wrong, self.values, self.before.mean, self.before.variance.sqrt())
        told = zip(columns[0], *(column.tolist() for column in columns[1:]), strict=True)
        return [
            Spike(self.step, self.kind, name, value, mean, deviation, ranks)
            for name, wrong, value, mean, deviation in told
            if wrong
        ]
