"""AdamW, its decay groups and its schedule (paper §4.1 and table C.1: betas .9, .999, decay .1, cosine after warm-up)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_NO_DECAY = ("positions", "cls_token", "mask_token", "segments")


def decayed(name: str, parameter: Tensor) -> bool:
    """True for the weights that decay: all but vectors, and but positions, segments, class and mask tokens."""
    return parameter.ndim > 1 and not any(part in _NO_DECAY for part in name.split("."))


def adamw(
    model: nn.Module, lr: float, weight_decay: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> torch.optim.AdamW:
    """AdamW over the parameters that learn, in two groups: those that decay and those that do not; in one kernel (`fused`)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not named:
        raise ValueError("no parameter of the model requires a gradient; there is nothing to train")
    groups = [
        {"params": [p for name, p in named if decayed(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in named if not decayed(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=True)


def adamw_by_depth(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    depths: Mapping[str, int],
    layer_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """As `adamw`, with a learning rate that falls from the output towards the input (Clark et al. 2020; Bao et al. 2022).

    Args:
        model: may be sharded.
        lr: of the deepest parameters.
        weight_decay: of those that decay.
        depths: of each parameter by name, the greatest nearest to the output.
        layer_decay: what each level less multiplies `lr` with; set the rate by `set_learning_rate`.
        betas, eps: AdamW's.

    Raises:
        ValueError: for a factor that is not above 0 and at most 1, and for a model in which nothing learns.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay is {layer_decay}; above 0 and at most 1 is due")
    top = max(depths.values())
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((depths[name], decayed(name, parameter)), []).append(parameter)
    if not groups:
        raise ValueError("no parameter of the model requires a gradient; there is nothing to train")
    told = [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "scale": layer_decay ** (top - depth),
            "lr": lr * layer_decay ** (top - depth),
        }
        for (depth, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(told, lr=lr, betas=betas, eps=eps, fused=True)


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, lr: float, final_lr: float = 0.0) -> float:
    """The learning rate of `step`, 0 or more: a line from near 0 to `lr`, then half a cosine to `final_lr` at `steps`.

    Raises:
        ValueError: if the warm-up is longer than the run.
    """
    if (warming := _warming(step, steps, warmup_steps, lr=lr)) is not None:
        return warming
    done = min(1.0, (step - warmup_steps) / (steps - warmup_steps))
    return final_lr + (lr - final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def warmup_linear(step: int, *, steps: int, warmup_steps: int, lr: float, final_lr: float = 0.0) -> float:
    """As `warmup_cosine`, but a line from `lr` to `final_lr`, as RoBERTa's (Liu et al. 2019, §2.4).

    Raises:
        ValueError: if the warm-up is longer than the run.
    """
    if (warming := _warming(step, steps, warmup_steps, lr=lr)) is not None:
        return warming
    return final_lr + (lr - final_lr) * max(0.0, (steps - step) / (steps - warmup_steps))


def half_cosine(step: int, *, steps: int, first: float, last: float) -> float:
    """From `first` at step 0 to `last` at `steps` along half a cosine, and `last` from there on; without steps, at once.

    Raises:
        ValueError: for steps below 0.
    """
    if steps < 0:
        raise ValueError(f"steps {steps} must be 0 or more")
    done = min(1.0, step / steps) if steps else 1.0
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


def _warming(step: int, steps: int, warmup_steps: int, *, lr: float) -> float | None:
    """The learning rate of a step of the warm-up; None after it."""
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps {warmup_steps} must be below steps {steps}")
    return lr * (step + 1) / warmup_steps if step < warmup_steps else None


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set `lr` in every group, times the group's own `scale` where it has one (`adamw_by_depth`)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale the gradients down to a global norm of `max_norm` over all ranks; returns the norm before, on the device.

    A `max_norm` of 0 leaves them as they are.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm or math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
