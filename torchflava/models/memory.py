"""How much memory a pretraining step takes beside weights and moments, counted by running the model on tensors without data.

On the meta device every operation has its shapes and no memory, so a forward and backward of the largest size counts in seconds
what would not fit. Attention is counted as torch's fused kernel on GPUs has it, which keeps no table of scores. What is not
counted: workspaces of kernels, the allocator's gaps, communication, and what compiled code keeps instead. In bf16 and fp16 the
CPU keeps tables of scores up to 256 places, and not what GELU gives (docs/decisions/0006 and 0074).
Letters: B batch, W ranks, E embedding width.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple
from weakref import finalize

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchflava.batch import Batch, CachedPairBatch, PairBatch
from torchflava.layers import Attention, CausalAttention, RelativeAttention
from torchflava.losses.compared import compare
from torchflava.models.pretraining import FlavaForPreTraining

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class States(NamedTuple):
    """Bytes of one rank's forward and backward, its weights and the gradients that are passed on left out."""

    kept: int
    """What backward needs, at the end of forward: of the batch too, such as the pixels."""
    most: int
    """The most that is there at once, the batch included: what is kept, what an operation makes of it, and gradients that wait,
    such as those of a weight that backward meets again."""


def count_states(model: FlavaForPreTraining, batch: Batch, precision: str = "fp32") -> States:
    """What one rank's forward and backward of `batch` keep and take.

    The contrastive loss is left out, for with parts of a batch it is there before them: see `count_table`.

    Args:
        model: on the meta device; `torchflava.training.recompute` may have been called on its units. It is left as it was.
        batch: of the shapes that count, on any device, such as meta.
        precision: fp32, bf16 or fp16, as `torchflava.training.shard` takes it: weights and inputs in it, the temperature not.

    Raises:
        ValueError: for a model that has memory, or an unknown precision.
    """
    if precision not in _DTYPES:
        raise ValueError(f"precision must be one of {', '.join(_DTYPES)}, got {precision!r}")
    if not all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model has memory; build it under torch.device('meta'), for its shapes alone are asked for"
        )
    if isinstance(batch, PairBatch):
        batch = _cached(model, batch)
    model = _in_precision(deepcopy(model), _DTYPES[precision])
    with _Alive() as alive:
        batch = _on_meta(batch)
        inputs = _cast(batch, _DTYPES[precision])
        with _Kept(model) as kept:
            loss = torch.stack([loss.total.float() for loss in model(inputs).values()]).sum()
        of_forward = kept.bytes()
        kept.clear()
        loss.backward()  # type: ignore[no-untyped-call]
    return States(of_forward, alive.most)


def count_table(rows: int, columns: int, embed_dim: int) -> int:
    """The most bytes that the contrastive loss of B rows against all ranks' columns takes, with its gradients: linear in both.

    Args:
        rows: B, of this rank.
        columns: W x B.
        embed_dim: E.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _Alive() as alive:
        pairs, gathered = (torch.empty(count, 2, embed_dim, requires_grad=True) for count in (rows, columns))
        scale, contrast = torch.empty(1, requires_grad=True), torch.ones(rows, dtype=torch.bool)
        compare(pairs, gathered, scale, contrast=contrast).backward()  # type: ignore[no-untyped-call]
    return alive.most


def _cached(model: FlavaForPreTraining, pair: PairBatch) -> CachedPairBatch:
    gradient = torch.empty(len(pair.ids), model.flava.embed_dim, device="meta")
    return CachedPairBatch(pair, gradient, gradient)


def _in_precision(model: FlavaForPreTraining, dtype: torch.dtype) -> FlavaForPreTraining:
    """As FSDP computes on a GPU: all but the temperature in `dtype`; a unit's gradients leave at once, the root's at the end."""
    model.to(dtype)
    if model.contrastive is not None:
        model.contrastive.float()
    for unit in model.units():
        for parameter in unit.parameters():
            parameter.register_post_accumulate_grad_hook(_leave)  # type: ignore[no-untyped-call]
    for part in model.modules():
        if isinstance(part, Attention | CausalAttention | RelativeAttention):
            part.forward = partial(_fused, part.forward)  # type: ignore[method-assign]
    return model


def _fused(forward: Callable[..., Tensor], *states: Tensor | None) -> Tensor:
    with _FusedAttention():  # here, for a mode round backward would not reach what is computed again there
        return forward(*states)


def _leave(parameter: Tensor) -> None:
    parameter.grad = None


def _on_meta(batch: Any) -> Any:
    """A batch, or one within it, of new tensors without data."""
    if isinstance(batch, Tensor):
        return torch.empty(batch.shape, dtype=batch.dtype, device="meta")
    return type(batch)(*map(_on_meta, batch))


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    return type(batch)(*(_cast(part, dtype) for part in batch))


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages that operations make, as long as they are there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor) and _id(leaf) not in self._known | given:
                self._begin(leaf.untyped_storage())
        return made

    def _begin(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        finalize(storage, self._end, storage._cdata, storage.nbytes())

    def _end(self, known: int, size: int) -> None:
        self._known.discard(known)
        self.now -= size


class _Kept:
    """Notes the storages that are kept for backward, each once, and not the weights'."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {_id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._found: dict[int, torch.UntypedStorage] = {}
        self._hooks = saved_tensors_hooks(self._note, lambda tensor: tensor)

    def __enter__(self) -> "_Kept":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._found.values())

    def clear(self) -> None:
        """Let go of them, so that backward can."""
        self._found.clear()

    def _note(self, tensor: Tensor) -> Tensor:
        if _id(tensor) not in self._weights:
            self._found[_id(tensor)] = tensor.untyped_storage()
        return tensor


class _FusedAttention(TorchFunctionMode):
    """The kernel that torch takes on GPUs, where it would take plain products on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._attend(*args, **(kwargs or {}))

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
    ) -> Tensor:
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
            attn_mask = attn_mask.expand(*q.shape[:-1], k.shape[-2])
        fused = torch.ops.aten._scaled_dot_product_efficient_attention.default
        attended: Tensor = fused(q, k, v, attn_mask, True, dropout_p, is_causal)[0]
        return attended


def _id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
