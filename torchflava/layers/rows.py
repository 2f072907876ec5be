"""Picking the labelled rows of a sequence without boolean indexing, so that shapes stay fixed and nothing syncs.

Letters: B batch, L length, K rows picked, D width.
"""

from torch import Tensor


def take_rows(states: Tensor, positions: Tensor) -> Tensor:
    """(B, L, D), (B, K) int64 in [0, L) -> (B, K, D)."""
    if positions.ndim != 2 or positions.shape[0] != states.shape[0]:
        raise ValueError(
            f"positions are {tuple(positions.shape)}; ({states.shape[0]}, K) is due: one row for each sample"
        )
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
