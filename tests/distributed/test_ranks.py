"""That the helper for ranks reports what goes wrong."""

import os
import time

import pytest
import torch
import torch.distributed as dist
from ranks import RankError, on_ranks


def report(rank: int, world_size: int) -> tuple[int, int, int]:
    return rank, dist.get_world_size(), torch.get_num_threads()


def fail_on_one(rank: int, world_size: int) -> None:
    if rank == 1:
        raise RuntimeError("rank one has a word to say")
    dist.barrier()  # waits for ever


def never_reached(rank: int, world_size: int) -> None:
    os._exit(0)


def hang(rank: int, world_size: int) -> None:
    time.sleep(600)


def test_results_and_the_first_error_come_back() -> None:
    outcome = on_ranks(2, report, fail_on_one, never_reached)
    assert outcome[report] == [(0, 2, 1), (1, 2, 1)]
    with pytest.raises(RankError, match=r"(?s)rank 1 of 2:.*fail_on_one.*RuntimeError: rank one has a word to say"):
        outcome[fail_on_one]
    with pytest.raises(RankError, match=r"never_reached did not run on ranks .*: fail_on_one failed"):
        outcome[never_reached]


@pytest.mark.slow
def test_ranks_that_hang_are_ended() -> None:
    outcome = on_ranks(2, report, hang, seconds=15)
    with pytest.raises(RankError, match="2 ranks did not end within 15 s; they were in hang"):
        outcome[hang]
