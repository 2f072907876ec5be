"""What a script's process does first and last: `run_main(main, sys.argv[1:])`. Imports torch only where torchrun started it."""

import ctypes
import faulthandler
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

_HEAD_START = 5.0
"""Seconds after which another process tells a message that the first of its machine has not."""


def run_main(main: Callable[[list[str]], None], words: list[str]) -> None:
    """Run a script's `main`. Alone, an error is Python's to show; under torchrun it goes into the file that torchrun reads.

    torchrun shows the first of all (`torchflava.launch.torchrun`), so that here only a line is told; where torchrun starts the
    workers again it shows nothing, and the whole traceback is told here. What `main` ends the program with,
    `sys.exit("a message")`, is told once on each machine, which may lack another file than the others.
    A crash in compiled code, which is no exception, tells what every thread was doing; Ctrl-C ends in a line. Where torchrun
    is killed, so are its workers.

    Args:
        main: takes the words of the command line.
        words: of the command line.
    """
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
    # Before torch is there: OpenMP's threads spin fifteen times as long while they wait, for nothing where others use the cores.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        if "TORCHELASTIC_ERROR_FILE" in os.environ:
            _under_torchrun(main, words)
        else:
            main(words)
    except KeyboardInterrupt as interrupt:
        _end_interrupted(interrupt)


def _under_torchrun(main: Callable[[list[str]], None], words: list[str]) -> None:
    _end_with_torchrun()

    from torch.distributed.elastic.multiprocessing.errors import record

    try:
        record(main)(words)
    except SystemExit as end:
        if isinstance(end.code, str) and _number("LOCAL_RANK"):
            time.sleep(_HEAD_START)  # the first tells it meanwhile, and torchrun ends this one
        raise
    except Exception as error:
        if _number("TORCHELASTIC_RESTART_COUNT") < _number("TORCHELASTIC_MAX_RESTARTS"):
            traceback.print_exception(error)
        else:
            where = f"rank {_number('RANK')} of {os.environ.get('WORLD_SIZE', '1')} on {socket.gethostname()}"
            print(f"{where}: {type(error).__name__}: {_first_line(error)}", file=sys.stderr)
        sys.stderr.flush()
        sys.exit(1)


def _end_interrupted(interrupt: KeyboardInterrupt) -> None:
    """By the signal itself, so that a shell's loop ends too, and no thread is waited for: Python's exit waits for ever for one
    that was being started when the signal came.
    """
    told = "\n" + " ".join(["Ended by Ctrl-C.", *getattr(interrupt, "__notes__", [])])
    with suppress(OSError):  # what reads the lines, such as tee, the same Ctrl-C has ended
        sys.stdout.flush()
    if not _number("LOCAL_RANK"):
        with suppress(OSError):
            print(told, file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(128 + signal.SIGINT)  # the first process of a container, which no signal ends by itself


def _end_with_torchrun() -> None:
    """Or the worker would compute on, in no one's care, and the others with it: not every Slurm finds it."""
    if sys.platform == "linux":
        set_signal_of_parents_death = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_signal_of_parents_death, signal.SIGKILL, 0, 0, 0)


def _number(name: str) -> int:
    return int(os.environ.get(name, "0"))


def _first_line(error: Exception, length: int = 160) -> str:
    line = next(iter(str(error).splitlines()), "")
    return line if len(line) <= length else f"{line[:length]}..."
