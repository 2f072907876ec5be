"""The Containerfile: what it copies exists, what it installs is what pyproject.toml asks for; and the image itself.

For the last TORCHFLAVA_BASE=IMAGE names what podman builds it upon: an image with Python, pip and, best, the dependencies;
TORCHFLAVA_BUILD and TORCHFLAVA_RUN hold further words for `podman build` and `podman run`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.core import url_to_fs
from torchx.workspace.api import walk_workspace

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text()
BASE = os.environ.get("TORCHFLAVA_BASE", "")


def steps() -> list[tuple[str, str]]:
    """The instructions with their words, as a builder reads them."""
    lines = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
    whole = re.sub(r"\\\n", "", "\n".join(lines)).splitlines()
    return [(name, words) for name, _, words in (line.partition(" ") for line in whole)]


def copied() -> list[str]:
    return [source for name, words in steps() if name == "COPY" for source in words.split()[:-1]]


def test_the_instructions_are_known_and_in_order() -> None:
    names = [name for name, _ in steps()]
    assert set(names) == {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER"}
    assert names[:2] == ["ARG", "FROM"]
    assert steps()[:2] == [("ARG", "BASE=docker.io/library/python:3.12-bookworm"), ("FROM", "${BASE}")]
    assert steps()[-1] == ("USER", "1000:1000")


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sources = copied()
    assert sorted(sources) == ["LICENSE", "README.md", "pyproject.toml", "recipes", "torchflava"]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    fs, path = url_to_fs(str(ROOT))
    sent = {
        os.path.relpath(info["name"], ROOT)
        for _, _, files in walk_workspace(fs, path, ".dockerignore")
        for info in files.values()
    }
    for source in sources:
        there = list((ROOT / source).rglob("*.py")) if (ROOT / source).is_dir() else [ROOT / source]
        assert {file.relative_to(ROOT).as_posix() for file in there} <= sent
    assert not any(name.split(os.sep)[0] in (".git", "tests", "runs", "docs") for name in sent)


@pytest.mark.parametrize("extras", ["", "wandb,hub"])
def test_what_is_installed_is_what_the_project_asks_for(tmp_path: Path, extras: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (run,) = (words for name, words in steps() if name == "RUN" and "tomllib" in words)
    first = shlex.split(run.replace("${EXTRAS}", extras).partition(" > ")[0])
    assert first[0] == "python"
    done = subprocess.run([sys.executable, *first[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = {*project["dependencies"]}
    for extra in filter(None, extras.split(",")):
        wanted |= {*project["optional-dependencies"][extra]}
    assert set(done.stdout.splitlines()) == wanted
    assert "pip install --no-cache-dir -r /tmp/requirements.txt" in run


def test_recipes_lie_where_the_job_looks_for_them() -> None:
    assert ("WORKDIR", "/app") in steps()  # a pod starts there, and torchrun is given recipes/pretrain.py
    assert ("COPY", "recipes recipes") in steps()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if not (BASE and shutil.which("podman")):
        pytest.skip("wants podman, and TORCHFLAVA_BASE for an image to build upon")
    name = "localhost/torchflava-test:1"
    command = ["podman", "build", "--build-arg", f"BASE={BASE}", "--tag", name]
    subprocess.run(
        [*command, *shlex.split(os.environ.get("TORCHFLAVA_BUILD", "")), str(ROOT)], check=True, timeout=1500
    )
    yield name
    subprocess.run(["podman", "rmi", "--force", name], check=True)


QUICK = ("--name", "pod", "--model", "tiny", "--steps", "100000", "--log-every", "1")
GIVEN = shlex.split(os.environ.get("TORCHFLAVA_RUN", ""))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_image_is_not_root_s_and_knows_the_recipes(image: str) -> None:
    def inside(command: str) -> str:
        words = ["podman", "run", "--rm", *GIVEN, image, "bash", "-c", command]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=900).stdout

    assert inside("id -u; pwd; whoami").split() == ["1000", "/app", "flava"]
    where = inside("cd /; python -c 'import torchflava; print(torchflava.__file__)'")
    assert "-packages/torchflava/__init__.py" in where


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_pod_saves_when_it_is_stopped_and_goes_on(
    image: str, rendered: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Podman plays the node: the rendered command and variables, a volume, SIGTERM and a grace period."""
    (pod,) = [task["template"]["spec"] for task in rendered("--", *QUICK)["spec"]["tasks"]]
    (container,) = pod["containers"]
    command = [word.replace("mine.py", "recipes/pretrain.py") for word in container["command"]]
    variables = [word for one in container["env"] for word in ("--env", f"{one['name']}={one['value']}")]
    runs = tmp_path / "runs"
    runs.mkdir()
    os.chown(runs, 1000, 1000)  # what fs_group does
    name = f"torchflava-pod-{os.getpid()}"
    start = ["podman", "run", "--detach", "--name", name, "--volume", f"{runs}:/app/runs", *variables, *GIVEN, image]

    def log() -> str:
        done = subprocess.run(["podman", "logs", name], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def steps() -> int:
        return sum(len(file.read_text().splitlines()) for file in runs.rglob("log.jsonl"))

    def started_and_stopped() -> str:
        subprocess.run([*start, *command], check=True, capture_output=True)
        try:
            end, before = time.monotonic() + 600, steps()
            while steps() < before + 3:
                assert time.monotonic() < end, log()
                time.sleep(0.5)
            grace = str(pod["terminationGracePeriodSeconds"])
            subprocess.run(["podman", "stop", "--time", grace, name], check=True, capture_output=True)
            state = ["podman", "inspect", "--format", "{{.State.ExitCode}}", name]
            assert subprocess.run(state, check=True, capture_output=True, text=True).stdout.strip() == "1", log()
            return log()
        finally:
            subprocess.run(["podman", "rm", "--force", name], check=True, capture_output=True)

    first = started_and_stopped()
    assert "starting in" in first
    assert "going on at step" in started_and_stopped(), first
