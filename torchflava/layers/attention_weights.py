"""What attention looks at: its weights, which `scaled_dot_product_attention` keeps to itself (Vaswani et al. 2017, §3.2.1).

For looking, not for training: the weights of all heads take B * H * L * L numbers a layer.

Letters: B batch, L length, D width, H heads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torchflava.layers.transformer import Attention


@torch.no_grad()
def attention_weights(attention: Attention, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """(B, L, D), keep (B, L) bool -> (B, H, L, L) float32: what the layer's forward gives each key (last) of a query's 1."""
    q, k, _ = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).float()
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None, :], -torch.inf)
    return scores.softmax(-1)


@contextmanager
def watched_attention(module: nn.Module) -> Iterator[list[Tensor]]:
    """Within it, each `Attention` of `module` adds its weights (B, H, L, L) to the list whenever it runs.

    Outputs are what they are without it.

    Raises:
        ValueError: if the module has no `Attention`; the variants of BEiT and CLIP are others.
    """
    found = [part for part in module.modules() if isinstance(part, Attention)]
    if not found:
        raise ValueError(f"{type(module).__name__} has no layers.Attention to watch; give a FLAVA encoder")
    seen: list[Tensor] = []
    handles = [
        part.register_forward_pre_hook(
            lambda attention, given, named: seen.append(attention_weights(attention, *given, **named)), with_kwargs=True
        )
        for part in found
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attention_rollout(weights: Sequence[Tensor]) -> Tensor:
    """Layers' weights (B, H, L, L), the first layer first -> (B, L, L): how much of each input (last) is in each output.

    Heads are averaged, and half of a place's state is taken to be its own, by the residual branch (Abnar and Zuidema 2020, §3).

    Raises:
        ValueError: for no layers.
    """
    if not weights:
        raise ValueError("a rollout of no layers; watch an encoder while it runs")
    rolled = torch.eye(weights[0].shape[-1], device=weights[0].device).expand(len(weights[0]), -1, -1)
    for layer in weights:
        rolled = (layer.mean(1) @ rolled + rolled) / 2
    return rolled
