"""One rank that keeps its weights whole beside FSDP2 on one rank: the same numbers to the bit, and weights where they were."""

import gc
import warnings
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from torchflava.losses import mean_losses
from torchflava.models import VERBS, FlavaForPreTraining
from torchflava.training import adamw, clip_gradients, compile_units, initialise, mesh_of, recompute, session, shard

DEVICE = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with session(0, "cpu"):
        yield


def alone(model: FlavaForPreTraining, precision: str) -> FlavaForPreTraining:
    shard(model, mesh_of(DEVICE), precision=precision, verbs=VERBS, whole=[model.contrastive])
    return model


def by_fsdp(model: FlavaForPreTraining, precision: str) -> FlavaForPreTraining:
    """FSDP2 itself, on its one rank."""
    mesh, low = mesh_of(DEVICE), MixedPrecisionPolicy(param_dtype=DTYPES[precision], reduce_dtype=torch.float32)
    exact = MixedPrecisionPolicy(param_dtype=torch.float32, cast_forward_inputs=False)
    for part, policy in [(model.contrastive, exact), *((unit, low) for unit in model.units()), (model, low)]:
        fully_shard(part, mesh=mesh, mp_policy=policy)
    for verb in VERBS:
        register_fsdp_forward_method(model, verb)
    return model


def learnt(model: FlavaForPreTraining) -> list[Tensor]:
    """Six steps over all kinds: losses, norms, and the weights in the end."""
    optimizer, told = adamw(model, 1e-2, 0.1), []
    for number in range(6):
        means = mean_losses(model(tiny.batch_of(tiny.KINDS[number % 3], seed=number)))
        torch.stack(list(means.values())).sum().backward()
        told += [*(mean.detach() for mean in means.values()), whole(clip_gradients(model, 1.0))]
        optimizer.step()
        optimizer.zero_grad()
        model.clamp_temperature()
    return told + [whole(p) for p in model.parameters()]


def whole(x: Tensor) -> Tensor:
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).detach()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_are_those_of_fsdp_to_the_bit(precision: str) -> None:
    model = tiny.pretraining()
    ours, theirs = learnt(alone(deepcopy(model), precision)), learnt(by_fsdp(model, precision))
    assert len(ours) == len(theirs) > 100
    for mine, due in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, due)


def test_verbs_are_those_of_fsdp_to_the_bit() -> None:
    model = tiny.pretraining()
    theirs, ours = by_fsdp(deepcopy(model), "bf16"), alone(model, "bf16")
    batch = tiny.batch_of("pair")
    with torch.no_grad():
        for given in (ours, theirs):
            given.eval()
        assert torch.equal(ours.embed_image(batch.pixels), theirs.embed_image(batch.pixels))
        assert torch.equal(ours.word_logits(batch), theirs.word_logits(batch))
        assert ours.word_logits(batch).dtype == torch.bfloat16
        for name, loss in ours.losses(batch).items():
            assert torch.equal(loss.total, theirs.losses(batch)[name].total)


def test_weights_are_the_models_own_again_after_a_call_a_backward_and_a_failure() -> None:
    model = alone(tiny.pretraining(), "bf16")
    own = dict(model.named_parameters())

    def there() -> bool:
        now = dict(model.named_parameters())
        return list(now) == list(own) and all(now[name] is own[name] for name in own)

    losses = model(tiny.batch_of("pair"))
    assert there()
    seen: list[bool] = []
    block = model.flava.image_encoder.trunk.blocks[0].attention.qkv
    own["flava.image_encoder.trunk.blocks.0.attention.qkv.weight"].register_hook(
        lambda _: seen.append(block.weight.dtype == torch.bfloat16)
    )
    torch.stack(list(mean_losses(losses).values())).sum().backward()
    assert seen == [True]  # in backward the cast ones stood there
    assert there()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in own.values())
    with pytest.raises(ValueError, match="beyond"):
        model.embed_text(torch.full((1, 3), tiny.VOCAB_SIZE))
    assert there()


def test_after_a_backward_that_failed_the_next_step_is_right() -> None:
    model, due = alone(tiny.pretraining(), "bf16"), tiny.pretraining()
    own = list(model.parameters())

    def fail(_: Tensor) -> None:
        raise RuntimeError("on purpose")

    handle = model.flava.text_encoder.embed.words.weight.register_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        torch.stack(list(mean_losses(model(tiny.batch_of("text"))).values())).sum().backward()
    handle.remove()
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        for parameter in (*own, *due.parameters()):
            parameter.mul_(1.5)
    found, wanted = (given(tiny.batch_of("text"))["mlm"].total for given in (model, alone(due, "bf16")))
    assert torch.equal(found, wanted)


def test_a_copy_that_would_compute_with_the_first_one_s_weights_is_refused() -> None:
    model = alone(tiny.pretraining(), "bf16")
    with pytest.raises(TypeError, match=r"copy it before shard\(\)"):
        deepcopy(model)
    copied = deepcopy(alone(tiny.pretraining(), "fp32"))  # which nothing was done to
    assert copied.embed_image(tiny.batch_of("pair").pixels).isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_verb_that_is_no_method_is_told(precision: str) -> None:
    with pytest.raises(ValueError, match="a FlavaForPreTraining has no method 'embed_picture'"):
        shard(tiny.pretraining(), mesh_of(DEVICE), precision=precision, verbs=["embed_picture"])


def computed_again(unit: nn.Module) -> None:
    """As a foreign encoder does by itself."""
    unit.forward = partial(checkpoint, unit.forward, use_reentrant=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("who", ["selective", "full", "foreign"])
def test_what_is_computed_again_in_backward_meets_the_same_weights(who: Any, precision: str) -> None:
    model = tiny.pretraining()
    again = deepcopy(model)
    if who == "foreign":
        computed_again(again.flava.fusion_encoder.trunk)
    else:
        recompute(again.units(), who)
    for mine, due in zip(learnt(alone(again, precision)), learnt(alone(model, precision)), strict=True):
        assert torch.equal(mine, due)


@pytest.mark.parametrize("how", ["selective", "full"])
def test_calls_that_one_backward_goes_through_are_each_computed_again_by_their_own_weights(how: Any) -> None:
    model = tiny.pretraining()
    again, found = deepcopy(model), []
    recompute(again.units(), how)
    for given in (alone(again, "bf16"), alone(model, "bf16")):
        losses = [given(tiny.batch_of(kind)) for kind in ("pair", "image", "text")]
        torch.stack([mean for named in losses for mean in mean_losses(named).values()]).sum().backward()
        found.append([whole(x) for x in tiny.gradients(given).values()])
    assert len(found[0]) > 100
    for mine, due in zip(*found, strict=True):
        assert torch.equal(mine, due)


class Rows(nn.Module):
    """Blocks in a row, of which the first and the last are one, so that a unit is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5)) for _ in range(2)])

    def units(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.blocks, self.blocks[0]):
            x = block(x)
        return x


def cast_tensors() -> list[Tensor]:
    """The weights in bf16 that hold memory, anywhere in the process."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch deprecates, which is looked at too
        found = [
            x
            for x in gc.get_objects()
            if type(x) is Tensor and x.dtype == torch.bfloat16 and x.shape in ((7, 5), (5, 7))
        ]
    return [x for x in found if x.untyped_storage().nbytes() and x.grad_fn is not None]


@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_backward_lets_go_of_a_cast_weight_once_all_uses_have_their_gradients(how: Any) -> None:
    model = Rows()
    recompute(model.units(), how)
    shard(model, mesh_of(DEVICE), precision="bf16")
    there: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: there.update({name: len(cast_tensors())}))
    loss = model(torch.randn(3, 5)).float().sum()
    assert len(cast_tensors()) == (4 if how == "none" else 0)
    loss.backward()
    order = [name for name in there if name.endswith("weight")]
    assert order == ["blocks.1.2.weight", "blocks.1.0.weight", "blocks.0.2.weight", "blocks.0.0.weight"]
    # While the second block goes back, the first is there for its other use, and the second's own that are not passed yet.
    assert [there[name] for name in order] == [3, 2, 1, 0]
    assert cast_tensors() == []


class Sharing(nn.Module):
    """A layer that stands in a unit and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.unit = nn.Sequential(self.layer, nn.GELU())

    def units(self) -> list[nn.Module]:
        return [self.unit]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.unit(x)


@pytest.mark.parametrize("how", ["selective", "full"])
def test_a_unit_leaves_the_casts_of_a_layer_that_stands_beside_it_too(how: Any) -> None:
    model, x = Sharing(), torch.randn(3, 5)
    due = deepcopy(model)
    recompute(model.units(), how)
    found = []
    for given in (model, due):
        shard(given, mesh_of(DEVICE), precision="bf16")
        beside, _ = given(mine := x.clone().requires_grad_())  # backward goes through the first alone
        beside.float().square().sum().backward()
        found.append([mine.grad, *(p.grad for p in given.parameters())])
    for mine, other in zip(*found, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("how", ["none", "full"])
def test_a_graph_that_is_kept_goes_back_twice_and_by_one_output(how: Any) -> None:
    model = Rows()
    due = deepcopy(model)
    recompute(model.units(), how)
    for given in (model, due):
        given.blocks[1][0].weight.requires_grad_(False)
        shard(given, mesh_of(DEVICE), precision="bf16")
    x = torch.randn(3, 5)
    out, wanted = model(x).float(), due(x).float()
    for _ in range(2):
        out[0].sum().backward(retain_graph=True)
    (2 * wanted[0].sum()).backward()
    for mine, other in zip(model.parameters(), due.parameters(), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None:
            assert torch.equal(mine.grad, other.grad)


@pytest.mark.parametrize("how", ["selective", "full"])
def test_after_a_backward_that_failed_among_units_computed_again_the_next_is_right(how: Any) -> None:
    model = Rows()
    due, x = deepcopy(model), torch.randn(3, 5)
    recompute(model.units(), how)
    for given in (model, due):
        shard(given, mesh_of(DEVICE), precision="bf16")
    handle = model.blocks[1][0].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x).float().sum().backward()
    handle.remove()
    model.state_dict()  # puts the model's own weights back
    model.zero_grad()
    for given in (model, due):
        given(x).float().sum().backward()
    for mine, other in zip(model.parameters(), due.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_a_weight_that_stands_twice_is_cast_once_and_gets_both_gradients() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            assert self.out.weight is self.words.weight
            return self.out(self.words(ids))

    model = Tied()
    due, ids = deepcopy(model), torch.tensor([[1, 2, 6]])
    shard(model, mesh_of(DEVICE), [], precision="bf16")
    model(ids).float().square().sum().backward()
    due.bfloat16()(ids).float().square().sum().backward()
    torch.testing.assert_close(model.words.weight.grad, due.words.weight.grad.float(), rtol=0.02, atol=0.02)


def test_what_is_cast_without_gradient_serves_no_call_that_has_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                first = self.out(x)
            return self.out(first)

    model = Twice()
    shard(model, mesh_of(DEVICE), [], precision="bf16")
    model(torch.randn(2, 3)).sum().backward()
    assert model.out.weight.grad is not None
    assert model.out.weight.grad.abs().sum() > 0


def test_a_part_that_looks_at_its_weights_sees_those_that_it_computes_with() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            weights = [*self.parameters(), *self.out._parameters.values(), self.out._parameters.get("bias")]
            assert {weight.dtype for weight in weights} == {torch.bfloat16}
            assert self.out._parameters.get("scale") is None
            return self.out(x.float().to(next(self.parameters()).dtype))

    model = Looks()
    shard(model, mesh_of(DEVICE), [], precision="bf16")
    assert model(torch.randn(2, 3)).dtype == torch.bfloat16


def test_a_model_without_memory_is_drawn_as_one_with_it() -> None:
    with torch.device("meta"):
        model = tiny.pretraining()
    shard(model, mesh_of(DEVICE), precision="bf16", whole=[model.contrastive], seed=11)
    due = tiny.pretraining()
    initialise(due, 11)
    for mine, drawn in zip(model.parameters(), due.parameters(), strict=True):
        assert torch.equal(mine, drawn)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # Dynamo looks, and silences it
@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_compiled_blocks_are_as_near_to_float32_as_others(how: Any) -> None:
    model, batch = tiny.pretraining(), tiny.batch_of("text")
    compiled, exact = deepcopy(model), deepcopy(model)
    recompute(compiled.flava.text_encoder.units(), how)
    compile_units(compiled.flava.text_encoder.units())
    found = []
    for given, precision in ((compiled, "bf16"), (model, "bf16"), (exact, "fp32")):
        loss = alone(given, precision)(batch)["mlm"].total
        loss.backward()
        found.append([loss.detach(), *(whole(x) for x in tiny.gradients(given).values())])
    assert len(found[0]) > 20
    for mine, other, due in zip(*found, strict=True):
        assert (mine - due).norm() < 2 * (other - due).norm() + 0.02 * due.norm() + 1e-3
