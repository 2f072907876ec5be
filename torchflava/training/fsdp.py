"""Sharding a model over the ranks with FSDP2: its units and the root, nothing in between.

Source: torch.distributed.fsdp (torch 2.14). Only the root is called; other ways in are registered here as verbs.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from torchflava.distributed import world_size
from torchflava.training.alone import cast_alone
from torchflava.training.initialise import initialise

Precision = Literal["fp32", "bf16", "fp16"]
"""Of weights and states in forward and backward; gradients are reduced and weights kept in float32 in all."""
Spread = Literal["all", "node", "copies"]
"""Over whom a weight is spread: over all ranks, over those of a node with a copy on each node, or over none, as in DDP."""

_SHAPES = 64  # ways in which a block may be called
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def mesh_of(device: torch.device, spread: Spread = "all", *, per_node: int = 1) -> DeviceMesh:
    """The ranks in the shape that `shard` takes: (ranks,), or (copies, ranks that share a copy).

    Args:
        device: this rank's.
        spread: see `Spread`.
        per_node: ranks of a node, for `node`.

    Raises:
        ValueError: for another spread, or nodes that do not hold the ranks evenly.
    """
    ranks = world_size()
    if spread == "all":
        return init_device_mesh(device.type, (ranks,), mesh_dim_names=("ranks",))
    if spread not in ("node", "copies"):
        raise ValueError(f"spread must be all, node or copies, got {spread!r}")
    share = per_node if spread == "node" else 1
    if share < 1 or ranks % share:
        raise ValueError(f"{ranks} ranks do not fill nodes of {share} evenly; start equally many on each node")
    return init_device_mesh(device.type, (ranks // share, share), mesh_dim_names=("copies", "ranks"))


def compile_units(units: Iterable[nn.Module]) -> None:
    """Compile each unit by itself, in place, without a break in its graph; after `recompute` and before `shard`."""
    # All blocks share one forward, which is compiled for each width, kind of pass and set of rows; torch gives up after eight.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _SHAPES)
    for unit in units:
        unit.compile(fullgraph=True)


def shard(
    model: nn.Module,
    mesh: DeviceMesh,
    units: Iterable[nn.Module] | None = None,
    *,
    precision: Precision = "fp32",
    verbs: Iterable[str] = (),
    whole: Iterable[nn.Module] = (),
    offload: bool = False,
    seed: int | None = None,
) -> None:
    """Shard `model` in place. One rank, which has none to share with, keeps its weights whole, and computes the same.

    Args:
        model: the root; from now on only it and its verbs may be called. On the meta device, it is given memory unit by unit.
        mesh: (ranks,): shards lie on all of them; or (copies, ranks), as `mesh_of` makes it.
        units: the parts gathered one by one, `model.units()` unless given.
        precision: see `Precision`.
        verbs: the root's methods for evaluation; each gives the weights back afterwards, for a root left gathered would
            answer the next forward with the weights of before the last update.
        whole: parts that stay in float32 whatever the precision, such as a temperature.
        offload: keep weights, gradients and the optimizer's state in main memory.
        seed: draw the weights, as `initialise` does; must be given for a model on the meta device.

    Raises:
        ValueError: for an unknown precision or verb, a model without units, or one on the meta device without a seed.
    """
    if precision not in _DTYPES:
        raise ValueError(f"precision must be one of {', '.join(_DTYPES)}, got {precision!r}")
    units, verbs = list(_units(model) if units is None else units), list(verbs)
    if unknown := [verb for verb in verbs if not callable(getattr(model, verb, None))]:
        raise ValueError(
            f"a {type(model).__name__} has no method {unknown[0]!r}; verbs are names of methods of its own"
        )
    if seed is None and any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the model is on the meta device; give a seed, so that its weights can be drawn")
    if mesh.size() == 1 and not offload:
        _keep(model, mesh.device_type, units, precision=precision, verbs=verbs, whole=whole, seed=seed)
        return
    names = {id(part): name for name, part in model.named_modules()}
    place = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    exact = MixedPrecisionPolicy(param_dtype=torch.float32, cast_forward_inputs=False)
    policy = MixedPrecisionPolicy(param_dtype=_DTYPES[precision], reduce_dtype=torch.float32)
    todo = [(part, exact) for part in whole] + [(unit, policy) for unit in units] + [(model, policy)]
    for part, its in todo:
        if seed is not None:
            initialise(part, seed, prefix=names[id(part)])
        fully_shard(part, mesh=mesh, mp_policy=its, offload_policy=place)
    model.register_forward_hook(_reshard_unless_learning)
    for verb in verbs:
        register_fsdp_forward_method(model, verb)
        setattr(model, verb, _resharding(model, getattr(model, verb)))


def _keep(
    model: nn.Module,
    device: str,
    units: list[nn.Module],
    *,
    precision: Precision,
    verbs: Iterable[str],
    whole: Iterable[nn.Module],
    seed: int | None,
) -> None:
    """What `shard` does on one rank."""
    if seed is not None:
        initialise(model, seed)
    model.to(device)
    if precision != "fp32":
        cast_alone(model, _DTYPES[precision], units=units, verbs=verbs, whole=whole)


def _units(model: nn.Module) -> Iterable[nn.Module]:
    offered = getattr(model, "units", None)
    if offered is None:
        raise ValueError(f"a {type(model).__name__} has no units(); give the parts to shard one by one")
    units: Iterable[nn.Module] = offered()
    return units


def _reshard_unless_learning(root: nn.Module, given: Any, output: Any) -> None:
    """Backward gives the root's weights back; a forward that has none, such as a validation's, must do so itself."""
    if isinstance(root, FSDPModule) and not torch.is_grad_enabled():
        root.reshard()


def _resharding(root: nn.Module, verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return verb(*args, **kwargs)
        finally:
            if isinstance(root, FSDPModule):
                root.reshard()

    return call
