"""Picking the labelled rows of a sequence without boolean indexing, so that shapes stay fixed and nothing syncs.

Letters: B batch, L length, K rows picked, D width.
"""

import torch
from torch import Tensor


def take_rows(states: Tensor, positions: Tensor) -> Tensor:
    """(B, L, D), (B, K) int64 in [0, L) -> (B, K, D).

    Raises:
        ValueError: for positions of other samples than the states', and (on the CPU, where looking costs nothing) beyond L.
    """
    size, length = states.shape[:2]
    if positions.ndim != 2 or positions.shape[0] != size:
        raise ValueError(f"positions are {tuple(positions.shape)}; ({size}, K) is due: one row for each sample")
    if positions.is_cpu and positions.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in torch.aminmax(positions))
        if low < 0 or high >= length:
            raise ValueError(f"position {low if low < 0 else high} lies outside [0, {length})")
    # Of all rows in a row, because what `gather` keeps for backward are the states, and `index_select` keeps the places alone.
    starts = length * torch.arange(size, device=positions.device)
    rows = states.flatten(0, 1).index_select(0, (starts[:, None] + positions).flatten())
    return rows.view(*positions.shape, states.shape[-1])
