"""The contrastive loss in chunks of rows, against whole tables in float64; and that there is no whole table.

Letters: B rows of this rank, N columns of all, E embedding width.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchflava.losses.compared import compare

B, N, E = 7, 23, 5
SOME = torch.tensor([True, True, False, True, False, True, True])


def drawn(count: int, seed: int) -> Tensor:
    """(count, 2, E) of length 1, as a leaf."""
    return F.normalize(torch.randn(count, 2, E, generator=torch.Generator().manual_seed(seed)), dim=-1).requires_grad_()


def by_tables(pairs: Tensor, columns: Tensor, scale: Tensor, contrast: Tensor, first: int) -> Tensor:
    pairs, columns, scale = pairs.double(), columns.double(), scale.double()
    labels = torch.arange(first, first + len(pairs))
    each = [F.cross_entropy(scale * pairs[:, k] @ columns[:, 1 - k].T, labels, reduction="none") for k in (0, 1)]
    return torch.where(contrast, each[0] + each[1], 0.0).sum() / 2


@pytest.mark.parametrize("contrast", [torch.ones(B, dtype=torch.bool), SOME, torch.zeros(B, dtype=torch.bool)])
@pytest.mark.parametrize("cells", [1, N, 3 * N, 7 * N - 1, 100 * N])
@pytest.mark.parametrize("first", [0, 14])
def test_forward_and_gradients_are_those_of_whole_tables(contrast: Tensor, cells: int, first: int) -> None:
    leaves = drawn(B, 0), drawn(N, 1), torch.tensor([14.3], requires_grad=True)
    got = compare(*leaves, contrast=contrast, first=first, cells=cells)
    due = by_tables(*leaves, contrast, first)
    torch.testing.assert_close(got.double(), due, rtol=1e-6, atol=1e-6)
    for a, b in zip(torch.autograd.grad(3 * got, leaves), torch.autograd.grad(3 * due, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_rows_that_are_columns_too_get_both_gradients() -> None:
    pairs, scale, every = drawn(B, 0), torch.tensor(9.0, requires_grad=True), torch.ones(B, dtype=torch.bool)
    got = torch.autograd.grad(compare(pairs, pairs, scale, contrast=every, cells=2 * B), (pairs, scale))
    due = torch.autograd.grad(by_tables(pairs, pairs, scale, every, 0), (pairs, scale))
    for a, b in zip(got, due, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_constant_columns_get_no_gradient_and_change_no_other() -> None:
    leaves, every = (
        (drawn(B, 0), drawn(N, 1), torch.tensor([14.3], requires_grad=True)),
        torch.ones(B, dtype=torch.bool),
    )
    constant = compare(leaves[0], leaves[1].detach(), leaves[2], contrast=every, cells=3 * N)
    through = compare(*leaves, contrast=every, cells=3 * N)
    for a, b in zip(torch.autograd.grad(constant, leaves[::2]), torch.autograd.grad(through, leaves[::2]), strict=True):
        assert torch.equal(a, b)


def test_backward_goes_twice_over_one_graph() -> None:
    pairs, columns = drawn(B, 0), drawn(N, 1)
    loss = compare(pairs, columns, torch.tensor(9.0), contrast=SOME, cells=N)
    first, second = (torch.autograd.grad(loss, (pairs, columns), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Largest(TorchDispatchMode):
    """The most elements that a tensor has which an operation makes, and the products that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.numel, self.products = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return made


@pytest.mark.parametrize("learns", [True, False])
def test_no_table_is_larger_than_a_chunk_and_none_is_made_twice(learns: bool) -> None:
    rows, columns, cells = 101, 211, 2200  # 10 rows at a time; 211 x 2 x 5 numbers are the columns themselves
    pairs, others = drawn(rows, 0), drawn(columns, 1)
    with Largest() as seen, torch.set_grad_enabled(learns):
        loss = compare(pairs, others, torch.tensor(9.0), contrast=torch.ones(rows, dtype=torch.bool), cells=cells)
        if learns:
            loss.backward()
    assert seen.numel <= cells
    assert seen.products == 2 * 11 * (3 if learns else 1)


def test_it_compiles_into_one_graph() -> None:
    pairs, scale = drawn(B, 0), torch.tensor([14.3], requires_grad=True)

    def loss(pairs: Tensor, scale: Tensor) -> Tensor:
        return compare(pairs, pairs, scale, contrast=SOME, cells=2 * B)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, due = compiled(pairs, scale), loss(pairs, scale)
    torch.testing.assert_close(got, due)
    for a, b in zip(torch.autograd.grad(got, (pairs, scale)), torch.autograd.grad(due, (pairs, scale)), strict=True):
        torch.testing.assert_close(a, b)
