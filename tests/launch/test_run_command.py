"""`torchx run` up to the moment before it launches: help, dry runs, errors, and what it imports."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from strict_schema import faults
from torchx.cli.main import get_sub_cmds
from torchx.schedulers import DEFAULT_SCHEDULER_MODULES
from torchx.schedulers.local_scheduler import SignalException

from torchflava.launch.cli import AppList, RecipeRun

Command = Callable[..., int]


def test_it_is_installed_as_torchx_s_run() -> None:
    (entry,) = (e for e in entry_points(group="torchx.cli.cmds") if e.name == "run")
    assert entry.load() is RecipeRun
    commands = get_sub_cmds()
    assert isinstance(commands["run"], RecipeRun)
    assert isinstance(commands["list"], AppList)
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


def test_a_dry_run_shows_the_job(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-s", "local_cwd", "--dryrun", "mine.py", "--procs", "3", "--", "--model", "small") == 0
    out = capsys.readouterr().out
    assert "torchflava.launch.torchrun" in out
    assert "--nproc-per-node 3" in out
    assert "mine.py --model small" in out.replace("'\n", "").replace("'", "").replace("  ", "")


def test_a_dry_run_for_slurm(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "2", "--gpus", "8", "--cpus", "64", "--mem-gb", "500", "--retries", "4"]
    assert run("-s", "slurm", "-cfg", "partition=high,qos=long", "--dryrun", "mine.py", *words) == 0
    script = capsys.readouterr().out
    options = "partition=high qos=long nodes=2 ntasks-per-node=1 cpus-per-task=64 mem=500000 gpus-per-node=8"
    assert "".join(f"#SBATCH --{option}\n" for option in options.split()) in script
    assert "hetjob" not in script
    assert "\nretries=4\n" in script
    assert "--rdzv-endpoint ${SLURM_LAUNCH_NODE_IPADDR:=localhost}:${TORCHFLAVA_PORT:-29500} mine.py" in script
    assert f"exec {sys.executable} -m torchflava.launch.torchrun --nnodes 2 --nproc-per-node 8 " in script


def test_a_setting_that_the_scheduler_lacks_is_named(run: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """TorchX ignores it."""
    for scheduler, typed, remedy in (
        ("slurm", "partitoin=high", "did you mean partition?"),
        ("slurm", "time=5;gpus=1", "it has partition, time, "),
        ("local_cwd", "partition=high", "it has log_dir, "),
    ):
        assert run("-s", scheduler, "-cfg", typed, "--dryrun", "mine.py") == 2
        assert f"{scheduler} has no such setting; {remedy}" in capsys.readouterr().err


def test_a_setting_without_a_value_or_of_another_kind_is_named(
    run: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    for scheduler, typed, remedy in (
        ("slurm", "partition", "-cfg partition: write KEY=VALUE,KEY=VALUE"),
        ("slurm", "log_dir=", "-cfg log_dir=: write KEY=VALUE,KEY=VALUE"),
        ("kubernetes", "grace=ten", "-cfg grace=ten: .*'ten'"),
    ):
        assert run("-s", scheduler, "-cfg", typed, "--dryrun", "mine.py", "--image", "a/b:1") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.match(f"torchx run: error: {remedy}", line)


def test_without_a_configuration_the_scheduler_is_local(
    run: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--dryrun", "mine.py") == 0
    assert "'role_params'" in capsys.readouterr().out  # a request of local_cwd
    parser = argparse.ArgumentParser()
    get_sub_cmds()["list"].add_arguments(parser)
    assert parser.parse_args([]).scheduler == next(iter(DEFAULT_SCHEDULER_MODULES))  # TorchX's own, as ever


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


def test_the_most_nodes_of_a_job_that_may_lose_some(
    run: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each number of ranks is handed to the recipe's check, in the words of one command."""
    (tmp_path / "mine.py").write_text("def check(words, *, here, ranks):\n    print(len(ranks), ranks[-1])\n")
    words = ("-s", "slurm", "--dryrun", "mine.py", "--procs", "128", "--nodes")
    assert run(*words, "1:10000") == 0
    assert "10000 1280000\n" in capfd.readouterr().out
    assert run(*words, "1:300000") == 2
    assert capfd.readouterr().err == "torchx run: error: --nodes 1:300000 is out of range: 10000 or fewer\n"


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_ends_a_local_run_as_ctrl_c_does(run: Command, number: signal.Signals) -> None:
    assert run("-s", "local_cwd", "--dryrun", "mine.py") == 0

    def sent() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    with pytest.raises(SignalException) as ended:
        sent()
    assert ended.value.sigval == number


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
    lines = [re.sub(r"^# (?=\[|[\w-]+ = )", "", line) for line in config.read_text().splitlines(keepends=True)]
    (tmp_path / "config").write_text("".join(lines))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "pretrain.py").touch()
    monkeypatch.setenv("TORCHXCONFIG", str(tmp_path / "config"))
    assert run("--dryrun", "recipes/pretrain.py") == 0
    told = capsys.readouterr().out
    assert "--nproc-per-node 2" in told
    assert "'log_dir': 'runs/logs/" in told
    assert run("-s", "kubernetes", "--dryrun", "recipes/pretrain.py", "--image", "a/b:1") == 0
    job = yaml.safe_load(capsys.readouterr().out.partition("=== SCHEDULER REQUEST ===\n")[2])
    assert faults(job) == []
    for line in config.read_text().partition("[kubernetes]\n")[2].partition("\n\n")[0].splitlines():
        _, _, value = line.partition(" = ")
        for word in re.split("[;:]", value) if "namespace" not in line else ():
            assert word in yaml.dump(job), line
    assert run("-s", "slurm", "--dryrun", "recipes/pretrain.py") == 0
    script = capsys.readouterr().out
    wanted = (
        "account=vision qos=normal reservation=flava constraint=a100 signal=USR1@300 mail-type=END,FAIL time=1-00:00:00"
    )
    for option in f"partition=gpu mail-user=me@example.org {wanted}".split():
        assert f"#SBATCH --{option}\n" in script.replace("'", "")
    assert "/runs/slurm/slurm-" in script
