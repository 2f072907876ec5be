"""torchrun, whose last words are one report: `python -m torchflava.launch.torchrun` takes its arguments (torch 2.14).

Which rank failed first, where, and why, instead of every rank's traceback and torchrun's own. It leaves with 75, "start me
again", where the workers were asked to stop and did; torchrun itself leaves with 1 then. torch is imported when it runs.
"""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

REQUEUE = 75
"""What a recipe leaves with once it has been asked to stop and has saved (`torchflava.training.REQUEUE`)."""

_RECORDER = "elastic/multiprocessing/errors/__init__.py"  # stands in every traceback and tells nothing
_AFTER_OTHERS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
    "Socket Timeout",
    "remote process exited",
)
"""What the error of a rank says because another one has gone (gloo's and NCCL's words)."""
_REASONS = {
    signal.SIGKILL: "by hand, or by the system where memory ran out: `dmesg` tells; ask for more, or compute smaller parts",
    signal.SIGBUS: "a disk or the shared memory (/dev/shm) was full, or a mapped file was cut",
    signal.SIGSEGV: "a fault in compiled code, in the line told above",
    signal.SIGABRT: "compiled code gave up, and has said why above",
    signal.SIGTERM: "it was told to end",
}


class Failure(NamedTuple):
    """How a worker of this node ended."""

    rank: int
    pid: int
    exitcode: int
    """Below 0: minus a signal's number."""
    error: str
    """Its traceback; empty if it left none."""
    at: float
    """When, in seconds since 1970."""


def main(words: Sequence[str]) -> int:
    """Be torchrun on this node; the code to leave with."""
    _silence_stores()
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
    from torch.distributed.elastic.rendezvous import RendezvousError

    # What it would log of a worker's end, the report tells.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    args = torchrun.parse_args([*words])  # type: ignore[no-untyped-call]
    run: Callable[[Any], None] = record(torchrun.run)
    with TemporaryDirectory(prefix="torchflava_") as kept:
        args.log_dir = args.log_dir or kept  # where each worker's error is left
        try:
            run(args)
        except ChildFailedError as failed:
            failures = [_failure(rank, told) for rank, told in failed.failures.items()]
            text, code = report(args.training_script, failures, several_nodes=args.nnodes not in ("1", "1:1"))
        except SignalException as stop:
            text, code = stopped(args.training_script, signal.Signals(stop.sigval), Path(args.log_dir))
        except RendezvousError as error:
            text = f"== On {socket.gethostname()} the nodes did not meet at {args.rdzv_endpoint}, or lost each other "
            text += (
                f"({_last_line(str(error))}): is the first node up, and its port free and reachable from the others? =="
            )
            code = 1
        else:
            return 0
    print(f"\n{text}", file=sys.stderr, flush=True)
    return code


def _silence_stores() -> None:
    """Of a meeting point that went away torch tells in a page of C++ frames; here, not in the workers, the report is enough."""
    level = "TORCH_CPP_LOG_LEVEL"
    if level not in os.environ:
        os.environ[level] = "ERROR"
        import torch  # noqa: F401  # which reads it once

        del os.environ[level]
    logging.getLogger("torch.distributed.elastic.rendezvous").setLevel(logging.ERROR)


def report(script: str, failures: Iterable[Failure], *, several_nodes: bool = False) -> tuple[str, int]:
    """What to tell of the workers that ended badly, and the code to leave with.

    Args:
        script: that they ran.
        failures: of this node.
        several_nodes: whether the cause may lie on another one.
    """
    first, *others = sorted(failures, key=_as_cause)
    where = f"on {socket.gethostname()}"
    if first.exitcode == REQUEUE:
        return f"== {script} was asked to stop, has saved and ended {where}; start it again to go on ==", REQUEUE
    lines = [f"== {script} failed {where}: rank {first.rank} (process {first.pid}) {_ended(first)} =="]
    lines += [_shortened(first.error)] if first.error else []
    if several_nodes and _is_consequence(first):
        lines.append("A rank of another node went away first: the report of that node says why.")
    if others:
        lines.append("Ended because of it: " + ", ".join(f"rank {one.rank} ({_short(one)})" for one in others) + ".")
    return "\n".join(lines), 1


def stopped(script: str, told: signal.Signals, errors: Path) -> tuple[str, int]:
    """What to tell once torchrun was sent a signal and has ended its workers, and the code to leave with.

    Args:
        script: that they ran.
        told: the signal.
        errors: where workers left an error, `error.json`, if they had one, as when they could not save. Of their last start:
            what ended an earlier one is past.
    """
    where = f"on {socket.gethostname()}"
    for file in sorted(_last_start(errors).rglob("error.json")):
        message = json.loads(file.read_text()).get("message", "")
        error = _traceback_of(message) if isinstance(message, dict) else str(message)
        return f"== {script} was asked to stop by {told.name} and failed {where} ==\n{_shortened(error)}", 1
    code = REQUEUE if told in (signal.SIGTERM, signal.SIGUSR1) else 128 + told
    return f"== {script} was asked to stop by {told.name} and has ended {where} ==", code


def _last_start(errors: Path) -> Path:
    """torchrun's folder of the workers that it started last."""
    starts = [path for path in errors.rglob("attempt_*") if path.is_dir()]
    return max(starts, key=lambda path: (path.stat().st_mtime_ns, int(path.name.partition("_")[2])), default=errors)


def _failure(rank: int, told: Any) -> Failure:
    """torchrun's own record of a worker's end."""
    error, at = _traceback_of(told.message) if isinstance(told.message, dict) else "", float(told.timestamp)
    file = Path(told.error_file)
    if file.is_file():
        at = file.stat().st_mtime  # finer than the whole seconds in it
    return Failure(rank, told.pid, told.exitcode, error, at)


def _traceback_of(message: Mapping[str, Any]) -> str:
    """What `record` wrote of an error; its words where there is no traceback."""
    return str(message.get("extraInfo", {}).get("py_callstack") or message.get("message", ""))


def _as_cause(failure: Failure) -> tuple[int, float]:
    """Sorts causes before consequences. Who is killed leaves no record, and is noticed after those who missed it."""
    if failure.exitcode == -signal.SIGTERM and not failure.error:
        return 4, failure.at  # by torchrun, once another had failed
    if failure.exitcode < 0 and failure.exitcode not in (-signal.SIGTERM, -signal.SIGABRT):
        return 0, failure.at
    if failure.exitcode == -signal.SIGABRT:
        return 2, failure.at  # NCCL's watchdog, that missed another; or a fault in compiled code, that others missed
    return 3 if _is_consequence(failure) else 1, failure.at


def _is_consequence(failure: Failure) -> bool:
    told = failure.error[failure.error.rfind("\n  File ") + 1 :]  # the last frame, and the error itself
    return failure.exitcode == -signal.SIGABRT or any(words in told for words in _AFTER_OTHERS)


def _ended(failure: Failure) -> str:
    if failure.error:
        return f"raised {_error_of(failure)}"
    if failure.exitcode < 0:
        number = signal.Signals(-failure.exitcode)
        return f"was killed by {number.name}: {_REASONS.get(number, 'see what was said above')}"
    return f"left with code {failure.exitcode}, as it said above"


def _short(failure: Failure) -> str:
    if failure.error:
        return _error_of(failure)
    return signal.Signals(-failure.exitcode).name if failure.exitcode < 0 else f"code {failure.exitcode}"


def _error_of(failure: Failure) -> str:
    """The name of its error."""
    told = [line for line in failure.error.splitlines() if line and not line.startswith((" ", "Traceback", "This was"))]
    return told[0].partition(":")[0] if told else "an error"


def _shortened(error: str) -> str:
    """A traceback without the frames that only record it."""
    kept, leaving = [], False
    for line in error.rstrip().splitlines():
        if not line.startswith("   "):
            leaving = line.startswith("  File ") and _RECORDER in line
        if not leaving:
            kept.append(line)
    return "\n".join(kept)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # threads of a broken store would keep it for minutes
