"""`torchx status`, `log`, `cancel` and `list`: TorchX's, which end in a line where there is nothing to show.

Registered under TorchX's names by this package's entry points (TorchX 0.7). What is meant for a user, `LaunchError` and
`ClusterError`, is told as one error; every other exception is a bug and keeps its traceback.
"""

import argparse
import difflib
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torchx.cli.cmd_cancel import CmdCancel
from torchx.cli.cmd_list import CmdList
from torchx.cli.cmd_log import CmdLog, get_logs
from torchx.cli.cmd_status import CmdStatus
from torchx.runner import Runner, get_runner
from torchx.schedulers import DEFAULT_SCHEDULER_MODULES, get_scheduler_factories
from torchx.specs import AppState
from torchx.specs import AppStatus as Status

from torchflava.launch.ddp import ClusterError, LaunchError
from torchflava.launch.settings import check_configured

_JOB = r"\w+://.+/.+"
_LOG = r"\w+://[^/]*/[^/]+(/[^/]+(/(\d+,?)+)?)?"  # as TorchX's `log` wants it


@contextmanager
def told(command: str) -> Iterator[None]:
    """Tell what is wrong, and end the program: with 2 for what was asked wrongly, with 1 for what the cluster answers."""
    try:
        yield
    except (LaunchError, ClusterError) as wrong:
        print(f"torchx {command}: error: {wrong}", file=sys.stderr)
        sys.exit(2 if isinstance(wrong, LaunchError) else 1)


class AppStatus(CmdStatus):  # type: ignore[misc]  # TorchX ships no types
    """The `status` of the `torchx` command."""

    def run(self, args: argparse.Namespace) -> None:
        """TorchX's."""
        with told("status"):
            _check_handle(args.app_handle, _JOB, "SCHEDULER://torchx/JOB")
            super().run(args)


class AppCancel(CmdCancel):  # type: ignore[misc]
    """The `cancel` of the `torchx` command."""

    def run(self, args: argparse.Namespace) -> None:
        """TorchX's."""
        with told("cancel"):
            _check_handle(args.app_handle, _JOB, "SCHEDULER://torchx/JOB")
            super().run(args)


class AppLog(CmdLog):  # type: ignore[misc]
    """The `log` of the `torchx` command, which waits for a job that waits, and not for one that is not there."""

    def run(self, args: argparse.Namespace) -> None:
        """As TorchX's."""
        with told("log"), _said_once(), get_runner() as runner:
            _check_handle(args.identifier, _LOG, "SCHEDULER://torchx/JOB, or SCHEDULER://torchx/JOB/ROLE/REPLICA")
            _refuse_unknown_jobs(runner, args.identifier)
            get_logs(sys.stdout, args.identifier, args.regex, args.tail, runner=runner, streams=args.streams)


class AppList(CmdList):  # type: ignore[misc]
    """The `list` of the `torchx` command, whose default stays what it is without this package."""

    def add_arguments(self, subparser: argparse.ArgumentParser) -> None:
        """TorchX's."""
        super().add_arguments(subparser)
        subparser.set_defaults(scheduler=next(iter(DEFAULT_SCHEDULER_MODULES)))

    def run(self, args: argparse.Namespace) -> None:
        """TorchX's."""
        with told("list"):
            if args.scheduler == "local_cwd":
                raise LaunchError("local_cwd keeps no list: only the `torchx run` that runs a local job knows it")
            check_configured(args.scheduler)
            super().run(args)


def _check_handle(handle: str, pattern: str, form: str) -> None:
    if not re.fullmatch(pattern, handle):
        raise LaunchError(f"{handle!r} is no handle of a job; write {form}, as `torchx run` and `torchx list` print it")
    name, known = handle.partition("://")[0], [*get_scheduler_factories()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]}://?" if near else f"there are {', '.join(known)}"
        raise LaunchError(f"{handle}: there is no scheduler {name}; {remedy}")


def _refuse_unknown_jobs(runner: Runner, asked: str) -> None:
    """TorchX's `log` asks for a job's state until it is one that has started; a job that nobody knows has none.

    Slurm forgets a job minutes after its end, if it has no accounting, but the files of a replica that `asked` names are found.
    """
    ask = runner.status
    by_name = re.fullmatch(r"slurm://[^/]*/[^/]+/[^/]+/[\d,]+", asked)

    def status(handle: str) -> Status:
        found = ask(handle)
        if found is None and by_name:
            return Status(AppState.UNKNOWN)
        if found is None:
            raise ClusterError(_unknown(handle))
        return found

    runner.status = status


def _unknown(handle: str) -> str:
    scheduler = handle.partition("://")[0]
    if scheduler == "local_cwd":
        return (
            f"{handle}: only the `torchx run` that runs a local job knows it; for others see `torchx list -s SCHEDULER`"
        )
    remedy = f"{handle}: {scheduler} knows no such job; `torchx list -s {scheduler}` shows those that it knows"
    if scheduler == "slurm":
        remedy += f", and {handle}/ROLE/0 reads the log of one that it has forgotten"
    return remedy


@contextmanager
def _said_once() -> Iterator[None]:
    """TorchX reads each replica's log in a thread, which tells of an error in full before it is told here."""
    before = threading.excepthook

    def hook(about: threading.ExceptHookArgs) -> None:
        if not isinstance(about.exc_value, LaunchError | ClusterError):
            before(about)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
