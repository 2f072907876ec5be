"""Whether a part, or tensors, are what they seem: what a fast path must know before it does a part's work in its stead."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_TENSORS = (Tensor, nn.Parameter)


def is_bare(part: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the part does what its class does, and no more: it has no hook, and there is none for all modules."""
    own = type(part) is kind and "forward" not in vars(part) and not any(getattr(part, name) for name in _HOOKS)
    return own and not _has_any_global_hook()  # type: ignore[no-untyped-call]


def learns_low_on_the_cpu(*tensors: Tensor) -> bool:
    """Whether these, all of one low precision and plain tensors on the CPU, are computed with now, and a backward may come.

    Not so where torch traces, casts (autocast) or transforms what is computed (`torch.func`, forward derivatives).
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    low = tensors[0].dtype
    if low not in (torch.bfloat16, torch.float16):
        return False
    if not all(type(x) in _TENSORS and x.is_cpu and x.dtype == low for x in tensors):
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    return any(x.requires_grad for x in tensors) and not torch.is_autocast_enabled("cpu")
