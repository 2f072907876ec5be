"""`torchx WORDS` in this process, in a folder with a script `mine.py` and a configuration of its own."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.cli.argparse_util import ArgOnceAction, torchxconfig
from torchx.cli.main import get_default_sub_cmds, run_main

from torchflava.launch.cli import AppCancel, AppList, AppLog, AppStatus, RecipeRun

Command = Callable[..., int]
OURS = {"run": RecipeRun, "list": AppList, "status": AppStatus, "log": AppLog, "cancel": AppCancel}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """TorchX sets handlers of signals in this process; they are put back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def torchx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Its exit code."""
    for name in ("TTY_COMPATIBLE", "COLUMNS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "TORCHX_CONTEXT_NAME"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    (tmp_path / "config").touch()
    monkeypatch.setenv("TORCHXCONFIG", str(tmp_path / "config"))
    (
        tmp_path / "slurm.conf"
    ).touch()  # a cluster that this machine may belong to is not asked; without a file Slurm asks DNS
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    (tmp_path / "mine.py").write_text("print('never run here')")
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> int:
        for once in (torchxconfig, ArgOnceAction):
            monkeypatch.setattr(once, "called_args", set())  # TorchX counts over the whole process
        monkeypatch.setattr(torchxconfig, "_subcmd_configs", {})
        try:
            run_main(get_default_sub_cmds() | {name: command() for name, command in OURS.items()}, list(words))
        except SystemExit as done:
            return int(done.code or 0)
        return 0

    return command


@pytest.fixture
def run(torchx: Command) -> Command:
    """`torchx run WORDS`: its exit code."""
    return lambda *words: torchx("run", *words)


@pytest.fixture
def rendered(torchx: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The Volcano job of `torchx run -s kubernetes --dryrun [-cfg OPTIONS] mine.py --image IMAGE WORDS`."""

    def job(*words: str, options: str = "") -> dict[str, Any]:
        cfg = ["-cfg", options] if options else []
        image = [] if "--image" in words else ["--image", "registry.example.com/flava:1"]
        assert torchx("run", "-s", "kubernetes", *cfg, "--dryrun", "mine.py", *image, *words) == 0
        _, _, request = capsys.readouterr().out.partition("=== SCHEDULER REQUEST ===\n")
        return dict(yaml.safe_load(request))

    return job
