"""`torchx run` up to the moment before it launches: help, dry runs, errors, and what it imports."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from torchx.cli.argparse_util import ArgOnceAction, torchxconfig
from torchx.cli.main import get_sub_cmds, run_main
from torchx.components.component_test_base import ComponentTestCase

from torchflava.launch import recipe
from torchflava.launch.cli import RecipeRun

Command = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """`torchx run WORDS` in this process: its exit code."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    for name in ("TTY_COMPATIBLE", "COLUMNS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "TORCHX_CONTEXT_NAME"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    (tmp_path / "config").touch()
    monkeypatch.setenv("TORCHXCONFIG", str(tmp_path / "config"))
    (tmp_path / "mine.py").write_text("print('never run here')")
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> int:
        for once in (torchxconfig, ArgOnceAction):
            monkeypatch.setattr(once, "called_args", set())  # TorchX counts over the whole process
        monkeypatch.setattr(torchxconfig, "_subcmd_configs", {})
        try:
            run_main({"run": RecipeRun()}, ["run", *words])
        except SystemExit as done:
            return int(done.code or 0)
        return 0

    yield command
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_it_is_installed_as_torchx_s_run() -> None:
    (entry,) = (e for e in entry_points(group="torchx.cli.cmds") if e.name == "run")
    assert entry.load() is RecipeRun
    commands = get_sub_cmds()
    assert isinstance(commands["run"], RecipeRun)
    assert {"status", "log", "cancel", "builtins"} < commands.keys()


def test_importing_it_imports_no_torch_and_says_nothing() -> None:
    code = "import sys, torchflava.launch.cli; sys.exit(' '.join({m.split('.')[0] for m in sys.modules} & {*sys.argv}))"
    heavy = ["torch", "torchvision", "torchmetrics", "torchdata", "numpy", "PIL", "matplotlib", "tokenizers", "tyro"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("", "\n")


@pytest.mark.parametrize("module", ["torchrun", "worker", "check"])
def test_what_runs_on_a_node_imports_torch_only_there(module: str) -> None:
    code = f"import sys, torchflava.launch.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_torchx_finds_the_component_sound() -> None:
    class Component(ComponentTestCase):  # type: ignore[misc]
        def runTest(self) -> None:
            self.validate(recipe, "recipe")

    result = Component().run()
    assert result is not None
    assert result.wasSuccessful(), result.errors + result.failures


def test_a_dry_run_shows_the_job(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-s", "local_cwd", "--dryrun", "mine.py", "--procs", "3", "--", "--model", "small") == 0
    out = capsys.readouterr().out
    assert "torchflava.launch.torchrun" in out
    assert "--nproc-per-node 3" in out
    assert "mine.py --model small" in out.replace("'\n", "").replace("'", "").replace("  ", "")


def test_a_dry_run_for_slurm(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "2", "--gpus", "8", "--cpus", "64", "--mem-gb", "500", "--retries", "4"]
    assert run("-s", "slurm", "-cfg", "partition=high", "--dryrun", "mine.py", *words) == 0
    script = capsys.readouterr().out
    for replica in (0, 1):
        asked = f"--job-name=mine-{replica} --requeue --partition=high --ntasks-per-node=1 --cpus-per-task=64"
        assert f"#SBATCH {asked} --mem=500000 --gpus-per-task=8\n" in script
    assert "export TORCHX_MAX_RETRIES=4\n" in script
    assert "--rdzv-endpoint ${SLURM_JOB_NODELIST_HET_GROUP_0:=localhost}:29500 mine.py" in script
    assert f"exec {sys.executable} -m torchflava.launch.torchrun --nnodes 2 --nproc-per-node 8 " in script


def test_builtin_components_stay(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-s", "local_cwd", "--dryrun", "utils.echo", "--msg", "hello there") == 0
    assert "hello there" in capsys.readouterr().out
    assert run("-s", "local_cwd", "--dryrun", "dist.ddp", "-j", "1x2", "--script", "mine.py", "--", "--x", "1") == 0
    assert "--nproc_per_node 2" in capsys.readouterr().out


def test_a_function_of_a_file_is_a_component_still(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.py").write_text(
        "from torchx.specs import AppDef\n"
        "from torchflava.launch.recipe import recipe\n"
        "def two(*args: str, procs: int = 5) -> AppDef:\n"
        '    """Mine.\n\n    Args:\n        args: words\n        procs: processes\n    """\n'
        '    return recipe(*args, script="two.py", procs=procs)\n'
    )
    assert run("-s", "local_cwd", "--dryrun", "two.py:two") == 0
    assert "--nproc-per-node 5" in capsys.readouterr().out
    assert run("-s", "local_cwd", "--dryrun", "two.py:two", "--procs", "6") == 0
    assert "--nproc-per-node 6" in capsys.readouterr().out
    assert run("-s", "local_cwd", "two.py:two", "--prox", "6") == 2
    assert "two.py:two has no argument --prox; did you mean --procs?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine.py", "--nodez", "2"], "did you mean --nodes?"),
        (["mien.py"], "no file mien.py; did you mean mine.py?"),
        (["mine.py", "--gpus", "1", "--procs", "2"], "--procs 2 is more than --gpus 1"),
        (["--", "mine.py", "--procs", "x"], "--procs wants a whole number, got 'x'"),
    ],
)
def test_a_mistake_launches_nothing(
    run: Command, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run("-s", "local_cwd", *words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("torchx run: error: ")
    assert message in told.err
    assert "Traceback" not in told.err


def test_help_explains_every_argument(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-s", "slurm", "mine.py", "--help") == 0
    told = capsys.readouterr().out
    wanted = ["nodes", "procs", "gpus", "cpus", "mem-gb", "retries", "image", "env", "mounts", "name", "port"]
    for flag in wanted:
        line = next(line for line in told.splitlines() if line.startswith(f"  --{flag} "))
        assert len(line.split()) > 3, line
    assert "--script" not in told
    assert "mine.py -- --help" in told
    assert run("--help") == 0
    assert "torchx run -s local_cwd recipes/pretrain.py" in capsys.readouterr().out


def test_the_configuration_names_the_default_recipe(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text("[cli:run]\ncomponent = mine.py\n[component:mine.py]\nprocs = 4\nargs = --x 1\n")
    assert run("-s", "local_cwd", "--dryrun") == 0
    assert "--nproc-per-node 4" in capsys.readouterr().out
    assert run("-s", "local_cwd", "--dryrun", "--", "--procs", "7") == 0
    assert "--nproc-per-node 7" in capsys.readouterr().out


def test_torchx_s_warning_of_shared_gpus_is_kept_for_many_replicas(
    run: Command, caplog: pytest.LogCaptureFixture
) -> None:
    for nodes, warned in (("1", False), ("2", True), ("1", False)):
        caplog.clear()
        assert run("-s", "local_cwd", "--dryrun", "mine.py", "--gpus", "2", "--nodes", nodes) == 0
        assert ("CUDA_VISIBLE_DEVICES" in caplog.text) is warned


def test_the_checkout_s_configuration_and_its_examples_hold(
    run: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[2] / ".torchxconfig"
    monkeypatch.setenv("TORCHXCONFIG", str(config))
    assert run("--dryrun", "mine.py") == 0  # no -s
    assert "'role_params'" in capsys.readouterr().out  # a request of local_cwd
    lines = [re.sub(r"^# (?=\[|\w+ = )", "", line) for line in config.read_text().splitlines(keepends=True)]
    (tmp_path / "config").write_text("".join(lines))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "pretrain.py").touch()
    monkeypatch.setenv("TORCHXCONFIG", str(tmp_path / "config"))
    assert run("--dryrun", "recipes/pretrain.py") == 0
    told = capsys.readouterr().out
    assert "--nproc-per-node 2" in told
    assert "'log_dir': 'runs/logs/" in told
