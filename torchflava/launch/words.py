"""What stands after `torchx run`: which file, which of its component's arguments, and what is the script's own."""

import argparse
import ast
import difflib
import inspect
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from torchx.specs.file_linter import get_fn_docstring

from torchflava.launch import recipe as component
from torchflava.launch.ddp import LaunchError, Nodes

FLAGS = tuple(name for name in inspect.signature(component.recipe).parameters if name not in ("args", "script"))
"""The arguments that `torchx run FILE.py` takes, spelled as in Python."""

COMPONENT = f"{component.__file__}:recipe"
"""What TorchX knows `recipe` as."""

_KINDS = {"nodes": "N[:N]"}
"""How `--help` shows a value that is neither a number nor any text."""
_LOCAL_LACKS = {
    "image": "runs no images",
    "mounts": "mounts nothing",
    "retries": "starts no job again",
    "mem_gb": "limits no memory",
}


def torchx_words(
    typed: list[str], sections: Mapping[str, Mapping[str, str]], *, local: bool, torchx: Collection[str]
) -> list[str]:
    """What TorchX should be told for what was `typed` after `torchx run` and its flags.

    `FILE.py ...` becomes the component `recipe` with `--script=FILE.py`. In `FILE.py:FUNCTION ...` the flags are checked.
    Everything else, TorchX's builtins among it, stays as it is.

    Args:
        typed: a component's name, its arguments, `--`, the script's arguments.
        sections: `.torchxconfig`'s defaults by component.
        local: whether the job runs by local_cwd, which does without some of what the others do.
        torchx: the flags of `torchx run` itself, which stand before the component's name.

    Raises:
        LaunchError: (a ValueError) where a file is missing or a word is wrong; the message names the nearest right one.
    """
    file, colon, function = typed[0].partition(":") if typed else ("", "", "")
    if not file.endswith(".py"):
        if file and Path(f"{file}.py").is_file():
            raise LaunchError(f"no component {file}; did you mean {file}.py?")
        return typed
    if not Path(file).is_file():
        raise LaunchError(_missing(file))
    if colon:
        return [typed[0], *_function_words(file, function, typed[1:], torchx=torchx)]
    given, rest = flags_and_rest(typed[1:], FLAGS, file=file, torchx=torchx)
    if rest and rest[0] != "--":
        raise LaunchError(f"{rest[0]!r} is out of place; the script's own arguments follow `--`: {file} -- {rest[0]}")
    defaults, own = _configured(file, sections)
    if local:
        _refuse_cluster_flags(given)
        defaults = {name: value for name, value in defaults.items() if name not in _LOCAL_LACKS}
    asked = defaults | given
    values = {"script": file if local else _from_here(file, in_image=bool(asked.get("image")))} | asked
    _check_numbers(file, values)
    return [COMPONENT, *_spelled(values), *(rest or own)]


def nodes_of(words: Sequence[str]) -> Nodes:
    """The machines that `torchx_words` speak of, as far as they say how many processes there are."""
    own = words[: words.index("--")] if "--" in words else words
    values = dict(word[2:].split("=", 1) for word in own if word.startswith("--") and "=" in word)
    return Nodes(values.get("nodes", 1), int(values.get("procs", 0)), int(values.get("gpus", 0)))


def asks_help(typed: list[str]) -> bool:
    """Whether `--help` stands among the arguments of a recipe, FILE.py."""
    own = typed[: typed.index("--")] if "--" in typed else typed
    return bool(own) and own[0].endswith(".py") and not {"-h", "--help"}.isdisjoint(own[1:])


def flags_and_rest(
    words: Iterable[str], flags: Collection[str], *, file: str, torchx: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """The flags at the head of `words` with their values, and what follows them; `-` and `_` inside a flag are one."""
    given: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        word, equals, value = rest.pop(0).partition("=")
        name = word.lstrip("-").replace("-", "_")
        if name not in flags or not (word.startswith("--") or len(name) == 1):
            raise LaunchError(_unknown(word, flags, file=file, torchx=torchx))
        if name in given:
            raise LaunchError(f"{file}: {word} is given twice")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise LaunchError(f"{file}: {word} wants a value")
            value = rest.pop(0)
        given[name] = value
    return given, rest


def help_text(file: str) -> str:
    """The help of `torchx run FILE.py --help`."""
    about, told = get_fn_docstring(component.recipe)
    parser = argparse.ArgumentParser(
        usage=f"torchx run [-s SCHEDULER] [-cfg KEY=VALUE,...] [--dryrun] {file} [arguments] [-- the script's own]",
        description=about,
        epilog=f"`torchx run {file} -- --help` tells the script's own arguments, `torchx run --help` TorchX's.",
        add_help=False,
    )
    arguments = parser.add_argument_group("arguments")
    for name in FLAGS:
        default = inspect.signature(component.recipe).parameters[name].default
        shown = f" (default: {default})" if default != "" else ""
        kind = _KINDS.get(name) or ("N" if isinstance(default, int) else "TEXT")
        arguments.add_argument(f"--{name.replace('_', '-')}", metavar=kind, help=told[name] + shown)
    return parser.format_help()


def _from_here(file: str, *, in_image: bool) -> str:
    """The path by which a job finds `file` that works in a copy of this directory, or in an image of it, or here."""
    place, here = Path(file).parent.resolve() / Path(file).name, Path.cwd().resolve()
    if place.is_relative_to(here):
        return str(place.relative_to(here))
    return file if in_image else str(place)


def _configured(file: str, sections: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, str], list[str]]:
    """The values and the script's words that `.torchxconfig` has under [component:FILE.py], however FILE.py is written."""
    section: dict[str, str] = {}
    for name, values in sections.items():
        if name.endswith(".py") and Path(name).resolve() == Path(file).resolve():
            for key, value in values.items():  # the first one wins: TorchX names the home directory's first
                section.setdefault(key.replace("-", "_"), value)
    own = shlex.split(section.pop("args", ""))
    values, _ = flags_and_rest(_spelled(section), FLAGS, file=f".torchxconfig, [component:{file}]:", torchx=())
    return values, ["--", *own] if own else []


def _refuse_cluster_flags(given: Mapping[str, str]) -> None:
    for name in given:
        if name in _LOCAL_LACKS:
            flag = f"--{name.replace('_', '-')}"
            raise LaunchError(f"local_cwd {_LOCAL_LACKS[name]}: leave out {flag}, or choose another scheduler with -s")


def _function_words(file: str, function: str, words: list[str], *, torchx: Collection[str]) -> list[str]:
    try:
        tree = ast.parse(Path(file).read_bytes(), file)
    except (SyntaxError, ValueError) as wrong:
        raise LaunchError(f"{file} is not Python: {wrong}") from wrong
    found = {node.name: node.args for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    if function not in found:
        near = difflib.get_close_matches(function, found, n=1)
        raise LaunchError(
            f"{file} has no function {function!r}" + (f"; did you mean {file}:{near[0]}?" if near else "")
        )
    if "--help" in words:
        return words  # TorchX prints it
    flags = [arg.arg for arg in (*found[function].args, *found[function].kwonlyargs)]
    given, rest = flags_and_rest(words, flags, file=f"{file}:{function}", torchx=torchx)
    return [*_spelled(given), *rest]


def _spelled(values: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _check_numbers(file: str, values: Mapping[str, str]) -> None:
    _ = Nodes(values.get("nodes", 1)).fewest_and_most
    for name, value in values.items():
        default = inspect.signature(component.recipe).parameters[name].default
        if isinstance(default, int) and not value.removeprefix("-").isdecimal():
            raise LaunchError(f"{file}: --{name.replace('_', '-')} wants a whole number, got {value!r}")


def _unknown(word: str, flags: Collection[str], *, file: str, torchx: Collection[str]) -> str:
    if word in torchx:
        return f"{word} is TorchX's own argument and stands before the file: torchx run {word} ... {file}"
    spelled = [f"--{flag.replace('_', '-')}" for flag in flags]
    near = difflib.get_close_matches(word.strip("-"), [flag[2:] for flag in spelled], n=1)
    remedy = f"did you mean --{near[0]}?" if near else f"it has {', '.join(spelled)}."
    return f"{file} has no argument {word}; {remedy} The script's own arguments follow `--`: {file} -- {word} ..."


def _missing(file: str) -> str:
    """What to say of a Python file that is not there: the nearest names that are."""
    places = dict.fromkeys([Path(file).parent, Path("recipes"), Path("recipes/data"), Path()])
    there = {str(path): path.name for place in places for path in sorted(place.glob("*.py"))}
    near = difflib.get_close_matches(Path(file).name, there.values(), n=3, cutoff=0.6)
    found = [path for path, name in there.items() if name in near]
    if found:
        return f"no file {file}; did you mean {' or '.join(found[:3])}?"
    others = f"here are {', '.join(list(there)[:8])}" if there else "recipes lie in `recipes/` of torchflava's checkout"
    return f"no file {file} in {Path.cwd()}; {others}"
