"""Attention's plain products against torch's kernel and the formula in float64, states and gradients; and when they are taken."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from torchflava.layers.attend import attend


def drawn(dtype: torch.dtype, length: int = 19, head: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, head, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def by_hand(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """In float64."""
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    return scores.softmax(-1) @ v.double()


MASKS = {
    "none": None,
    "keys": torch.arange(19).expand(2, 1, 1, 19) < torch.tensor([19, 7])[:, None, None, None],
    "biases": torch.linspace(-2, 2, 3 * 19 * 19).view(1, 3, 19, 19),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MASKS)
def test_states_and_gradients_are_the_formulas(dtype: torch.dtype, name: str) -> None:
    mask = MASKS[name]
    mask = mask.to(dtype) if mask is not None and mask.is_floating_point() else mask
    given = drawn(dtype)
    weights = torch.linspace(-1, 1, 19 * 16).view(19, 16)
    fast, slow = attend(*given, mask=mask), by_hand(*given, mask)
    near = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    torch.testing.assert_close(fast.double(), slow, rtol=near, atol=near)
    for a, b in zip(*(torch.autograd.grad((y.double() * weights).sum(), given) for y in (fast, slow)), strict=True):
        torch.testing.assert_close(a, b, rtol=near, atol=10 * near)


class Kernels(TorchFunctionMode):
    """Counts the calls of torch's kernel."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += func is F.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "length", "learns", "products"),
    [
        (torch.bfloat16, 19, True, True),
        (torch.float16, 19, True, True),
        (torch.float32, 19, True, False),
        (torch.bfloat16, 19, False, False),
        (torch.bfloat16, 300, True, False),
    ],
)
def test_products_are_taken_where_they_are_faster(
    dtype: torch.dtype, length: int, learns: bool, products: bool
) -> None:
    given = [x if learns else x.detach() for x in drawn(dtype, length)]
    with Kernels() as kernels:
        attend(*given)
    assert (kernels.calls == 0) == products


def test_causal_attention_sees_what_came_before() -> None:
    given = drawn(torch.bfloat16)
    before = torch.ones(19, 19, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(*given, causal=True).double(), by_hand(*given, before), rtol=3e-2, atol=3e-2)
