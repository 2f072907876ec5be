"""Sharding a model over the ranks with FSDP2: its units and the root, nothing in between.

Source: torch.distributed.fsdp (torch 2.14). Only the root is called; other ways in are registered here as verbs.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

Precision = Literal["fp32", "bf16"]
"""Of weights and states in forward and backward; gradients are reduced and weights kept in float32 in either."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def shard(
    model: nn.Module,
    mesh: DeviceMesh,
    units: Iterable[nn.Module] | None = None,
    *,
    precision: Precision = "fp32",
    verbs: Iterable[str] = (),
    whole: Iterable[nn.Module] = (),
) -> None:
    """Shard `model` in place.

    Args:
        model: the root; from now on only it and its verbs may be called.
        mesh: (ranks,): shards lie on all of them.
        units: the parts gathered one by one, `model.units()` unless given.
        precision: see `Precision`.
        verbs: the root's methods for evaluation; each gives the weights back afterwards, for a root left gathered would
            answer the next forward with the weights of before the last update.
        whole: parts that stay in float32 whatever the precision, such as a temperature.

    Raises:
        ValueError: for an unknown precision, or a model without units.
    """
    if precision not in _DTYPES:
        raise ValueError(f"precision must be one of {', '.join(_DTYPES)}, got {precision!r}")
    if units is None:
        offered = getattr(model, "units", None)
        if offered is None:
            raise ValueError(f"a {type(model).__name__} has no units(); give the parts to shard one by one")
        units = offered()
    policy = MixedPrecisionPolicy(param_dtype=_DTYPES[precision], reduce_dtype=torch.float32)
    for part in whole:
        fully_shard(
            part, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32, cast_forward_inputs=False)
        )
    for unit in units:
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    root = fully_shard(model, mesh=mesh, mp_policy=policy)
    model.register_forward_hook(_reshard_unless_learning)
    for verb in verbs:
        register_fsdp_forward_method(model, verb)
        setattr(model, verb, _resharding(root, getattr(model, verb)))


def _reshard_unless_learning(root: nn.Module, given: Any, output: Any) -> None:
    """Backward gives the root's weights back; a forward that has none, such as a validation's, must do so itself."""
    if isinstance(root, FSDPModule) and not torch.is_grad_enabled():
        root.reshard()


def _resharding(root: FSDPModule, verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        finally:
            root.reshard()

    return call
