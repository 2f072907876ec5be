"""Sizes read off the shapes of tensors, which anyone may have written."""

from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]


def shape_of(state: State, name: str, num_dims: int) -> tuple[int, ...]:
    """The shape of a tensor that must have so many dimensions.

    Raises:
        ValueError: if it has others, or one of them is empty.
    """
    shape = tuple(state[name].shape)
    if len(shape) != num_dims or 0 in shape:
        raise ValueError(f"{name} is {shape}; {num_dims} dimensions, none of them empty, are due")
    return shape


def patches_of(state: State, prefix: str) -> tuple[int, int, int]:
    """The width, the patches a side and the side of a patch in pixels.

    Raises:
        ValueError: for patches or grids that are no squares.
    """
    width, channels, patch_size, across = shape_of(state, f"{prefix}projection.weight", 4)
    if channels != 3 or patch_size != across:
        raise ValueError(
            f"{prefix}projection.weight is for {patch_size} x {across} patches of {channels} channels; square ones of 3 are due"
        )
    num_patches = shape_of(state, f"{prefix}positions", 3)[1] - 1
    side = round(num_patches**0.5)
    if side < 1 or side * side != num_patches:
        raise ValueError(f"{prefix}positions holds {num_patches} patches, which are no square grid")
    return width, side, patch_size
