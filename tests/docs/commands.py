"""Commands of the documents, read as their programs would read them, up to the moment before they do something.

A recipe's flags are parsed by the recipe; what `torchx run` would submit is made and not submitted; files that a command names
need not be there, unless they are this project's.
"""

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tyro
from packaging.requirements import Requirement
from pages import ROOT
from torchx.cli.argparse_util import ArgOnceAction, torchxconfig
from torchx.cli.main import get_default_sub_cmds, run_main
from torchx.specs.api import MalformedAppHandleException, parse_app_handle

from torchflava.launch import cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"run": cli.RecipeRun, "list": cli.AppList, "status": cli.AppStatus, "log": cli.AppLog, "cancel": cli.AppCancel}
LET_BE = {
    ".": "activates an environment", "source": "activates an environment", "cd": "moves", "mkdir": "makes a folder",
    "export": "sets a variable", "git": "is no program of ours", "podman": "wants a container engine",
    "docker": "wants a container engine", "kubectl": "wants a cluster", "ruff": "is run by .ci/run",
    "mypy": "is run by .ci/run", "tensorboard": "serves until it is ended", "curl": "wants the network",
    "wget": "wants the network", "unzip": "wants what was fetched", "tar": "wants what was fetched",
    "sphinx-build": "is run by .ci/run",
}  # fmt: skip
"""Programs whose words are not read, and why."""
WORDS_OF_THE_SHELL = re.compile(r"^\s*(for|while|if|case|until)\b|\$\(|<<", re.M)


class WrongCommandError(AssertionError):
    """A command that its program would refuse."""


def commands_in(source: str) -> list[list[str]]:
    """A block of shell -> its commands as words, without comments; `&&`, `;` and line ends part them."""
    lines = [line.removeprefix("$ ") for line in source.replace("\\\n", " ").splitlines()]
    found: list[list[str]] = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in (";", "&&", "||", "|", "&"):
                words.append(word)
            elif words:
                found.append(words)
                words = []
    return [command for command in map(_without_settings, found) if command]


def read(words: Sequence[str], pytest_parser: Any, made: Collection[str] = ()) -> None:
    """Raise WrongCommandError where a command would be refused; `made` are files that the page tells its reader to make."""
    program, rest = words[0].rpartition("/")[2], list(words[1:])
    if program.startswith("python"):
        _read_python(rest, pytest_parser, made)
    elif program == "torchx":
        _read_torchx(rest)
    elif program == "pip":
        _read_pip(rest, ours=words[0] == "pip")
    elif program == "pytest":
        _read_pytest(rest, pytest_parser, made)
    elif (ROOT / words[0]).is_file():  # a script of this project
        pass
    elif program not in LET_BE:
        raise WrongCommandError(
            f"nothing is known of {program!r}; teach tests/docs/commands.py to read its words, or add it to LET_BE there"
        )


def _without_settings(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


def _read_python(words: list[str], pytest_parser: Any, made: Collection[str]) -> None:
    if words[:1] == ["-m"]:
        if words[1] == "pytest":
            _read_pytest(words[2:], pytest_parser, made)
        elif words[1].startswith("torchflava"):
            _parse(lambda: runpy.run_module(words[1], run_name="__main__", alter_sys=True), words[1], words[2:])
        elif words[1] not in ("venv", "pip", "build", "http.server", "sphinx"):
            raise WrongCommandError(f"nothing is known of python -m {words[1]}; teach tests/docs/commands.py")
    elif words[:1] == ["-c"]:
        compile(words[1], "python -c", "exec")
    else:
        script = ROOT / words[0]
        if not script.is_file():
            raise WrongCommandError(f"there is no {words[0]}")
        if not _checked(words[0], words[1:], here=False, ranks=(1,)):
            _parse(lambda: runpy.run_path(str(script), run_name="__main__"), str(script), words[1:])


class _Read(BaseException):
    """All words were read; the program stops here."""


def _parse(start: Callable[[], Any], name: str, words: list[str]) -> None:
    """Start a program with these words, to be stopped once its parser has taken all of them."""
    taken = 0

    def took(given: Sequence[str], rest: Sequence[str] = ()) -> None:
        nonlocal taken
        taken += len(given) - len(rest)
        only_places = bool(rest) and not rest[0].startswith("-")
        if only_places or taken + list(words).count("--") >= len(words):
            raise _Read

    def by_tyro(of: Any, *args: Any, **options: Any) -> Any:
        found = parse_tyro(of, *args, **options)
        given = options.get("args")
        took(sys.argv[1:] if given is None else given, found[1] if options.get("return_unknown_args") else ())
        return found

    def by_argparse(self: argparse.ArgumentParser, given: Any = None, namespace: Any = None) -> NoReturn:
        parse_argparse(self, given, namespace)
        raise _Read

    parse_tyro, parse_argparse = tyro.cli, argparse.ArgumentParser.parse_args
    with pytest.MonkeyPatch.context() as patch, _told(name, words):
        patch.setattr(sys, "argv", [name, *words])
        patch.setattr(sys, "path", [str(Path(name).parent), *sys.path])
        patch.setattr(tyro, "cli", by_tyro)
        patch.setattr(argparse.ArgumentParser, "parse_args", by_argparse)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*found in sys.modules after import of package", category=RuntimeWarning
            )
            start()
        raise WrongCommandError(f"{name} ended without having read its words")


@contextlib.contextmanager
def _told(name: str, words: Sequence[str]) -> Iterator[None]:
    """What a program says as it ends becomes the error; it may end well, or stop as all is read."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    except _Read:
        pass
    except SystemExit as end:
        if end.code not in (0, None):
            told = end.code if isinstance(end.code, str) else said.getvalue().strip()
            raise WrongCommandError(f"{' '.join([name, *words])}\n{told}") from end


def _checked(script: str, words: list[str], *, here: bool, ranks: Sequence[int]) -> bool:
    """Let a recipe look at its words, if it has a `check`."""
    if "def check(words" not in (ROOT / script).read_text():
        return False
    with pytest.MonkeyPatch.context() as patch, _told(script, words):
        patch.setattr(sys, "argv", [script, *words])
        patch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
        check = runpy.run_path(str(ROOT / script), run_name="check")["check"]
        asks = check.__code__.co_varnames[: check.__code__.co_argcount + check.__code__.co_kwonlyargcount]
        check(words, **{name: value for name, value in {"here": here, "ranks": [*ranks]}.items() if name in asks})
    return True


def _read_torchx(words: list[str]) -> None:
    """`torchx run` makes the job and does not submit it; of the others the words and the handle are read."""
    if words[:1] == ["run"]:
        words = ["run", "--dryrun", *(word for word in words[1:] if word != "--dryrun")]
    elif words[:1] in (["status"], ["log"], ["cancel"]):
        parser = argparse.ArgumentParser()
        OURS[words[0]]().add_arguments(parser)
        with _told("torchx", words):
            handle = vars(parser.parse_args(words[1:]))
            asked = next(str(handle[name]) for name in ("app_handle", "identifier") if name in handle)
            try:
                parse_app_handle("/".join(asked.split("/")[:4]))
            except MalformedAppHandleException as error:
                raise WrongCommandError(f"torchx {' '.join(words)}: {error}") from error
        return
    with pytest.MonkeyPatch.context() as patch, _told("torchx", words):
        patch.chdir(ROOT)
        for once in (torchxconfig, ArgOnceAction):
            patch.setattr(once, "called_args", set())  # TorchX counts over the whole process
        patch.setattr(torchxconfig, "_subcmd_configs", {})
        patch.setattr(cli, "check", _check_in_this_process)
        patch.setenv("SLURM_CONF", os.devnull)  # without a file Slurm asks DNS
        commands = get_default_sub_cmds() | {name: command() for name, command in OURS.items()}
        if words[:1] == ["list"]:
            parser = argparse.ArgumentParser()
            commands["list"].add_arguments(parser)
            parser.parse_args(words[1:])
        else:
            run_main(commands, words)


def _check_in_this_process(script: str, words: Sequence[str], *, here: bool, ranks: Sequence[int] = (1,)) -> None:
    """As `launch.check.check`, without a process of its own, and without looking for files."""
    _checked(script, list(words), here=False, ranks=ranks)


def _read_pip(words: list[str], *, ours: bool) -> None:
    """Extras must be there; versions in this project's environment must be those that it asks for."""
    if words[:1] != ["install"]:
        return
    wanted = {Requirement(line).name: Requirement(line) for line in PROJECT["dependencies"]}
    for word in words[1:]:
        extras = re.search(r"^(?:\.|torchflava)\[(.*)\]", word)
        for extra in extras[1].split(",") if extras else ():
            if extra not in PROJECT["optional-dependencies"]:
                raise WrongCommandError(f"pyproject.toml has no extra {extra!r}, which pip install {word} asks for")
        pinned = re.fullmatch(r"([\w.-]+)==([\w.]+)", word)
        if ours and pinned and pinned[1] in wanted and not wanted[pinned[1]].specifier.contains(pinned[2]):
            raise WrongCommandError(f"pip install {word}: pyproject.toml asks for {wanted[pinned[1]]}")


def _read_pytest(words: list[str], parser: Any, made: Collection[str]) -> None:
    """Options must be pytest's or its plugins', paths must be there."""
    known, unknown = parser.parse_known_and_unknown_args(words)
    missing = [path for path in known.file_or_dir if path not in made and not (ROOT / path.partition("::")[0]).exists()]
    if unknown or missing:
        raise WrongCommandError(f"pytest knows no {', '.join([*unknown, *missing])}")
