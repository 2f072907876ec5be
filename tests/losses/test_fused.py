"""Masked prediction in chunks of rows, against all logits at once; and that they are never there at once.

Letters: B batch, K rows asked for, D width, V codes.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchflava.batch import IGNORE
from torchflava.losses import fused_prediction_loss, masked_prediction_loss

B, K, D, V = 3, 5, 7, 11
Leaves = tuple[Tensor, Tensor, Tensor | None]


def drawn(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> Leaves:
    """States (B, K, D), weight (V, D), bias (V,)."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, K, D), (V, D), (V,))
    states, weight, shift = (torch.randn(*s, generator=generator).to(dtype).requires_grad_() for s in shapes)
    return states, weight, shift if bias else None


def labels() -> Tensor:
    found = torch.randint(0, V, (B, K), generator=torch.Generator().manual_seed(1))
    found[0, 3:], found[2] = IGNORE, IGNORE
    return found


def gradients(total: Tensor, leaves: Leaves) -> tuple[Tensor, ...]:
    return torch.autograd.grad(3 * total, [leaf for leaf in leaves if leaf is not None])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("at_a_time", [1, 4, 14, 15, 1000])
def test_forward_and_gradients_are_those_of_all_logits(bias: bool, at_a_time: int) -> None:
    leaves = drawn(bias=bias)
    got = fused_prediction_loss(*leaves, labels=labels(), at_a_time=at_a_time)
    exact = tuple(leaf if leaf is None else leaf.double() for leaf in leaves)
    logits = F.linear(*exact).flatten(0, 1)
    due = F.cross_entropy(logits, labels().flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(got.total.double(), due, rtol=1e-6, atol=1e-6)
    assert got.num_rows == 8
    for a, b in zip(gradients(got.total, leaves), gradients(due, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def off(got: tuple[Tensor, ...], due: tuple[Tensor, ...]) -> list[float]:
    return [float((a - b).double().norm() / b.double().norm()) for a, b in zip(got, due, strict=True)]


@pytest.mark.parametrize("cast", [True, False])
def test_bfloat16_is_no_further_from_exact_than_with_all_logits(cast: bool) -> None:
    """Weights cast as FSDP does, or under autocast; gradients have the leaves' type, the loss is float32."""
    leaves = drawn(torch.bfloat16 if cast else torch.float32)
    whole = drawn()
    exact = gradients(masked_prediction_loss(F.linear(*whole), labels()).total, whole)
    with torch.autocast("cpu", torch.bfloat16, enabled=not cast):
        fused = fused_prediction_loss(*leaves, labels=labels(), at_a_time=4).total
        plain = masked_prediction_loss(F.linear(*leaves), labels()).total
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    got, due = gradients(fused, leaves), gradients(plain, leaves)
    assert [x.dtype for x in got] == [x.dtype for x in due]
    for ours, theirs in zip(off(got, exact), off(due, exact), strict=True):
        assert 0 < ours < 0.01
        assert ours < 1.3 * theirs


def test_float16_has_the_gradients_of_a_loss_that_was_scaled() -> None:
    """1e-9 of a chance would vanish when rounded before it is scaled, and does so here on neither side."""
    leaves, large = drawn(torch.float16), 2.0**14
    with torch.no_grad():
        leaves[2][0] = -20.0  # no label is 0, or its gradient would be large
    given = torch.where(labels() == 0, 1, labels())
    got = torch.autograd.grad(large * fused_prediction_loss(*leaves, labels=given, at_a_time=4).total, leaves)
    due = torch.autograd.grad(large * masked_prediction_loss(F.linear(*leaves), given).total, leaves)
    assert float(due[2][0]) > 0
    for a, b in zip(got, due, strict=True):
        assert torch.equal(a, b)


class Largest(TorchDispatchMode):
    """The most elements of a tensor that an operation makes, and the products that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.numel, self.products = 0, 0
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))])
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            self.products += 1
            self.dtypes.add(made.dtype)
        return made


@pytest.mark.parametrize("learns", [True, False])
def test_logits_are_never_there_at_once_and_made_but_once(learns: bool) -> None:
    leaves = drawn()
    with Largest() as seen, torch.set_grad_enabled(learns):
        loss = fused_prediction_loss(*leaves, labels=labels(), at_a_time=4)
        if learns:
            loss.total.backward()
    assert seen.numel == max(4 * V, *(leaf.numel() for leaf in leaves if learns), B * K * D)
    assert seen.numel < B * K * V
    assert seen.products == 4 * (3 if learns else 1)


def test_under_autocast_all_products_are_low() -> None:
    with Largest() as seen, torch.autocast("cpu", torch.bfloat16):
        fused_prediction_loss(*drawn(), labels=labels(), at_a_time=4).total.backward()
    assert seen.dtypes == {torch.bfloat16}


def test_nothing_labelled_costs_exactly_nothing() -> None:
    leaves = drawn()
    loss = fused_prediction_loss(*leaves, labels=torch.full((B, K), IGNORE), at_a_time=4)
    assert (loss.mean.item(), loss.num_rows.item()) == (0.0, 0.0)
    assert not any(gradient.any() for gradient in gradients(loss.mean, leaves))


def test_what_does_not_fit_is_refused() -> None:
    states, weight, bias = drawn()
    with pytest.raises(ValueError, match=r"labels are \(3, 4\), logits \(3, 5, 11\): one label for each row is due"):
        fused_prediction_loss(states, weight, bias, labels=labels()[:, :4])
    with pytest.raises(ValueError, match=r"label 11 lies outside \[0, 11\)"):
        fused_prediction_loss(states, weight, bias, labels=torch.full((B, K), V))


@pytest.mark.parametrize("low", [True, False])
def test_it_compiles_into_one_graph(low: bool) -> None:
    leaves, given = drawn(), labels()

    def loss(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            return fused_prediction_loss(states, weight, bias, labels=given, at_a_time=4).total

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got, due = compiled(*leaves), loss(*leaves)
    torch.testing.assert_close(got, due)
    for a, b in zip(gradients(got, leaves), gradients(due, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
