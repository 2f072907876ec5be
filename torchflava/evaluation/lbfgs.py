"""Several smooth functions minimised side by side by L-BFGS with a strong-Wolfe line search (Nocedal and Wright 2006, algorithms
7.4, 7.5 and 3.5), so that what they share, such as a product with the same features, is computed once for all.

Letters: A problems not yet done, P parameters of each.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(A, P) parameters and (A,) int64 numbers of problems -> (A,) float64 values and (A, P) gradients."""

_HISTORY = 10
"""Pairs of steps and changes of gradient kept; SciPy's default."""
_TRIALS = 20
"""Of a line search; SciPy's default."""
_DECREASE, _CURVATURE = 1e-4, 0.9
"""The Wolfe conditions' constants for quasi-Newton methods (Nocedal and Wright 2006, §3.1)."""


class Minimum(NamedTuple):
    """Where a search ended, for each of A problems."""

    parameters: Tensor
    """(A, P)."""
    values: Tensor
    """(A,) float64."""
    iterations: Tensor
    """(A,) int64."""
    converged: Tensor
    """(A,) bool: the largest gradient is within the tolerance, or the value falls by no more than its rounding."""


def minimise(objective: Objective, start: Tensor, *, max_iter: int, tolerance: float) -> Minimum:
    """From (A, P) downhill; each problem has its own steps and leaves when it is done, so none changes another's path.

    Args:
        objective: asked only for problems that are not done.
        start: float32 or float64; where and in which precision it is computed.
        max_iter: iterations at most, of each.
        tolerance: a problem is done when no entry of its gradient is larger.
    """
    which = torch.arange(len(start), device=start.device)
    x, (value, grad) = start, objective(start, which)
    ended = Minimum(start.clone(), value.clone(), torch.zeros_like(which), torch.zeros_like(which, dtype=torch.bool))
    pairs: list[_Pair] = []
    done = stalled = grad.abs().amax(1) <= tolerance
    for iteration in range(max_iter + 1):
        if iteration == max_iter:
            done = torch.ones_like(done)
        _note(ended, which, (x, value, iteration, stalled), done)
        if bool(done.all()):
            break
        if bool(done.any()):
            which, x, value, grad = which[~done], x[~done], value[~done], grad[~done]
            pairs = [_Pair(*(part[~done] for part in pair)) for pair in pairs]
        direction = _direction(grad, pairs)
        first = torch.ones_like(value) if pairs else 1 / grad.norm(dim=1).clamp(min=1).double()
        new_x, new_value, new_grad, found = _search(objective, (x, value, grad, which), direction, first)
        pairs = [*pairs, _pair(new_x - x, new_grad - grad)][-_HISTORY:]
        fell = value - new_value
        rounding = torch.finfo(x.dtype).eps * torch.maximum(value.abs(), new_value.abs()).clamp(min=1e-30)
        stalled = (new_grad.abs().amax(1) <= tolerance) | (found & (fell <= rounding))
        done, x, value, grad = stalled | ~found, new_x, new_value, new_grad
    return ended


class _Pair(NamedTuple):
    """A step and what it changed, for each problem."""

    step: Tensor
    change: Tensor
    inverse: Tensor
    """(A, 1): 1 / (step · change); 0 where the pair is not used, for want of curvature."""
    scale: Tensor
    """(A, 1): (step · change) / (change · change), the first guess of the inverse curvature; 0 as above."""


def _note(ended: Minimum, which: Tensor, state: tuple[Tensor, Tensor, int, Tensor], done: Tensor) -> None:
    x, value, iteration, converged = state
    at = which[done]
    ended.parameters[at], ended.values[at] = x[done], value[done]
    ended.iterations[at], ended.converged[at] = iteration, converged[done]


def _pair(step: Tensor, change: Tensor) -> _Pair:
    curved, length = _dot(step, change), _dot(change, change)
    use = curved > torch.finfo(step.dtype).eps * length
    inverse = torch.where(use, 1 / torch.where(use, curved, 1.0), 0.0)
    return _Pair(step, change, inverse, torch.where(use, curved / torch.where(use, length, 1.0), 0.0))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b)[:, None]


def _direction(grad: Tensor, pairs: list[_Pair]) -> Tensor:
    """The two loops of algorithm 7.4: minus the inverse curvature, as the pairs tell it, times the gradient."""
    q, scale, shares = -grad, torch.ones_like(grad[:, :1]), []
    for pair in reversed(pairs):
        share = pair.inverse * _dot(pair.step, q)
        shares.append(share)
        q = q - share * pair.change
    for pair in pairs:  # the newest that is used decides
        scale = torch.where(pair.scale > 0, pair.scale, scale)
    q = scale * q
    for pair, share in zip(pairs, reversed(shares), strict=True):
        q = q + (share - pair.inverse * _dot(pair.change, q)) * pair.step
    return q


def _search(
    objective: Objective, state: tuple[Tensor, Tensor, Tensor, Tensor], direction: Tensor, first: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A point along `direction` that satisfies the strong Wolfe conditions, its value and gradient, and whether one was found.

    Where none is found the problem stays where it was.
    """
    x, value, grad, which = state
    new_x, new_value, new_grad = x.clone(), value.clone(), grad.clone()
    slope = _dot(grad, direction)[:, 0].double()
    zero = torch.zeros_like(value)
    low, high = _End(zero, value, slope), _End(zero + torch.inf, zero, zero)
    at, found = first.clone(), torch.zeros_like(which, dtype=torch.bool)
    left = torch.arange(len(x), device=x.device)[slope < 0]
    # In float32 the value's own rounding must not fail a step that the gradient approves of.
    allowed = value + 4 * torch.finfo(x.dtype).eps * value.abs()
    for _ in range(_TRIALS):
        if not len(left):
            break
        trial = x[left] + at[left, None].to(x.dtype) * direction[left]
        f, g = objective(trial, which[left])
        s = _dot(g, direction[left])[:, 0].double()
        falls = f <= allowed[left] + _DECREASE * at[left] * slope[left]
        flat = s.abs() <= -_CURVATURE * slope[left]
        good, short = falls & flat, falls & ~flat & (s < 0)
        here = _End(at[left], f, s)
        new_x[left[good]], new_value[left[good]], new_grad[left[good]] = trial[good], f[good], g[good]
        found[left[good]] = True
        low = _moved(low, left, short, here)
        high = _moved(high, left, ~good & ~short, here)
        left = left[~good]
        at[left] = _between(_End(*(part[left] for part in low)), _End(*(part[left] for part in high)))
    return new_x, new_value, new_grad, found


class _End(NamedTuple):
    """One end of the interval in which a good step lies: its length, value and slope."""

    at: Tensor
    value: Tensor
    slope: Tensor


def _moved(end: _End, left: Tensor, where: Tensor, here: _End) -> _End:
    return _End(*(old.index_put((left[where],), new[where]) for old, new in zip(end, here, strict=True)))


def _between(low: _End, high: _End) -> Tensor:
    """The minimum of the cubic through both ends (equation 3.59), kept off the ends; without a far end, four times as far."""
    width = high.at - low.at
    one = low.slope + high.slope - 3 * (low.value - high.value) / (low.at - high.at)
    two = (one.square() - low.slope * high.slope).clamp(min=0).sqrt()
    cubic = high.at - width * (high.slope + two - one) / (high.slope - low.slope + 2 * two)
    inside = torch.clamp(cubic, low.at + 0.1 * width, high.at - 0.1 * width)
    inside = torch.where(torch.isfinite(inside), inside, low.at + 0.5 * width)
    return torch.where(torch.isinf(high.at), 4 * low.at, inside)
