"""What a rank keeps, against the model that FSDP shards and against a formula written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from torchflava.training import adamw, fsdp_budget, session, shard


class Net(nn.Module):
    """Three units of other sizes, and a root of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 7)
        self.blocks = nn.ModuleList(nn.Linear(7, 7) for _ in range(2))
        self.last = nn.Linear(7, 3)

    def units(self) -> list[nn.Module]:
        return [*self.blocks, self.last]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x).float().sum()


WEIGHTS, ROOT, UNIT = 220, 84, 56


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_it_is_what_fsdp_and_the_optimizer_keep() -> None:
    with session(0, "cpu") as run:
        model = Net()
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for part in (*model.units(), model):
            fully_shard(part, mesh=run.mesh, mp_policy=policy)
        optimizer = adamw(model, 1e-3, 0.1)
        model.set_requires_gradient_sync(False)
        model(torch.ones(2, 11)).backward()
        whole = [
            param.unsharded_accumulated_grad
            for part in (model, *model.units())
            for param in part._get_fsdp_state()._fsdp_param_group.fsdp_params
        ]
        accumulates = fsdp_budget(model, model.units(), shards=1, precision="bf16", accumulates=True)
        assert bytes_of(whole) == accumulates.gradients == 4 * WEIGHTS
        model.set_requires_gradient_sync(True)
        model(torch.ones(2, 11)).backward()
        budget = fsdp_budget(model, model.units(), shards=1, precision="bf16")
        assert bytes_of([p.grad.to_local() for p in model.parameters()]) == budget.gradients == 4 * WEIGHTS
        optimizer.step()
        moments = [s[name].to_local() for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        assert bytes_of(moments) + bytes_of([p.to_local() for p in model.parameters()]) == budget.weights


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_rank_keeps_the_weights_that_were_cast_until_backward_has_passed(precision: str) -> None:
    """What backward keeps of weights, of which the graph tells."""
    model = Net()
    budget = fsdp_budget(model, model.units(), shards=1, precision=precision, alone=True)
    again = fsdp_budget(model, model.units(), shards=1, precision=precision, alone=True, recomputed=True)
    root = WEIGHTS - sum(p.numel() for unit in model.units() for p in unit.parameters())
    assert again.gathered == (0 if precision == "fp32" else 2 * (root + 2 * UNIT))
    with session(0, "cpu") as run:
        shard(model, run.mesh, precision=precision)
        x, kept = torch.ones(2, 11), {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(x)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        cast = [tensor for at, tensor in kept.items() if at not in own and tensor.ndim == 2 and len(tensor) != len(x)]
        loss.backward()
        biases = 11 * 7 + 2 * 7 * 7 + 7 * 3  # weights of matrices, which backward needs; it does without biases
        first = 11 * 7  # nor is there a gradient at the input
        assert bytes_of([tensor.to_dense() for tensor in cast]) <= budget.gathered
        assert bytes_of(cast) == (0 if precision == "fp32" else 2 * (biases - first))
        assert budget.gathered == (0 if precision == "fp32" else 2 * (WEIGHTS + UNIT))
        assert bytes_of([p.grad for p in model.parameters()]) == budget.gradients == 4 * WEIGHTS
    assert budget.update == 4 * WEIGHTS
    with pytest.raises(ValueError, match="shards is 2; one rank has 1"):
        fsdp_budget(model, model.units(), shards=2, alone=True)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_shards_divide_what_lies_and_not_what_is_gathered(precision: str, size: int) -> None:
    model = Net()
    one, four = (fsdp_budget(model, model.units(), shards=n, precision=precision) for n in (1, 4))
    assert (one.weights, four.weights) == (12 * WEIGHTS, 3 * WEIGHTS)
    assert (one.gradients, four.gradients) == (4 * WEIGHTS, WEIGHTS)
    assert one.gathered == four.gathered == size * ROOT + 4 * size * UNIT + 4 * UNIT
    assert (one.update, four.update) == (4 * WEIGHTS, max(WEIGHTS, 4 * ROOT))
    parts = fsdp_budget(model, model.units(), shards=4, precision=precision, accumulates=True)
    assert parts == four._replace(gradients=4 * WEIGHTS)


def test_offloaded_it_lies_in_main_memory_but_for_whole_gradients() -> None:
    model = Net()
    away = fsdp_budget(model, model.units(), shards=4, offload=True)
    assert (away.weights, away.gradients, away.in_main_memory, away.update) == (0, 0, 4 * WEIGHTS, 4 * ROOT)
    parts = fsdp_budget(model, model.units(), shards=4, offload=True, accumulates=True)
    assert parts.gradients == 4 * WEIGHTS


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="shards is 0"):
        fsdp_budget(Net(), [], shards=0)
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'int8'"):
        fsdp_budget(Net(), [], shards=1, precision="int8")
