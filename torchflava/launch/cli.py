"""`torchx run FILE.py`: TorchX's `run`, taught that a file may be a whole recipe, and to show a local job as it is.

Registered as TorchX's `run` by this package's entry point (TorchX 0.7). Builtin components and `FILE.py:FUNCTION` keep
their meaning. The entry points name the other commands here as well; they stand in `commands`.
"""

import argparse
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torchx.cli.cmd_run import CmdRun
from torchx.runner import Runner
from torchx.runner.config import get_config, load_sections
from torchx.schedulers.local_scheduler import SignalException
from torchx.specs import AppStatus as Status

from torchflava.launch.check import check
from torchflava.launch.commands import AppCancel, AppList, AppLog, AppStatus, told
from torchflava.launch.settings import check_configured, check_typed
from torchflava.launch.words import COMPONENT, asks_help, help_text, nodes_of, torchx_words

__all__ = ["AppCancel", "AppList", "AppLog", "AppStatus", "RecipeRun"]

_ABOUT = """Runs a recipe, FILE.py, or a component of TorchX, FILE.py:FUNCTION or GROUP.NAME (see `torchx builtins`).

  torchx run -s local_cwd recipes/pretrain.py                      here, with the recipe's defaults
  torchx run -s local_cwd recipes/pretrain.py --procs 2            in two processes
  torchx run -s local_cwd recipes/pretrain.py -- --steps 200       the script's own arguments follow --
  torchx run recipes/pretrain.py --help                            what a recipe's job can be given"""


class RecipeRun(CmdRun):  # type: ignore[misc]  # TorchX ships no types
    """The `run` of the `torchx` command."""

    def add_arguments(self, subparser: argparse.ArgumentParser) -> None:
        """TorchX's, and a help that tells of recipes."""
        super().add_arguments(subparser)
        if get_config(prefix="cli", name="run", key="scheduler") is None:
            # TorchX's is the first entry point, and those are sorted by name
            subparser.set_defaults(scheduler="local_cwd")
        subparser.formatter_class = argparse.RawDescriptionHelpFormatter
        subparser.description = _ABOUT

    def run(self, args: argparse.Namespace) -> None:
        """Launch what `args` name. A mistake in them ends the program with code 2 before anything is launched."""
        typed = _with_default(args.component_name_and_args)
        if asks_help(typed):
            print(help_text(typed[0]), end="")
            return
        local = args.scheduler == "local_cwd"
        torchx = {flag for action in self._subparser._actions for flag in action.option_strings}
        with told("run"), _told_of_signals():
            check_typed(args.scheduler, args.scheduler_args or "")
            check_configured(args.scheduler)
            sections = load_sections(prefix="component")
            args.component_name_and_args = torchx_words(typed, sections, local=local, torchx=torchx)
            _check(args.component_name_and_args, here=local)
            if local:
                _prepare_local(args.component_name_and_args)
            super().run(args)

    def _wait_and_exit(self, runner: Runner, app_handle: str, log: bool) -> None:
        """As TorchX's, but a local job's last lines are never lost, and a lone replica's come as it wrote them."""
        if not app_handle.startswith("local_cwd://"):
            super()._wait_and_exit(runner, app_handle, log)
            return
        _describe_one_at_a_time(runner._scheduler("local_cwd"))
        roles = runner.describe(app_handle).roles
        if log and sum(role.num_replicas for role in roles) == 1:
            for piece in runner.log_lines(app_handle, roles[0].name, should_tail=True):
                print(piece, end="", file=sys.stderr, flush=True)
            log = False
        logging.getLogger("torchx.cli.cmd_run").addFilter(_in_short)
        super()._wait_and_exit(runner, app_handle, log)


@contextmanager
def _told_of_signals() -> Iterator[None]:
    try:
        yield
    except SignalException as stop:
        print(f"\n{stop.sigval.name}: the job's processes are ended", file=sys.stderr)
        sys.exit(128 + stop.sigval)


def _with_default(typed: list[str]) -> list[str]:
    """`typed` without the dashes that TorchX allows before it, and with the component that `.torchxconfig` may name."""
    typed = typed[1:] if typed[:1] == ["--"] else typed
    named = bool(typed) and not typed[0].startswith("-")
    default = None if named else get_config(prefix="cli", name="run", key="component")
    return [default, *typed] if default else typed


def _check(words: list[str], *, here: bool) -> None:
    """Let a recipe look at its own words. Files are looked at where the job runs on this machine, in no image."""
    if words[:1] == [COMPONENT]:
        at = words.index("--") if "--" in words else len(words)
        script = next(word.partition("=")[2] for word in words[:at] if word.startswith("--script="))
        check(script, words[at + 1 :], here=here, ranks=nodes_of(words).ranks)


def _in_short(record: logging.LogRecord) -> bool:
    """Of a local job that has failed its state alone: what its processes said, and torchrun's report, stand above."""
    if isinstance(record.msg, Status):
        record.msg = f"The job ended: {record.msg.state}. Why, stands above."
    return True


def _prepare_local(words: list[str]) -> None:
    """Let a job on this machine know its terminal, and end with it."""
    alone = words[:1] == [COMPONENT] and nodes_of(words).fewest_and_most == (1, 1)
    if alone and sys.stderr.isatty():
        # the job writes into a file of TorchX's: tell it that its lines are drawn on a terminal, and how wide that is
        os.environ.setdefault("TTY_COMPATIBLE", "1")
        os.environ.setdefault("COLUMNS", str(shutil.get_terminal_size().columns))
    log = logging.getLogger("torchx.schedulers.local_scheduler")
    (log.addFilter if alone else log.removeFilter)(_concerns_one_replica)
    # TorchX kills a local torchrun ten seconds after Ctrl-C; later than that no one would be left to kill its workers
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "5")
    for number in (signal.SIGHUP, signal.SIGUSR1):  # a closed terminal, or what a batch system sends: as Ctrl-C
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _concerns_one_replica(record: logging.LogRecord) -> bool:
    """False of TorchX's page about replicas that take each other's GPUs: torchrun gives each process its own."""
    return "Running multiple role replicas" not in record.getMessage()


def _end(number: int, _frame: FrameType | None) -> None:
    told_by = signal.Signals(number)
    raise SignalException(f"ended by {told_by.name}", sigval=told_by)


def _describe_one_at_a_time(scheduler: Any) -> None:
    """Several threads ask a local job's state, and the first to see its end closes its log; the others must wait for that.

    Without it TorchX 0.7 drops what the job wrote last whenever the main thread is first.
    """
    lock = threading.Lock()
    describe = scheduler.describe

    def locked(app_id: str) -> Any:
        with lock:
            return describe(app_id)

    scheduler.describe = locked
