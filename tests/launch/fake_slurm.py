"""Stand-ins for Slurm's commands: each answers what a test says, and notes how it was called."""

import json
import os
import sys
from pathlib import Path

import pytest

COMMAND = """#!{python} -SE
import json, os, sys
from pathlib import Path
here = Path(__file__).parent
name = Path(__file__).name
with (here / "calls").open("a") as calls:
    told = sys.stdin.read() if name == "sbatch" else ""
    env = {{k: v for k, v in os.environ.items() if k == "PYTHONPATH" or k.startswith(("SBATCH_", "TORCHFLAVA_"))}}
    calls.write(json.dumps([name, *sys.argv[1:], told, env]) + "\\n")
for words, code, out, err in json.loads((here / f"{{name}}.json").read_text()):
    if all(word in sys.argv[1:] for word in words):
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
sys.exit("nobody asked for this: " + " ".join(sys.argv))
"""
COMMANDS = ("scontrol", "squeue", "sacct", "sbatch", "sinfo", "srun", "scancel")


class FakeSlurm:
    """A folder of commands that stands first on PATH. What it was not told to answer, it refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in COMMANDS:
            (folder / name).write_text(COMMAND.format(python=sys.executable))
            (folder / name).chmod(0o755)
            (folder / f"{name}.json").write_text("[]")
        self.answer("sacct", err="Slurm accounting storage is disabled\n", code=1)

    def answer(self, name: str, *words: str, out: str = "", err: str = "", code: int = 0) -> None:
        """From now on, `name` called with these words among its own answers so; the last one told wins."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps([[words, code, out, err], *json.loads(file.read_text())]))

    def program(self, name: str, text: str) -> None:
        """Another stand-in, told in bash."""
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (self.folder / name).chmod(0o755)

    def without(self, *names: str) -> None:
        """These commands are not there."""
        for name in names:
            (self.folder / name).unlink()

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of each call, then what came on the standard input."""
        return [words[1:-1] for words in self._noted() if words[0] == name]

    def env(self, name: str) -> dict[str, str]:
        """Some variables of the last call."""
        return next(dict(words[-1]) for words in reversed(self._noted()) if words[0] == name)

    def _noted(self) -> list[list[str]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """On PATH, with nothing beside it but what a shell needs; the working directory and the notes are new ones."""
    fake = FakeSlurm(tmp_path / "bin")
    (tmp_path / "tools").mkdir()
    for name in ("bash", "env", "date", "head", "wc", "rm", "git"):
        for folder in [*os.defpath.split(":"), "/usr/bin", "/bin"]:
            if folder and Path(folder, name).exists():
                (tmp_path / "tools" / name).symlink_to(Path(folder, name))
                break
    monkeypatch.setenv("PATH", f"{fake.folder}:{tmp_path / 'tools'}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return fake
