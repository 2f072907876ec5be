"""FSDP2 on two ranks against the same steps in one process: every kind of batch, verbs in between, the temperature."""

import math
from functools import cache, partial
from typing import Any

import pytest
import tiny
import torch
from ranks import Outcome, on_ranks
from steps import MAX_NORM, RANKS, State, joined, mine, model_of, optimizer_of, sharded, step, weights, whole
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from torchflava.batch import Batch
from torchflava.losses import mean_losses
from torchflava.models import FlavaForPreTraining
from torchflava.training.fsdp import shard

LOOKED_AT = ("pair", "image", "pair", "text")  # the kinds of the steps between which the model is looked at


def steps_of_every_kind(number: int, ranks: int) -> Any:
    """After each of six steps: means, norm, weights."""
    results = {}
    for text in ("ours", "another's"):
        model = sharded(text)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        optimizer = optimizer_of(model)
        results[text] = [(*step(model, optimizer, mine(kind, number)), weights(model)) for kind in tiny.KINDS * 2]
    return results


def look(model: FlavaForPreTraining, pair: Batch) -> list[Tensor]:
    """All verbs."""
    with torch.no_grad():
        return [model.embed_image(pair.pixels), model.embed_text(pair.ids, pair.keep), model.match_logits(pair),
                model.word_logits(pair), model.patch_states(pair.pixels)]  # fmt: skip


def verbs_between_steps(number: int, ranks: int) -> Any:
    """Means of steps with verbs before each, and what the verbs return."""
    model = sharded()
    optimizer = optimizer_of(model)
    results = []
    for kind in LOOKED_AT:
        seen = look(model, mine("pair", number))
        # Between backward and update nothing gives the weights back that this gathers, but the verbs themselves.
        again = partial(look, model, mine("pair", number))
        results.append((step(model, optimizer, mine(kind, number), before_update=again)[0], seen))
    return results


def validate(model: FlavaForPreTraining, pair: Batch) -> dict[str, Tensor]:
    """A forward without a backward."""
    with torch.no_grad():
        return mean_losses(model(pair))


def validation_between_steps(number: int, ranks: int) -> Any:
    """Means of steps with a forward that has no backward before each, and of those forwards."""
    model = sharded()
    optimizer = optimizer_of(model)
    results = []
    for kind in LOOKED_AT:
        seen = validate(model, mine("pair", number))
        again = partial(validate, model, mine("pair", number))
        results.append((step(model, optimizer, mine(kind, number), before_update=again)[0], seen))
    return results


def temperature(number: int, ranks: int) -> Any:
    """What is stored after a clamp, and the loss that follows; on a shard that is empty on the second rank."""
    model = sharded()
    stored = model.contrastive.log_scale
    assert stored.to_local().numel() == 1 - number
    results = []
    for value in (9.0, -3.0, 2.5):
        with torch.no_grad():
            stored.fill_(value)
        before = validate(model, mine("pair", number))["contrastive"]
        model.clamp_temperature()
        kept = stored.full_tensor().item()
        after = validate(model, mine("pair", number))["contrastive"]
        results.append((kept, stored.full_tensor().item(), before, after))
    return results


def lost_clamp(number: int, ranks: int) -> float:
    """What is stored after a clamp of `.data` inside forward, as the references do it."""
    model = sharded()
    with torch.no_grad():
        model.contrastive.log_scale.fill_(9.0)
    model.contrastive.register_forward_pre_hook(lambda part, _: part.log_scale.data.clamp_(0.0, math.log(100)) and None)
    validate(model, mine("pair", number))
    return model.contrastive.log_scale.full_tensor().item()


def low_precision(number: int, ranks: int) -> Any:
    """A bfloat16 step: means, the types that weights and gradients have, the type the temperature has in forward."""
    model = model_of()
    shard(model, init_device_mesh("cpu", (RANKS,)), precision="bf16", whole=[model.contrastive])
    inside = []
    model.contrastive.register_forward_pre_hook(
        lambda part, given: inside.append((part.log_scale.dtype, given[0].dtype))
    )
    model.flava.image_encoder.trunk.blocks[0].register_forward_pre_hook(
        lambda part, given: inside.append(given[0].dtype)
    )
    batch = mine("pair", number)
    means = mean_losses(model(batch))
    sum(means.values()).backward()
    types = {p.dtype for p in model.parameters()} | {g.dtype for g in tiny.gradients(model).values()}
    return {name: mean.detach() for name, mean in means.items()}, types, set(inside)


@cache
def outcome() -> Outcome:
    return on_ranks(
        RANKS,
        steps_of_every_kind,
        verbs_between_steps,
        validation_between_steps,
        temperature,
        lost_clamp,
        low_precision,
    )


def assert_same(got: State, due: State, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    assert set(got) == set(due)
    for name, tensor in due.items():
        torch.testing.assert_close(got[name], tensor, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def over_ranks(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}


@pytest.mark.parametrize("text", ["ours", "another's"])
def test_sharded_steps_equal_plain_steps_for_every_kind(text: str) -> None:
    model = model_of(text)
    optimizer, before = optimizer_of(model), weights(model)
    ranks = [result[text] for result in outcome()[steps_of_every_kind]]
    for number, kind in enumerate(tiny.KINDS * 2):
        means, norm = step(model, optimizer, whole(kind))
        due = weights(model)
        assert_same(joined([steps[number][2] for steps in ranks]), due)
        for _, got, _ in (steps[number] for steps in ranks):
            torch.testing.assert_close(got, norm, rtol=1e-4, atol=1e-5)
        assert_same(over_ranks([steps[number][0] for steps in ranks]), means)
        assert norm > MAX_NORM, "clipping is not seen"
        changed = [name for name in due if not torch.equal(due[name], before[name])]
        assert max((due[name] - before[name]).abs().max() for name in changed) > 1e-3, "the step is too small to see"
        before = due


def test_what_a_kind_does_not_use_is_left_alone_by_its_steps() -> None:
    """Not decayed either: the references' recipe shrinks such weights at every step (spec §3.1, B18)."""
    before = weights(model_of())
    ranks = [result["ours"] for result in outcome()[steps_of_every_kind]]
    for number, kind in enumerate(tiny.KINDS):
        after = joined([steps[number][2] for steps in ranks])
        changed = {name.split(".")[0 if not name.startswith("flava") else 1] for name in after
                   if not torch.equal(after[name], before[name])}  # fmt: skip
        used = {"image": {"image_encoder", "mim"}, "text": {"text_encoder", "mlm"}}
        assert changed == used.get(
            kind, {*dict(model_of().flava.named_children()), "mmm_image", "mmm_text", "itm", "contrastive"}
        )
        before = after


def test_a_forward_after_verbs_sees_the_last_step_and_verbs_do_too() -> None:
    model = model_of()
    optimizer = optimizer_of(model)
    ranks = outcome()[verbs_between_steps]
    losses = []
    for number, kind in enumerate(LOOKED_AT):
        for place, steps in enumerate(ranks):
            for got, due in zip(steps[number][1], look(model, mine("pair", place)), strict=True):
                torch.testing.assert_close(got, due, rtol=1e-3, atol=1e-4)
        means, _ = step(model, optimizer, whole(kind))
        assert_same(over_ranks([steps[number][0] for steps in ranks]), means)
        losses.append(means)
    assert (losses[0]["contrastive"] - losses[2]["contrastive"]).abs() > 1e-3, "a stale forward would not show"
    moved = [(a - b).abs().max() for a, b in zip(ranks[0][0][1], ranks[0][1][1], strict=True)]
    assert min(moved) > 1e-2, "a stale verb would not show"


def test_a_step_after_a_validation_sees_the_last_step_and_the_validation_does_too() -> None:
    model = model_of()
    optimizer = optimizer_of(model)
    ranks = outcome()[validation_between_steps]
    for number, kind in enumerate(LOOKED_AT):
        due = validate(model, whole("pair"))
        assert_same(over_ranks([steps[number][1] for steps in ranks]), due)
        means, _ = step(model, optimizer, whole(kind))
        assert_same(over_ranks([steps[number][0] for steps in ranks]), means)


def test_a_clamped_temperature_is_stored_and_used() -> None:
    model, batch = model_of(), whole("pair")
    for results in zip(*outcome()[temperature], strict=True):
        for kept, later, _, _ in results:
            assert kept == later
            assert kept in (pytest.approx(math.log(100)), 0.0, 2.5)
        nn.init.constant_(model.contrastive.log_scale, results[0][0])
        due = mean_losses(model(batch))["contrastive"].detach()
        torch.testing.assert_close(torch.stack([after for *_, after in results]).mean(), due, rtol=1e-5, atol=1e-5)
    (_, _, before, after), *_ = outcome()[temperature][0]
    assert (before - after).abs() > 1e-2, "a clamp without effect would not show"


def test_the_clamp_that_the_references_do_in_forward_is_lost() -> None:
    assert outcome()[lost_clamp] == [9.0, 9.0], "spec §3.1, B2: if this changes, the clamp may move into forward"


def test_bfloat16_keeps_weights_gradients_and_temperature_in_float32() -> None:
    means = mean_losses(model_of()(whole("pair")))
    results = outcome()[low_precision]
    for _, types, inside in results:
        assert types == {torch.float32}
        assert inside == {(torch.float32, torch.float32), torch.bfloat16}
    for name, got in over_ranks([result[0] for result in results]).items():
        torch.testing.assert_close(got, means[name].detach(), rtol=0.05, atol=0.05)
        assert got != means[name], "nothing was computed in low precision"


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'fp8'"):
        shard(nn.Linear(2, 3), None, [], precision="fp8")
    with pytest.raises(ValueError, match=r"a Linear has no units\(\); give the parts to shard one by one"):
        shard(nn.Linear(2, 3), None)
