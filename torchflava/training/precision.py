"""Training in float16: the loss scaled up so that small gradients do not vanish, and steps that overflow left out and counted."""

import torch
from torch import Tensor


class Scaler:
    """torch's `GradScaler`, which does nothing in other precisions, with a count of the steps left out.

    Args:
        precision: fp16 scales; fp32 and bf16 have range enough.
        device: where the gradients are.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.skipped = 0
        """Steps whose gradients overflowed, on any rank."""

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale of the moment."""
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale; call it before they are clipped."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, *, wanted: bool = True) -> bool:
        """The optimizer's step, if it is wanted and no gradient is other than finite, which is the same on every rank; whether
        it was taken. One that is not wanted changes nothing, not the scale either."""
        if not wanted:
            if self._scaler.is_enabled():
                self._scaler.update(self._scaler.get_scale())
            return False
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        taken = bool(self._scaler.get_scale() >= before)
        self.skipped += not taken
        return taken

    def readings(self) -> dict[str, float]:
        """What to log of it."""
        if not self._scaler.is_enabled():
            return {}
        return {"step/loss_scale": self._scaler.get_scale(), "step/skipped": float(self.skipped)}

    def state(self) -> dict[str, float]:
        """What a run that goes on needs, for JSON; empty if nothing is scaled."""
        return dict(self._scaler.state_dict()) | {"skipped": self.skipped} if self._scaler.is_enabled() else {}

    def load(self, state: dict[str, float]) -> None:
        """Go on from what `state` told."""
        if self._scaler.is_enabled() and state:
            self.skipped = int(state["skipped"])
            self._scaler.load_state_dict({name: value for name, value in state.items() if name != "skipped"})
