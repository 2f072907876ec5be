"""A recipe's own words are looked at before a job is made of them: a wrong flag costs a second, not a place in a queue.

A recipe takes part by a function `check(words, *, here)` at its top level, which ends the program where a word cannot be meant.
One whose words depend on it takes `ranks` too: how many processes the job may have.
"""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ASK = """
import inspect, os, runpy, sys
script, here, ranks, *words = sys.argv[1:]
told = {"here": here == "here", "ranks": [int(count) for count in ranks.split()]}
sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
sys.argv = [script, *words]
try:
    check = runpy.run_path(script, run_name="check")["check"]
    check(words, **{name: value for name, value in told.items() if name in inspect.signature(check).parameters})
except ModuleNotFoundError as error:
    print(f"the words after -- are looked at by the job alone: {error}", file=sys.stderr)
"""


def check(script: str, words: Sequence[str], *, here: bool, ranks: Sequence[int] = (1,)) -> None:
    """Let a recipe look at its words, if it has a `check` and is there; ends the program with 2 where it ends it.

    A machine that only submits jobs may lack what a check imports; the job then looks alone.

    Asked for its help, a recipe shows it here, and the program ends with 0: no job is needed for that.

    Args:
        script: the recipe's file.
        words: its own arguments.
        here: whether the job will see this machine's files, so that places can be looked at too.
        ranks: how many processes the job may have; several numbers if it may lose nodes and go on.
    """
    if not _has_check(Path(script)):
        return
    about = ["here" if here else "there", " ".join(map(str, ranks))]
    code = subprocess.run([sys.executable, "-c", _ASK, script, *about, *words]).returncode
    if code or {"-h", "--help"} & {*words}:
        sys.exit(2 if code else 0)


def _has_check(script: Path) -> bool:
    try:
        tree = ast.parse(script.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False  # in an image alone, or told by whoever runs it
    found = [node.args.kwonlyargs for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    return any(arg.arg == "here" for args in found for arg in args)  # another function of that name is the script's own
