"""Attention's tables and what GELU gives, made again in backward, beside the plain way and float64; and who goes which."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from torchflava.layers import Mlp, attend, attend_again
from torchflava.layers.attend import attend_joined

WIDTH, HIDDEN, HEADS = 24, 53, 3
LOW = [torch.bfloat16, torch.float16]


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mlp(dtype: torch.dtype = torch.bfloat16) -> Mlp:
    made = Mlp(WIDTH, HIDDEN)
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            parameter.copy_(0.3 * drawn(*parameter.shape, seed=seed))
    return made.to(dtype)


def plainly(part: Mlp, x: Tensor) -> Tensor:
    return part.down(F.gelu(part.up(x)))


def goes_again(y: Tensor) -> bool:
    """Whether one of the two functions is what made it, or what it was made of."""
    found, seen = [y.grad_fn], set()
    while found:
        node = found.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found += [earlier for earlier, _ in node.next_functions]
    return any("_Again" in node.name() for node in seen)


def with_gradients(y: Tensor, *given: Tensor) -> list[Tensor]:
    weights = drawn(*y.shape, dtype=y.dtype, seed=9)
    return [y.detach(), *torch.autograd.grad(y, given, weights)]


def no_worse(found: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> None:
    for mine, other, due in zip(found, plain, exact, strict=True):
        assert mine.shape == due.shape
        assert mine.dtype == other.dtype
        assert (mine.double() - due).norm() <= 1.1 * (other.double() - due).norm() + 1e-3 * due.norm()


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("shape", [(2, 7, WIDTH), (1, 1, WIDTH), (301, WIDTH), (WIDTH,), (0, 7, WIDTH)])
def test_an_mlp_gives_the_plain_ways_numbers(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    part, x = mlp(dtype), drawn(*shape, dtype=dtype).requires_grad_()
    given = (x, *part.parameters())
    y = part(x)
    assert goes_again(y)
    found, plain = with_gradients(y, *given), with_gradients(plainly(part, x), *given)
    assert torch.equal(found[0], plain[0])
    exact, x64 = copy.deepcopy(part).double(), x.detach().double().requires_grad_()
    no_worse(found, plain, with_gradients(plainly(exact, x64), x64, *exact.parameters()))


def test_an_mlp_keeps_its_input_and_what_goes_into_gelu() -> None:
    part, x, found = mlp(), drawn(2, 7, WIDTH, dtype=torch.bfloat16).requires_grad_(), {}
    weights = {parameter.data_ptr() for parameter in part.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.setdefault(t.data_ptr(), t), lambda t: t):
        part(x)
    assert sum(t.nbytes for at, t in found.items() if at not in weights) == 2 * 2 * 7 * (WIDTH + HIDDEN)


@pytest.mark.parametrize(
    "frozen", [("up",), ("down",), ("up", "down"), ("x",), ("x", "up"), ("up.bias", "down.weight")]
)
def test_only_gradients_that_are_wanted_are_made(frozen: tuple[str, ...]) -> None:
    part, x = mlp(), drawn(2, 7, WIDTH, dtype=torch.bfloat16).requires_grad_("x" not in frozen)
    for name, parameter in part.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    given = [tensor for tensor in (x, *part.parameters()) if tensor.requires_grad]
    y = part(x)
    assert goes_again(y)
    for mine, due in zip(with_gradients(y, *given), with_gradients(plainly(part, x), *given), strict=True):
        torch.testing.assert_close(mine, due, rtol=0.02, atol=0.02)


class Kept(nn.Module):
    """As a part that adapts another has it (LoRA)."""

    def __init__(self, part: nn.Linear) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.part(x)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Quantised(Tensor):
    """A weight of a type of its own."""


def hooked(part: Mlp) -> None:
    part.up.register_forward_hook(lambda module, given, y: 2 * y)


def hooked_before(part: Mlp) -> None:
    part.down.register_forward_pre_hook(lambda module, given: (2 * given[0],))


def wrapped(part: Mlp) -> None:
    part.down = Kept(part.down)  # type: ignore[assignment]


def parametrized(part: Mlp) -> None:
    parametrize.register_parametrization(part.up, "weight", Doubled())


def replaced(part: Mlp) -> None:
    part.up.forward = Kept(nn.Linear(WIDTH, HIDDEN).bfloat16()).forward  # type: ignore[method-assign]


def without_bias(part: Mlp) -> None:
    part.down = nn.Linear(HIDDEN, WIDTH, bias=False).bfloat16()


def of_another_type(part: Mlp) -> None:
    part.up.weight = nn.Parameter(part.up.weight.detach().as_subclass(Quantised))


@pytest.mark.parametrize(
    "change", [hooked, hooked_before, wrapped, parametrized, replaced, without_bias, of_another_type]
)
def test_an_mlp_whose_layers_are_not_as_built_calls_them(change: Callable[[Mlp], None]) -> None:
    part, x = mlp(), drawn(2, 7, WIDTH, dtype=torch.bfloat16).requires_grad_()
    change(part)
    y = part(x)
    assert not goes_again(y)
    assert torch.equal(y, plainly(part, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_go_the_plain_way(dtype: torch.dtype) -> None:
    x, qkv = drawn(2, 7, WIDTH, dtype=dtype).requires_grad_(), drawn(2, 200, 3 * WIDTH, dtype=dtype).requires_grad_()
    assert not goes_again(mlp(dtype)(x))
    assert not goes_again(attend_joined(qkv, HEADS))


def test_where_nothing_is_learnt_or_torch_casts_it_is_the_plain_way() -> None:
    part, x = mlp(), drawn(2, 7, WIDTH, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(part(x), plainly(part, x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not goes_again(part(x.requires_grad_()))
        assert not goes_again(mlp(torch.float32)(x))


def both(x: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """An MLP and attention over as much as goes the other way, of an input (2, 200, D)."""
    part = mlp()

    def ours(x: Tensor) -> Tensor:
        return attend_joined(part(x).repeat(1, 1, 3), HEADS).float().square().sum()

    def plain(x: Tensor) -> Tensor:
        q, k, v = attend_again.split(plainly(part, x).repeat(1, 1, 3), HEADS)
        return attend.attend(q, k, v).transpose(1, 2).flatten(2).float().square().sum()

    assert goes_again(ours(x.clone().requires_grad_()))
    return ours, plain


def near(mine: Tensor, due: Tensor) -> None:
    assert (mine.float() - due.float()).norm() < 0.03 * due.float().norm()


def test_transforms_go_the_plain_way() -> None:
    x = drawn(2, 200, WIDTH, dtype=torch.bfloat16)
    ours, plain = both(x)
    near(torch.func.grad(ours)(x), torch.func.grad(plain)(x))
    near(torch.func.vmap(torch.func.grad(ours))(x[:, None]), torch.func.vmap(torch.func.grad(plain))(x[:, None]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own decompositions
def test_forward_derivatives_go_the_plain_way() -> None:
    x, tangent = (drawn(2, 200, WIDTH, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    ours, plain = both(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        near(*(forward_ad.unpack_dual(of(dual)).tangent for of in (ours, plain)))


def test_second_derivatives_are_the_plain_ways() -> None:
    x = drawn(2, 200, WIDTH, dtype=torch.bfloat16).requires_grad_()
    found = []
    for of in both(x):
        (first,) = torch.autograd.grad(of(x), x, create_graph=True)
        found.append(torch.autograd.grad(first.float().square().sum(), x)[0])
    near(*found)


def test_a_backward_may_be_repeated() -> None:
    x = drawn(2, 200, WIDTH, dtype=torch.bfloat16).requires_grad_()
    y = both(x)[0](x)
    first, second = (torch.autograd.grad(y, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("after", ["tracing", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_they_compile_into_one_graph_of_plain_operations(after: str) -> None:
    x = drawn(2, 200, WIDTH, dtype=torch.bfloat16).requires_grad_()
    ours, plain = both(x)
    graphs = []

    def traced(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend=traced if after == "tracing" else after)
    near(*(torch.autograd.grad(of(x), x)[0] for of in (compiled, plain)))
    assert not any("autograd_function" in code for code in graphs)


def by_hand(qkv: Tensor, keep: Tensor | None) -> Tensor:
    """Head by head; (B, L, 3D) -> (B, L, D)."""
    heads, width = [], WIDTH // HEADS
    for head in range(HEADS):
        q, k, v = (qkv[..., at : at + width] for at in range(head * width, 3 * WIDTH, WIDTH))
        scores = q @ k.mT / width**0.5
        if keep is not None:
            scores = scores.masked_fill(~keep[:, None], -torch.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.cat(heads, -1)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "length"), [(3, 197), (1, 224), (5, 193)])
def test_attention_is_no_further_from_float64_than_products_that_keep_their_table(
    dtype: torch.dtype, masked: bool, batch: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attend_again, "_CELLS", 2 * HEADS * length**2)  # two samples at a time, so the last goes alone
    lengths = torch.tensor([length, 101, 1, 32, length - 1])[:batch, None]
    keep = torch.arange(length) < lengths if masked else None
    qkv = (2 * drawn(batch, length, 3 * WIDTH)).to(dtype).requires_grad_()
    y = attend_joined(qkv, HEADS, keep)
    assert goes_again(y)
    mask = None if keep is None else keep[:, None, None]
    plain = attend.attend(*attend_again.split(qkv, HEADS), mask=mask).transpose(1, 2).flatten(2)
    exact = qkv.detach().double().requires_grad_()
    no_worse(with_gradients(y, qkv), with_gradients(plain, qkv), with_gradients(by_hand(exact, keep), exact))


def test_attention_keeps_queries_keys_and_values_and_no_table() -> None:
    qkv, kept = drawn(2, 197, 3 * WIDTH, dtype=torch.bfloat16).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        attend_joined(qkv, HEADS)
    assert sum(t.nbytes for t in kept) == qkv.nbytes


@pytest.mark.parametrize(("length", "again"), [(191, False), (192, True), (640, True), (641, False)])
def test_lengths_at_which_tables_are_made_again(length: int, again: bool) -> None:
    qkv = drawn(1, length, 3 * WIDTH, dtype=torch.bfloat16).requires_grad_()
    assert goes_again(attend_joined(qkv, HEADS)) == again


def test_attention_of_no_samples() -> None:
    qkv = drawn(0, 197, 3 * WIDTH, dtype=torch.bfloat16).requires_grad_()
    y, gradient = with_gradients(attend_joined(qkv, HEADS), qkv)
    assert y.shape == (0, 197, WIDTH)
    assert gradient.shape == qkv.shape
