"""Values with which AdamW cannot learn are told before anything is loaded, by each recipe that trains."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import codebook_settings
import presets
import tuning_settings


def tuned(words: Sequence[str]) -> Any:
    return tuning_settings.parse(["--model", "x", "--task", "rte", *words], places=False)


@pytest.mark.parametrize("parse", [presets.parse, codebook_settings.parse, tuned])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--betas 1.5 0.9", "--betas 1.5 0.9 must both be at least 0 and below 1, such as 0.9 0.999"),
        ("--betas 0.9 1", "--betas 0.9 1.0 must both"),
        ("--betas=-0.1 0.9", "--betas -0.1 0.9 must both"),
        ("--betas nan 0.9", "--betas nan 0.9 must both"),
        ("--lr 0", "--lr 0.0 must be at least 1e-12 and below inf"),
        ("--lr nan", "--lr nan must be"),
        ("--lr inf", "--lr inf must be"),
        ("--weight-decay -1", "--weight-decay -1.0 must be at least 0"),
        ("--eps 0", "--eps 0.0 must be at least 1e-30"),
        ("--clip -1", "--clip -1.0 must be at least 0"),
        ("--clip nan", "--clip nan must be"),
    ],
)
def test_a_value_that_cannot_be_is_told(parse: Callable[[Sequence[str]], Any], words: str, said: str) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words.replace("=", " ").split())
    assert said in str(end.value)


@pytest.mark.parametrize("parse", [presets.parse, codebook_settings.parse, tuned])
def test_what_can_be_is_taken(parse: Callable[[Sequence[str]], Any]) -> None:
    config = parse(["--betas", "0", "0.5", "--weight-decay", "0", "--clip", "0", "--eps", "1e-12", "--lr", "1e-9"])
    assert (config.betas, config.weight_decay, config.clip, config.eps, config.lr) == ((0, 0.5), 0, 0, 1e-12, 1e-9)


def test_without_eps_a_weight_that_has_no_gradient_is_lost() -> None:
    """Why 0 is refused."""
    for eps, lost in ((0.0, True), (1e-30, False)):
        weight = torch.nn.Parameter(torch.ones(1))
        weight.grad = torch.zeros(1)
        torch.optim.AdamW([weight], eps=eps, fused=True).step()
        assert bool(weight.isnan()) == lost


@pytest.mark.parametrize(
    ("parse", "words", "said"),
    [
        (presets.parse, "--shares.pair nan", "must be 0 or more and add up to 1"),
        (presets.parse, "--patch-size 0", "--patch-size 0 must be 1 or more"),  # and no division by it
        (codebook_settings.parse, "--lr-share nan", "--lr-share nan must be at least 1e-09"),
        (codebook_settings.parse, "--final-lr 9", "--final-lr 9.0 must be at most --lr 0.006"),
        (tuned, "--steps 9 --warmup 9", "--warmup 9 must be shorter than the run of 9 steps; below 1 it is the share"),
        (tuned, "--search --search-lr 0 1e-5", "--search-lr 0.0 must be at least 1e-12"),
        (tuned, "--search --search-lr 1e-5 nan", "--search-lr nan must be"),
        (tuned, "--search --search-batch 8 0", "--search-batch 0 must be at least 1"),
    ],
)
def test_what_one_recipe_alone_has(parse: Callable[[Sequence[str]], Any], words: str, said: str) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words.split())
    assert said in str(end.value)
