"""First values of weights, drawn part by part from the seed and the part's name: the same whatever else the model holds, on
however many ranks, and for a model that was built on the meta device because it fits into no one's memory.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule


def initialise(model: nn.Module, seed: int, *, prefix: str = "", device: torch.device | None = None) -> None:
    """Draw all weights of a model, or of a part of it, anew. The global generators are left as they were.

    Every module that has `reset_parameters` draws for itself, children before the parents that overrule them. What is sharded
    already is left alone.

    Args:
        model: the whole model, or a part; on the meta device too.
        seed: of the run.
        prefix: a part's name within the whole model, such as `flava.image_encoder.trunk.blocks.0`.
        device: where weights that are on the meta device are made, the CPU unless given.

    Raises:
        ValueError: for weights on the meta device that no module's `reset_parameters` draws.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        drawn = {id(p) for module, _ in _drawing(model, prefix) for p in module.parameters()}
        if lost := [name for name, p in model.named_parameters(prefix) if p.is_meta and id(p) not in drawn]:
            raise ValueError(f"{', '.join(lost[:5])} have no reset_parameters; build the model on the CPU instead")
        _materialise(model, device or torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        for module, name in _drawing(model, prefix):
            torch.manual_seed(_key(seed, name))
            module.reset_parameters()


def give_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put whole tensors in place of a model's weights, by name; the others stay. Called on every rank with the same tensors.

    Args:
        model: may be sharded, and in main memory.
        state: some of its weights.

    Raises:
        ValueError: for names that the model does not have.
    """
    if unknown := state.keys() - dict(model.named_parameters()).keys():
        raise ValueError(f"the model has no {', '.join(sorted(unknown)[:5])} ({len(unknown)} in all)")
    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True, strict=False))


def _drawing(model: nn.Module, prefix: str) -> Iterator[tuple[Any, str]]:
    """The modules that draw their own weights, children first, with their names."""
    for name, child in model.named_children():
        if isinstance(child, FSDPModule):
            continue
        yield from _drawing(child, f"{prefix}.{name}" if prefix else name)
    if callable(getattr(model, "reset_parameters", None)):
        yield model, prefix


def _materialise(model: nn.Module, device: torch.device) -> None:
    """Give memory to what is on the meta device, and leave the rest alone."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                empty = torch.empty_like(parameter, device=device)
                setattr(module, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                raise ValueError(
                    f"buffer {name} of a {type(module).__name__} is on the meta device; build it on the CPU"
                )


def _key(seed: int, name: str) -> int:
    return int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")
