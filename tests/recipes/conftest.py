"""Runs of the recipe in this process share what each would learn before its first step, and are measured on less."""

import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import corpora
import measure
from presets import Config


def _once(learn: Callable[[Config, Any], Any], given: str, *settings: str) -> Callable[[Config, Any], Any]:
    """Learn from the scenes once for each value of the settings that count; where one is given, or of other data, each time."""
    learnt: dict[tuple[Any, ...], Any] = {}

    def kept(config: Config, sources: Any) -> Any:
        if config.corpus != "scenes" or getattr(config, given):
            return learn(config, sources)
        key = tuple(getattr(config, name) for name in settings)
        if key not in learnt:
            learnt[key] = learn(config, sources)
        return deepcopy(learnt[key])

    return kept


@pytest.fixture(scope="session", autouse=True)
def learnt_once() -> Iterator[None]:
    """That what is learnt follows from the settings is proven by runs in processes of their own."""
    sizes = ("image_size", "patch_size", "code_size", "num_codes", "seed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_tokenizer", _once(corpora._tokenizer, "vocab", "vocab_size", "tokenizer"))
        patch.setattr(corpora, "_codebook", _once(corpora._codebook, "codebook", *sizes))
        yield


@pytest.fixture(scope="session", autouse=True)
def measured_on_less() -> Iterator[None]:
    """Held-out batches of 16, by the same code; runs in processes of their own have all of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_BATCH", 16)
        yield
