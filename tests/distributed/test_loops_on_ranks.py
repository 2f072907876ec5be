"""On two ranks, by default, loops share a source: each sample once, equally many batches, the same state."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from ranks import Outcome, on_ranks

from torchflava.data import Epochs, Evaluation, Samples
from torchflava.distributed import gather, sum_over_ranks

N, BATCH = 21, 8


class Numbers:
    """Samples that are their own numbers."""

    name = "numbers"

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> int:
        return index


def row(source: Numbers, index: int, rng: np.random.Generator) -> tuple[int, float]:
    return source[index], rng.random()


def stack(rows: Sequence[Any]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def evaluated(rank: int, world_size: int) -> tuple[list[int], int, float]:
    """The samples in the order in which the ranks' batches are gathered, the calls, and the mean over all ranks."""
    loop = Evaluation(Samples(Numbers(), row, stack), BATCH, num_workers=rank)  # one rank here, one by a worker
    seen: list[int] = []
    total, calls = torch.zeros(2), 0
    for indices, read, batch in loop:
        seen += gather(indices, "none").tolist()
        total += torch.stack([batch[read, 0].sum().float(), read.sum().float()])
        calls += 1
    total = sum_over_ranks(total)
    return seen, calls, float(total[0] / total[1])


def learnt(rank: int, world_size: int) -> tuple[list[list[tuple[float, float]]], dict[str, Any]]:
    """The batches of two epochs, gathered, and the state after the third."""
    loop = Epochs(Samples(Numbers(), row, stack), BATCH, 5, drop_last=False)
    seen, state = [], {}
    for batch in loop.batches(2):
        real = gather(batch.real, "none")
        seen.append([tuple(one) for one in gather(batch.batch, "none")[real].tolist()])
        state = loop.state_dict() if batch.step == 2 else state
    return seen, state


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return on_ranks(2, evaluated, learnt)


def test_an_evaluation_is_shared_by_all_ranks(outcome: Outcome) -> None:
    for seen, calls, mean in outcome[evaluated]:
        assert seen == [*range(N), -1, -1, -1]
        assert calls == 3
        assert mean == pytest.approx((N - 1) / 2)


def test_epochs_are_shared_by_all_ranks_as_one_would_see_them(outcome: Outcome) -> None:
    alone = Epochs(Samples(Numbers(), row, stack), BATCH, 5, drop_last=False)
    expected = [[tuple(one) for one in b.batch[b.real].tolist()] for b in alone.batches(2)]
    (seen, state), (others, other_state) = outcome[learnt]
    assert seen == others == expected
    assert state == other_state
    assert state["world_size"] == 2
    with pytest.raises(ValueError, match="world_size was 2, is 1"):
        alone.load_state_dict(state)
