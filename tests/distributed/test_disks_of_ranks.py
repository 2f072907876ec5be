"""Ranks whose disks are not one: no checkpoint is made of halves, and a run is told before its first step."""

import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ranks import Outcome, on_ranks
from steps import RANKS, mine, optimizer_of, sharded, step

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from dataclasses import replace

from kept import check_place
from presets import tiny

from torchflava.training import Checkpoints, last_checkpoint
from torchflava.training import places as module


def folder_of_all() -> Path:
    """The same for all ranks of a start: they have one parent."""
    return Path(tempfile.gettempdir()) / f"disks-of-ranks-{os.getppid()}"


def own_disks(number: int, ranks: int) -> Any:
    """What each rank is told of a save into its own folder, and whether there is a checkpoint afterwards."""
    model = sharded()
    optimizer = optimizer_of(model)
    step(model, optimizer, mine("pair", number))
    folder = Path(tempfile.mkdtemp()) / "run"
    (folder / "step-00000001").mkdir(parents=True)
    module._LATE = 0.2
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, model, optimizer, state={})
    try:
        checkpoints.wait()
        told = ""
    except OSError as error:
        told = str(error)
    return told, last_checkpoint(folder)


def checked_before(number: int, ranks: int) -> Any:
    """What each rank is told of its own folder and of one that all share, and what is left there."""
    told = []
    shared, own = folder_of_all(), Path(tempfile.mkdtemp())
    for folder, checkpoints in ((shared, ""), (own, ""), (shared / "run", str(own)), (own, str(shared))):
        try:
            check_place(replace(tiny(), checkpoints=checkpoints), folder)
            told.append("")
        except OSError as error:
            told.append(str(error))
    dist.barrier()
    return told, [*shared.rglob(".*"), *own.rglob(".*")]


@cache
def outcome() -> Outcome:
    return on_ranks(RANKS, own_disks, checked_before)


def test_no_half_is_sealed() -> None:
    for told, last in outcome()[own_disks]:
        assert "step-00000001 could not be written" in told
        assert "shard-00002-model-00001-of-00001.safetensors of another rank is not in" in told
        assert "a disk that all ranks share" in told
        assert last is None


def test_a_folder_that_is_not_shared_is_told_before_the_first_step() -> None:
    for number, (told, left) in enumerate(outcome()[checked_before]):
        assert (told[0], told[3]) == ("", "")
        for own in told[1:3]:
            assert f"is not shared by all ranks: rank {number} does not see what rank {1 - number} wrote" in own
            assert "use --checkpoints URL" in own
        assert left == []
