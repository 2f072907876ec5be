"""What is measured is the same on one rank and on two, and the same whenever the same weights are measured."""

import math
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import Outcome, on_ranks

from torchflava.evaluation import embed_over_ranks
from torchflava.training import Run, mesh_of, session

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))


def shared(rank: int, world_size: int) -> tuple[list[int], list[list[float]]]:
    """What each rank is asked for, and what all have; of 1 to 7 items."""
    asked, found = [], []

    def embed(items: Any) -> torch.Tensor:
        asked.append(len(items))
        return torch.tensor([[10.0 * item] for item in items])

    for n in range(1, 8):
        found.append(embed_over_ranks(range(n), embed).flatten().tolist())
    return asked, found


def measured(rank: int, world_size: int) -> tuple[dict[str, tuple[float, float]], ...]:
    """All readings of a tiny model as it starts, of fewer samples than usual, the losses a second time; and calls of verbs."""
    import measure
    import measure_scenes
    from corpora import open_corpus
    from presets import parse
    from start import _sharded

    config = parse(["--preset", "tiny", "--vocab-size", "400", "--seed", "3"])
    device = torch.device("cpu")
    run = Run(rank, world_size, device, mesh_of(device))
    corpus = open_corpus(config)
    model = _sharded(config, run, corpus)
    calls: list[str] = []
    for verb in ("embed_image", "embed_text", "losses", "match_logits", "word_logits"):
        real = getattr(model, verb)
        setattr(model, verb, lambda *given, real=real, verb=verb: (calls.append(verb), real(*given))[1])
    what = measure.Measured(config, corpus, model, run)
    with (
        mock.patch.multiple(measure, _STEPS=20, _BATCH=16),  # all kinds
        mock.patch.object(measure_scenes, "_STEPS", 3),  # which two ranks cannot share evenly
        torch.no_grad(),
    ):
        readings = {r.name: (r.value, r.chance) for r in measure_scenes.measure_scenes(what)[0]}
        counted = {verb: (float(calls.count(verb)), 0.0) for verb in set(calls)}
        again = {r.name: (r.value, r.chance) for r in what.losses(corpus.sources)}
        return readings, again, {r.name: (r.value, r.chance) for r in what.losses(corpus.sources)}, counted


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return on_ranks(2, shared, measured)


@pytest.mark.slow
def test_items_are_shared_and_all_come_back_in_order(outcome: Outcome) -> None:
    want = [[10.0 * i for i in range(n)] for n in range(1, 8)]
    for asked, found in outcome[shared]:
        assert found == want
        assert asked == [-(-n // 2) for n in range(1, 8)]
    assert shared(0, 1) == ([*range(1, 8)], want)


def test_nothing_to_embed_and_rows_that_are_missing_are_told() -> None:
    with pytest.raises(ValueError, match="nothing to embed"):
        embed_over_ranks([], lambda items: torch.ones(0, 1))
    with pytest.raises(ValueError, match="1 rows were made of 2 items"):
        embed_over_ranks([1, 2], lambda items: torch.ones(1, 1))


@pytest.mark.slow
def test_readings_are_those_of_one_rank_and_stay_the_same(outcome: Outcome) -> None:
    with session(0, "cpu"):
        one, losses, again, calls = measured(0, 1)
    (two, _, _, its), (other, _, _, others) = outcome[measured]
    assert losses == again
    assert two == other
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name
        assert all(map(math.isfinite, values)), name
    assert {"mim loss", "mlm loss", "mmm_image loss", "contrastive loss", "zero-shot, all 64", "codes used"} <= set(one)
    # Ranks call a sharded model equally often, and each about half as often as one would.
    assert its == others
    assert 0.5 * calls["embed_image"][0] <= its["embed_image"][0] < calls["embed_image"][0]
    assert (its["word_logits"][0], calls["word_logits"][0]) == (4, 6)
