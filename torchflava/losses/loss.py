"""What every loss returns: a sum and what it was summed over, so that means can be taken over ranks and micro-batches."""

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """A loss before its mean is taken."""

    total: Tensor
    """() float32: the sum over labelled rows, with gradient."""
    num_rows: Tensor
    """() float32: the number of labelled rows; 0 makes the mean 0."""

    @property
    def mean(self) -> Tensor:
        """() float32: the mean over this rank's labelled rows, 0 where there are none."""
        return self.total / self.num_rows.clamp(min=1)
