"""What GELU gives, computed again in backward, beside the plain way and float64; and who goes which."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from torchflava.layers import Mlp

WIDTH, HIDDEN = 24, 53
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
    """Whether the function is what made it, or what it was made of."""
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


class Products(TorchDispatchMode):
    """How many matrix products run."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.times += func.name() in ("aten::mm", "aten::mm.out", "aten::addmm")
        return func(*args, **(kwargs or {}))


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
    with Products() as made:
        torch.autograd.grad(y, given, torch.ones_like(y), retain_graph=True)
    wanted = {name for name, tensor in (("x", x), *part.named_parameters()) if tensor.requires_grad}
    of_inner = bool(wanted & {"x", "up.weight", "up.bias"})
    assert made.times == len(wanted & {"x", "up.weight", "down.weight"}) + of_inner
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


@pytest.mark.parametrize(
    "register",
    [
        torch.nn.modules.module.register_module_forward_hook,
        torch.nn.modules.module.register_module_forward_pre_hook,
        torch.nn.modules.module.register_module_full_backward_hook,
    ],
)
def test_hooks_for_all_modules_see_an_mlps_layers(register: Callable[..., Any]) -> None:
    part, x, seen = mlp(), drawn(2, 7, WIDTH, dtype=torch.bfloat16).requires_grad_(), []
    handle = register(lambda module, *_: seen.append(module))
    try:
        part(x).sum().backward()
    finally:
        handle.remove()
    assert {part.up, part.down} < set(seen)
    assert goes_again(part(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_precisions_go_the_plain_way(dtype: torch.dtype) -> None:
    assert not goes_again(mlp(dtype)(drawn(2, 7, WIDTH, dtype=dtype).requires_grad_()))


def test_where_nothing_is_learnt_or_torch_casts_it_is_the_plain_way() -> None:
    part, x = mlp(), drawn(2, 7, WIDTH, dtype=torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(part(x), plainly(part, x))
    with torch.autocast("cpu", torch.bfloat16):
        assert not goes_again(part(x.requires_grad_()))
        assert not goes_again(mlp(torch.float32)(x))


def both(x: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """An MLP as it is and in plain operations."""
    part = mlp()

    def ours(x: Tensor) -> Tensor:
        return part(x).float().square().sum()

    def plain(x: Tensor) -> Tensor:
        return plainly(part, x).float().square().sum()

    assert goes_again(ours(x.clone().requires_grad_()))
    return ours, plain


def near(mine: Tensor, due: Tensor) -> None:
    assert (mine.float() - due.float()).norm() < 0.03 * due.float().norm()


def test_transforms_go_the_plain_way() -> None:
    x = drawn(2, 7, WIDTH, dtype=torch.bfloat16)
    ours, plain = both(x)
    near(torch.func.grad(ours)(x), torch.func.grad(plain)(x))
    near(torch.func.vmap(torch.func.grad(ours))(x[:, None]), torch.func.vmap(torch.func.grad(plain))(x[:, None]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own decompositions
def test_forward_derivatives_go_the_plain_way() -> None:
    x, tangent = (drawn(2, 7, WIDTH, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    ours, plain = both(x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        near(*(forward_ad.unpack_dual(of(dual)).tangent for of in (ours, plain)))


def test_second_derivatives_are_the_plain_ways() -> None:
    x = drawn(2, 7, WIDTH, dtype=torch.bfloat16).requires_grad_()
    found = []
    for of in both(x):
        (first,) = torch.autograd.grad(of(x), x, create_graph=True)
        found.append(torch.autograd.grad(first.float().square().sum(), x)[0])
    near(*found)


def test_a_backward_may_be_repeated() -> None:
    x = drawn(2, 7, WIDTH, dtype=torch.bfloat16).requires_grad_()
    y = both(x)[0](x)
    first, second = (torch.autograd.grad(y, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("after", ["tracing", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_it_compiles_into_one_graph_of_plain_operations(after: str) -> None:
    x = drawn(2, 7, WIDTH, dtype=torch.bfloat16).requires_grad_()
    ours, plain = both(x)
    graphs = []

    def traced(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend=traced if after == "tracing" else after)
    near(*(torch.autograd.grad(of(x), x)[0] for of in (compiled, plain)))
    assert not any("autograd_function" in code for code in graphs)
