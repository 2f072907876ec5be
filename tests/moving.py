"""The tables of the pages on moving, and how a name in them is looked up in a library."""

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from torch import nn

DOCS = Path(__file__).parents[1] / "docs"
_NAME = re.compile(r"`([^`]+)`")


def tables(page: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The head and the rows of each table of a page."""
    for table in re.findall(r"(?:^\|.*\|$\n)+", (DOCS / page).read_text(), re.M):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        yield head, rows


def names(page: str, *, tensors: bool) -> list[tuple[list[str], list[str]]]:
    """What each row names, of theirs and of ours: of tensors in files, or of all else."""
    found = []
    for head, rows in tables(page):
        if head[0].startswith("in ") == tensors:
            found += [(_NAME.findall(row[0]), _NAME.findall(row[1])) for row in rows]
    return found


def missing(name: str, modules: Sequence[ModuleType], wholes: Sequence[nn.Module] = ()) -> str:
    """Why a name is not there, else nothing: `Class`, `Class.attribute`, `function(argument)`, `Class.method(argument)`.

    Args:
        name: the name.
        modules: where it may stand.
        wholes: modules that are built, for attributes that a class has only then.
    """
    path, _, argument = name.removesuffix(")").partition("(")
    first, *rest = path.split(".")
    thing = next((getattr(module, first) for module in modules if hasattr(module, first)), None)
    if thing is None:
        return f"{first} is in none of {[module.__name__ for module in modules]}"
    for part in rest:
        built = [whole for whole in wholes if type(whole).__name__ == first and hasattr(whole, part)]
        told = part in getattr(thing, "__annotations__", {}) or part in getattr(thing, "__dataclass_fields__", {})
        if not (hasattr(thing, part) or built or told):
            return f"{first} has no {part}"
        thing = getattr(thing, part, None) or (getattr(built[0], part) if built else None)
    if argument and argument not in inspect.signature(thing).parameters:
        return f"{path} takes no {argument}"
    return ""
