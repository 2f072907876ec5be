"""One side of `step.py` in a process of its own, which does what it is told line by line, so that sides can take turns.

So each has its own memory, whose peak can be read, and its own settings; while one works, the others wait.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from drawn import Case, Shape
from machine import from_now_on, most


class Work(NamedTuple):
    """What a process is there for."""

    side: str
    """A key of `sides.SIDES`."""
    reads: bool
    """Whether it reads, or trains."""
    precision: str
    shape: Shape
    device: str = "cpu"
    threads: int = 0
    """Of torch; 0 leaves torch's choice."""
    compiled: bool = False
    sharded: bool = True
    """Ours, in steps: as trained; else a plain module under autocast."""
    optimizer: bool = False
    """A step of AdamW too."""
    recompute: str = "none"
    """What our blocks compute again in backward, as training's flag says it."""
    clock: str = "wall"
    """Or processor: the seconds that this process had, which others on the machine do not lengthen; for one thread."""
    keeps: bool = False
    """Keep freed memory, as our sides do by themselves."""


class Process:
    """`Work` in a process of its own; a context, which ends it.

    Args:
        work: what it is there for.
        env: variables of its environment, such as those by which ranks find each other.

    Raises:
        RuntimeError: with what the process said, if it ends by itself.
    """

    def __init__(self, work: Work, env: Mapping[str, str] | None = None) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in __exit__
        words = json.dumps(work._replace(shape=tuple(work.shape)))
        pipe = subprocess.PIPE
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, **(env or {})}
        self._process = subprocess.Popen(
            [sys.executable, __file__, words], stdin=pipe, stdout=pipe, stderr=self._said, text=True, env=env
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def ask(self, what: str, *about: Any) -> Any:
        """What `answers` has under that name, of these."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([what, *about]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            self._said.seek(0)
            raise RuntimeError(f"the process of {self._process.args[2]} ended:\n{self._said.read()[-4000:]}")
        return json.loads(answer)


def serve(work: Work) -> None:
    """Answer the lines on the standard input until it ends."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch
    from sides import SIDES

    from torchflava.training.allocator import keep_freed_memory

    if work.threads:
        torch.set_num_threads(work.threads)
    if work.keeps:
        keep_freed_memory()
    make = SIDES[work.side][work.reads]
    options = {} if work.reads or work.side != "ours" else {"sharded": work.sharded, "again": work.recompute}
    with make(work.shape, work.precision, device=work.device, compiled=work.compiled, **options) as side:
        can = answers(work, side)
        for line in sys.stdin:
            what, *about = json.loads(line)
            print(json.dumps(can[what](*about)), file=answer, flush=True)


def answers(work: Work, side: Any) -> dict[str, Callable[..., Any]]:
    """By name: `seconds` of a case, `memory` in MB, `operations` and `profile`; `rate` of a product in operations a second."""
    import torch

    clock = time.process_time if work.clock == "processor" else time.perf_counter
    optimizer = torch.optim.AdamW(side.model.parameters(), lr=1e-5, weight_decay=0.1) if work.optimizer else None

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}

    def step(case: Case) -> None:
        loss = side.run(case)
        if not work.reads:
            loss.backward()
            if optimizer is not None:
                optimizer.step()

    def timed(do: Callable[[], Any]) -> float:
        wait(work.device)
        began = clock()
        do()
        wait(work.device)
        took = clock() - began
        side.model.zero_grad(set_to_none=True)
        return took

    def memory(case: Case) -> dict[str, float]:
        gc.collect()
        before = from_now_on(work.device)
        step(case)
        wait(work.device)
        found = {"before": before, "most": most(work.device)}
        gradients = [x.grad for x in side.model.parameters() if x.grad is not None]
        return found | {"gradients": sum(x.numel() * x.element_size() for x in gradients) / 1e6}

    return {
        "seconds": lambda case: timed(lambda: step(Case(*case))),
        "memory": lambda case: memory(Case(*case)),
        "operations": lambda case: operations(lambda: timed(lambda: step(Case(*case)))),
        "profile": lambda case: profile(lambda: timed(lambda: step(Case(*case))), work.device),
        "rate": lambda width, precision: rate(
            torch.randn(width, width, dtype=dtypes[precision], device=work.device), timed
        ),
    }


def operations(do: Callable[[], Any]) -> int:
    """Of the matrix products and convolutions in `do`; within its attention kernels for the CPU torch would count none."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        do()
    return counter.get_total_flops()


def profile(do: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds by torch's operators, what they call not counted within them; after it was done twice to warm up."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watched

    do()
    do()
    with watched(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]) as seen:
        do()
    clock = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    # A GPU's kernels are told by themselves too, beside the operators that started them.
    of_operators = (event for event in seen.key_averages() if event.device_type == DeviceType.CPU)
    return {event.key: getattr(event, clock) / 1e6 for event in of_operators}


def rate(a: Any, timed: Callable[[Callable[[], Any]], float]) -> float:
    """Operations a second of a square matrix's product with itself, the best of five: what the machine can do just now."""
    product = partial(a.mm, a)
    return 2 * len(a) ** 3 / min([timed(product) for _ in range(6)][1:])


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    serve(Work(*given)._replace(shape=Shape(*given[3])))
