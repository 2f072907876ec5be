"""The minimiser against closed forms, torch's own L-BFGS and itself with one problem at a time."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from torchflava.evaluation.lbfgs import minimise


def quadratics(num: int = 3, width: int = 11, dtype: torch.dtype = torch.float64):
    """½ xᵀAx less bᵀx, of very different curvatures, and where their minima are."""
    g = torch.Generator().manual_seed(0)
    roots = torch.randn(num, width, width, generator=g, dtype=dtype)
    a = roots @ roots.mT + 0.1 * torch.eye(width, dtype=dtype)
    b = torch.randn(num, width, generator=g, dtype=dtype)

    def objective(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        ax = torch.einsum("kij,kj->ki", a[which], x)
        return (0.5 * (x * ax).sum(1) - (x * b[which]).sum(1)).double(), ax - b[which]

    return objective, torch.linalg.solve(a, b)


def rosenbrock(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """The banana valley, a different one for each problem."""
    with torch.enable_grad():
        y = x.detach().requires_grad_()
        steep = 10.0 ** which[:, None].to(x.dtype)
        value = (steep * (y[:, 1:] - y[:, :-1] ** 2) ** 2 + (1 - y[:, :-1]) ** 2).sum(1)
        (grad,) = torch.autograd.grad(value.sum(), y)
    return value.detach().double(), grad


def test_finds_the_minima_of_quadratics() -> None:
    objective, best = quadratics()
    found = minimise(objective, torch.zeros_like(best), max_iter=200, tolerance=1e-9)
    assert found.converged.all()
    assert (found.iterations < 120).all()
    assert_close(found.parameters, best, atol=1e-7, rtol=1e-7)


def test_finds_the_end_of_a_bent_valley_as_torch_does() -> None:
    found = minimise(rosenbrock, torch.zeros(3, 5, dtype=torch.float64), max_iter=500, tolerance=1e-8)
    assert found.converged.all()
    assert_close(found.parameters, torch.ones(3, 5, dtype=torch.float64), atol=1e-5, rtol=0)
    x = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.LBFGS([x], max_iter=500, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        value, x.grad = rosenbrock(x, torch.tensor([2]))
        return value[0]

    theirs.step(closure)
    assert int(found.iterations[2]) < 2 * theirs.state[x]["n_iter"]


def test_problems_do_not_touch_each_other() -> None:
    start = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = minimise(rosenbrock, start, max_iter=25, tolerance=1e-8)
    for at in range(4):
        alone = minimise(
            lambda x, which, at=at: rosenbrock(x, which + at), start[at : at + 1], max_iter=25, tolerance=1e-8
        )
        assert_close(together.parameters[at], alone.parameters[0])
        assert together.iterations[at] == alone.iterations[0]


def test_stops_at_the_last_iteration_and_says_so() -> None:
    found = minimise(rosenbrock, torch.zeros(3, 5, dtype=torch.float64), max_iter=4, tolerance=1e-8)
    assert found.iterations.tolist() == [4, 4, 4]
    assert not found.converged.any()
    assert_close(found.values, rosenbrock(found.parameters, torch.arange(3))[0])


def test_a_start_at_the_minimum_stays() -> None:
    objective, best = quadratics()
    found = minimise(objective, best, max_iter=10, tolerance=1e-6)
    assert found.iterations.tolist() == [0, 0, 0]
    assert found.converged.all()
    assert_close(found.parameters, best)


def test_in_float32_rounding_ends_it() -> None:
    objective, best = quadratics(dtype=torch.float32)
    found = minimise(objective, torch.zeros_like(best), max_iter=1000, tolerance=1e-30)
    assert (found.iterations < 300).all()
    assert_close(found.values, objective(best, torch.arange(3))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_steps_are_found_at_any_scale(size: float) -> None:
    objective, best = quadratics()

    def scaled(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        value, grad = objective(x / size, which)
        return value, grad / size

    found = minimise(scaled, torch.zeros_like(best), max_iter=300, tolerance=1e-9 / size)
    assert_close(found.parameters / size, best, atol=1e-6, rtol=1e-6)


def test_what_overflows_has_not_converged() -> None:
    def steep(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        return x.double().sum(1), torch.full_like(x, torch.inf)

    assert not minimise(steep, torch.ones(2, 3), max_iter=9, tolerance=1e-4).converged.any()
