"""Decay groups, the schedule and clipping, against formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchflava.models import flava_for_pretraining, flava_model
from torchflava.training import adamw, clip_gradients, half_cosine, set_learning_rate, warmup_cosine, warmup_linear


def test_matrices_decay_and_vectors_positions_tokens_and_temperature_do_not() -> None:
    model = flava_for_pretraining(flava_model("tiny", vocab_size=50), num_codes=8)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in adamw(model, 1e-3, 0.1).param_groups)
    assert "flava.image_encoder.trunk.blocks.0.attention.qkv.weight" in decayed
    assert "flava.text_encoder.embed.words.weight" in decayed
    assert "flava.image_encoder.embed.projection.weight" in decayed
    for name in (
        "contrastive.log_scale",
        "flava.image_encoder.embed.positions",
        "flava.image_encoder.embed.cls_token",
        "flava.image_encoder.embed.mask_token",
        "flava.fusion_encoder.cls_token",
        "flava.text_encoder.embed.positions.weight",
        "flava.text_encoder.embed.norm.weight",
        "mim.decoder.bias",
    ):
        assert name in kept
    assert len(decayed) + len(kept) == len(names)


def test_what_does_not_learn_is_left_out_and_nothing_to_learn_is_an_error() -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert [len(g["params"]) for g in adamw(model, 1e-3, 0.1).param_groups] == [1]
    model.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        adamw(model, 1e-3, 0.1)


def test_the_papers_schedule_at_chosen_steps() -> None:
    at = lambda step: warmup_cosine(step, steps=150_000, warmup_steps=10_000, lr=1e-3)  # noqa: E731
    assert at(0) == pytest.approx(1e-7)
    assert at(4_999) == pytest.approx(5e-4)
    assert at(10_000) == pytest.approx(1e-3)
    assert at(80_000) == pytest.approx(5e-4)
    assert at(150_000) == pytest.approx(0.0, abs=1e-12)
    assert at(45_000) == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_robertas_schedule_at_chosen_steps() -> None:
    at = lambda step: warmup_linear(step, steps=125_000, warmup_steps=10_000, lr=5e-4)  # noqa: E731
    assert at(0) == pytest.approx(5e-8)
    assert at(9_999) == pytest.approx(5e-4)
    assert at(10_000) == pytest.approx(5e-4)
    assert at(67_500) == pytest.approx(2.5e-4)
    assert at(96_250) == pytest.approx(1.25e-4)
    assert at(125_000) == at(126_000) == 0.0
    with pytest.raises(ValueError, match="must be below steps"):
        warmup_linear(0, steps=5, warmup_steps=5, lr=1.0)


def test_a_norm_of_0_clips_nothing() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(clip_gradients(model, 0.0)) == pytest.approx(5.0)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[3.0, 4.0]]), rtol=0, atol=0)


@given(steps=st.integers(2, 500), warmup=st.integers(0, 499), final=st.floats(0, 0.5))
def test_the_schedule_rises_then_falls_inside_its_bounds(steps: int, warmup: int, final: float) -> None:
    if warmup >= steps:
        with pytest.raises(ValueError, match="must be below steps"):
            warmup_cosine(0, steps=steps, warmup_steps=warmup, lr=1.0)
        return
    rates = [warmup_cosine(s, steps=steps, warmup_steps=warmup, lr=1.0, final_lr=final) for s in range(steps)]
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert 0 < max(rates) <= 1.0


def test_clipping_returns_the_norm_before_and_scales_to_the_bound() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(clip_gradients(model, 1.0)) == pytest.approx(5.0)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.6, 0.8]]))


def test_the_rate_is_set_in_every_group() -> None:
    optimizer = adamw(torch.nn.Linear(3, 2), 1e-3, 0.1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_half_a_cosine_falls_or_rises_and_stays() -> None:
    def at(step: int) -> float:
        return half_cosine(step, steps=8, first=1.0, last=0.25)

    assert [at(step) for step in (0, 4, 8, 100)] == pytest.approx([1.0, 0.625, 0.25, 0.25])
    assert at(2) == pytest.approx(0.25 + 0.75 * math.cos(math.pi / 8) ** 2)
    assert half_cosine(3, steps=6, first=0.0, last=6.6) == pytest.approx(3.3)
    assert half_cosine(0, steps=0, first=0.0, last=6.6) == 6.6  # at once
    with pytest.raises(ValueError, match="steps -1 must be 0 or more"):
        half_cosine(0, steps=-1, first=0.0, last=1.0)
