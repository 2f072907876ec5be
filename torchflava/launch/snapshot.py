"""A copy of a checkout for a job that waits: what is edited meanwhile does not change it.

Copied is what git knows or would know, so that runs, data and environments that git ignores stay behind; outside a checkout all
but what its name gives away. What the patterns of `.torchxignore` match stays behind in both.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePath

_LEFT_OUT = {"runs", "data", "__pycache__"}


def copy_workspace(workspace: Path, target: Path) -> None:
    """Copy `workspace` into a folder that is made, with the files' permissions; links to folders stay links.

    Args:
        workspace: an existing folder.
        target: which must not exist.

    Raises:
        FileExistsError: if it does.
    """
    names = files_of(workspace)  # before the folder is there, which may lie inside
    target.mkdir(parents=True)
    for name in names:
        source, copy = workspace / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            copy.symlink_to(source.resolve(), target_is_directory=True)
        else:
            shutil.copy2(source, copy)


def files_of(workspace: Path) -> list[str]:
    """The paths, from `workspace`, of the files to copy and of the links to folders."""
    known = _known_to_git(workspace)
    ignore = workspace / ".torchxignore"
    lines = ignore.read_text().splitlines() if ignore.exists() else []
    patterns = [line.partition("#")[0].strip().rstrip("/") for line in lines]
    names = _walked(workspace) if known is None else known
    # git still names what was just deleted, and a link may lead nowhere
    return sorted(name for name in names if (workspace / name).exists() and not _ignored(name, patterns))


def _known_to_git(workspace: Path) -> set[str] | None:
    """What git tracks there or would; None where there is no git, or no checkout."""
    command = ["git", "-C", str(workspace), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name} if done.returncode == 0 else None


def _walked(workspace: Path) -> Iterator[str]:
    """Files and links to folders, without hidden folders, virtual environments, and what runs write and read."""
    for folder, folders, files in os.walk(workspace):
        inside = PurePath(os.path.relpath(folder, workspace))
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [
            name
            for name in folders
            if name not in (*links, *_LEFT_OUT)
            and not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        ]
        for name in (*files, *links):
            if name not in _LEFT_OUT:
                yield str(inside / name)


def _ignored(name: str, patterns: list[str]) -> bool:
    """As in `.dockerignore`: a pattern takes a folder's files with it, `!` takes back, the last one that matches decides."""
    paths = [str(path) for path in (PurePath(name), *PurePath(name).parents)]
    ignored = False
    for pattern in patterns:
        if any(fnmatch(path, pattern.removeprefix("!")) for path in paths):
            ignored = not pattern.startswith("!")
    return ignored
