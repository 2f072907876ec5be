"""Starts `recipes/pretrain.py` on ranks of this machine and ends them: forked from a server that has imported torch once."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from torchflava.training import TIMED

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

PRELOADED = ["torch._dynamo", "torch.distributed.fsdp", "torch.distributed.elastic.multiprocessing.errors", "tyro",
             "torch.utils.tensorboard", "matplotlib.pyplot", "torchflava.data", "torchflava.models", "torchflava.training",
             "torchflava.codebooks", "torchflava.evaluation"]  # fmt: skip
Record = dict[str, float]


class Job:
    """The ranks of one start.

    Args:
        words: the command line; or what is called instead of the recipe.
        ranks: how many.
        slow: seconds that each rank's part of a save takes longer, before and after its file is there.
        before: called in each rank first; a function of a module.
    """

    def __init__(
        self,
        words: list[str] | Callable[[], None],
        ranks: int,
        *,
        slow: float = 0.0,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.began = time.time()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [
            context.Process(target=_rank, args=(r, ranks, port, words, slow, before)) for r in range(ranks)
        ]
        for process in self.processes:
            process.start()

    def until(self, seen: Callable[[], Any], *, seconds: float = 250.0) -> bool:
        """Wait for what is to be seen; False if the job ended before."""
        end = time.monotonic() + seconds
        while not seen():
            if any(process.exitcode is not None for process in self.processes):
                return False
            assert time.monotonic() < end, "the job neither ends nor gets there"
            time.sleep(0.002)
        return True

    def kill(self, first: int) -> None:
        """SIGKILL for every rank, `first` first."""
        for process in [self.processes[first], *self.processes]:
            process.kill()
        self.join()

    def terminate(self, rank: int) -> None:
        """SIGTERM for one rank."""
        os.kill(self.processes[rank].pid or 0, signal.SIGTERM)

    def join(self, seconds: float = 250.0) -> list[int | None]:
        """The exit codes, once all ranks have ended."""
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]


def _rank(
    rank: int,
    ranks: int,
    port: int,
    words: list[str] | Callable[[], None],
    slow: float,
    before: Callable[[], None] | None = None,
) -> None:
    torch.set_num_threads(1)
    if before is not None:
        before()
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in where.items()} | {"MASTER_ADDR": "127.0.0.1"}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if callable(words):
        words()
        return

    import measure_scenes
    import pretrain
    import report

    from torchflava.training.checkpoint import HuggingFaceStorageWriter

    write = HuggingFaceStorageWriter.write_data

    def slowed(*parts: Any) -> Any:
        time.sleep(slow)
        done = write(*parts)
        done.wait()
        time.sleep(slow)
        return done

    HuggingFaceStorageWriter.write_data = slowed
    measure_scenes.measure_scenes = lambda measured: ([], [])
    report.report = lambda *parts: None
    pretrain.main(words)


def trace(folder: Path) -> dict[int, Record]:
    """What the log says of each step, without times; a line that is half written is left out."""
    log = folder / "log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {r["step"]: {k: v for k, v in r.items() if k not in TIMED} for r in records if len(r) > 1}


def whole(folder: Path) -> list[int]:
    """The steps of the checkpoints, each of whose files is read."""
    found = []
    for state in sorted(folder.glob("step-*/state.json")):
        for name in json.loads(state.read_text())["files"]:
            assert load_file(state.parent / name)
        found.append(int(state.parent.name[5:]))
    return found


def saving(folder: Path, since: float) -> bool:
    """Whether a save that began after `since` is under way: the newest folder is no checkpoint yet."""
    try:
        newest = max(folder.glob("step-*"))
        return newest.stat().st_ctime > since and not (newest / "state.json").exists()
    except (ValueError, FileNotFoundError):  # there is none, or it is being cleared
        return False
