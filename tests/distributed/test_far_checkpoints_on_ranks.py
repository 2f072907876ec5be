"""Checkpoints in an object store over ranks: two save, three and one read what they would from a folder; failures are shared."""

import os
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import bucket
import pytest
import tiny
import torch
import torch.distributed as dist
from bucket import Bucket, asked
from ranks import Outcome, on_ranks
from steps import RANKS, mine, optimizer_of, sharded, step
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from torchflava.models import VERBS
from torchflava.training import (
    Checkpoints,
    last_checkpoint,
    load_checkpoint,
    place_of,
    read_state,
    session,
    shard,
    together,
)
from torchflava.training import object_store as module


def folder_of_all() -> Path:
    """The same for all ranks of all starts: they have one parent."""
    return Path(tempfile.gettempdir()) / f"far-checkpoints-{os.getppid()}"


def url_of_all() -> str:
    bucket.register()
    return f"bucket://{folder_of_all()}/bucket/run"


def saved(number: int, ranks: int) -> Any:
    """The same steps into a folder and into a store; then three more, and again from the store."""
    model = sharded()
    optimizer = optimizer_of(model)
    for kind in tiny.KINDS:
        step(model, optimizer, mine(kind, number))
    if number == 0:
        shutil.rmtree(folder_of_all(), ignore_errors=True)
        bucket.made(folder_of_all())
    dist.barrier()
    for where in (url_of_all(), folder_of_all() / "local"):
        checkpoints = Checkpoints(where)
        path = checkpoints.save(3, model, optimizer, state={"config": {}})
        checkpoints.wait()
    means = [step(model, optimizer, mine(kind, number))[0] for kind in tiny.KINDS]
    os.environ["LOCAL_RANK"] = str(number)  # as torchrun does: both are on one machine
    again = sharded("ours")
    its = optimizer_of(again)
    load_checkpoint(f"{url_of_all()}/step-00000003", again, its, config={})
    left = list(Path(tempfile.gettempdir()).glob(f"{module._PREFIX}*"))
    gets = len(asked(folder_of_all(), "get"))
    return folder_of_all(), path, means, [step(again, its, mine(kind, number))[0] for kind in tiny.KINDS], gets, left


def one_rank_fails(number: int, ranks: int) -> Any:
    """The second rank's upload, for good: what each rank is told, and what there is afterwards."""
    model = sharded()
    optimizer = optimizer_of(model)
    step(model, optimizer, mine("pair", number))
    checkpoints = Checkpoints(url_of_all())
    plain, sleep = Bucket.fault, time.sleep

    def fault(verb: str, path: str) -> None:
        if number == 1 and verb == "half":
            raise ConnectionResetError("the line is cut")

    Bucket.fault, module.time.sleep = staticmethod(fault), lambda seconds: None  # type: ignore[assignment]
    checkpoints.save(4, model, optimizer, state={})
    try:
        checkpoints.wait()
        told = ""
    except OSError as error:
        told = str(error)
    finally:
        Bucket.fault, module.time.sleep = plain, sleep  # type: ignore[assignment]
    last = last_checkpoint(url_of_all())
    checkpoints.save(4, model, optimizer, state={})
    checkpoints.wait()
    return told, last, last_checkpoint(url_of_all())


def refused_together(number: int, ranks: int) -> Any:
    def act() -> int:
        if number == 1:
            raise ValueError("no such package")
        return number

    def unforeseen() -> int:
        if number == 1:
            raise KeyError("credentials")
        return number

    told = []
    for failing in (act, unforeseen):
        try:
            together(failing)
        except (ValueError, KeyError, RuntimeError) as error:
            told.append(str(error))
    return (*told, together(lambda: number))


def read_by_three(number: int, ranks: int) -> Any:
    """Whether what is read from the store is what is read from the folder, moments too; both go on alike."""
    seen = []
    for where in (url_of_all(), folder_of_all() / "local"):
        model = tiny.pretraining()
        shard(model, init_device_mesh("cpu", (ranks,)), verbs=VERBS)
        optimizer = optimizer_of(model)
        assert load_checkpoint(place_step(where), model, optimizer)["step"] == 3
        moments = [v for p in model.parameters() for v in optimizer.state[p].values()] if optimizer.state else []
        seen.append([v.to_local() if isinstance(v, DTensor) else v for v in [*model.parameters(), *moments]])
    return len(seen[0]), all(torch.equal(far, near) for far, near in zip(*seen, strict=True))


def place_step(where: Path | str) -> Path | str:
    return where / "step-00000003" if isinstance(where, Path) else f"{where}/step-00000003"


@cache
def outcome() -> Outcome:
    return on_ranks(RANKS, saved, one_rank_fails, refused_together)


@pytest.mark.slow
def test_two_ranks_save_and_go_on_to_the_bit_with_one_fetch_for_both() -> None:
    for folder, local, means, again, gets, left in outcome()[saved]:
        assert means == again
        files = read_state(local)["files"]
        assert len(files) == RANKS
        assert gets == RANKS  # each file once, for both ranks
        assert left == []
        bucket.register()
        there = place_of(f"bucket://{folder}/bucket/run").sizes("step-00000003")
        assert {name: size for name, size in there.items() if name != "state.json"} == files
        puts = asked(folder, "put")[: RANKS + 1]
        assert puts[-1] == "put run/step-00000003/state.json"


@pytest.mark.slow
def test_what_fails_on_one_rank_is_told_by_all_and_shadows_nothing() -> None:
    for number, (told, last, later) in enumerate(outcome()[one_rank_fails]):
        assert "step-00000004 could not be written" in told
        assert "the line is cut" in told
        assert ("on rank 1" in told) == (number == 0)
        assert last.endswith("step-00000003")
        assert later.endswith("step-00000004")
    assert outcome()[refused_together] == [
        ("on rank 1: no such package", "on rank 1: KeyError: 'credentials'", [0, 1]),
        ("no such package", "'credentials'", [0, 1]),
    ]


@pytest.mark.slow
def test_three_ranks_and_one_read_from_the_store_what_they_read_from_the_folder() -> None:
    folder = outcome()[saved][0][0]
    for number, same in on_ranks(3, read_by_three)[read_by_three]:
        assert same
        assert number > 100
    bucket.register()
    with session(0, "cpu"):
        seen = []
        for where in (f"bucket://{folder}/bucket/run/step-00000003", folder / "local" / "step-00000003"):
            model = tiny.pretraining()
            optimizer = optimizer_of(model)
            load_checkpoint(where, model, optimizer)
            seen.append([*model.parameters(), *(v for state in optimizer.state.values() for v in state.values())])
        assert all(torch.equal(far, near) for far, near in zip(*seen, strict=True))
    shutil.rmtree(folder)
