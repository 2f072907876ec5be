"""The house's rules that a reader of the source can check; every exception is named, and must still be one."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "torchflava").rglob("*.py"))
SCRIPTS = sorted((ROOT / "recipes").rglob("*.py"))
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

LONG_FILES: set[str] = set()
"""Files of more than 300 lines: path."""
LONG_FUNCTIONS = {"recipes/pretrain.py:main"}
"""Functions of more than 40 lines: path:qualified name. The loop of a recipe is to be seen whole."""
MANY_ARGUMENTS = {"torchflava/launch/recipe.py:recipe"}
"""Functions of more than 8 arguments: each of a component's is a flag of `torchx run`."""
POSITIONAL = {
    "torchflava/launch/slurm.py:Slurm.log_iter": "TorchX's signature",
    "torchflava/transforms/text.py:BERTTokenizer.__init__": "torchtext's signature",
    "torchflava/transforms/text.py:MaskTransform.__init__": "torchtext's signature",
    "torchflava/data/prepare.py:prepare": "amendment 4",
    "torchflava/launch/kubernetes.py:Kubernetes.log_iter": "TorchX's Scheduler.log_iter",
}
"""Functions of the package of more than 3 arguments that can be given by position, and who prescribes it."""
ANY_KEYWORD = {
    "torchflava/launch/kubernetes.py:create_scheduler",
    "torchflava/launch/slurm.py:create_scheduler",
}
"""Public functions with **kwargs, which a library's interface asks for (amendment 14)."""
GLOBAL_GENERATOR = {
    "torchflava/layers/init.py:init_weights": "weights are drawn from torch's generator, which `manual_seed` seeds",
    "torchflava/layers/init.py:init_by_fan_in": "the same",
    "torchflava/tasks/kitti.py:image_numbers": "a RandomState of its own, seeded: the draw that made the published split",
    "torchflava/training/initialise.py:initialise": "the same, keyed by name; what stood there before is put back",
    "torchflava/training/checkpoint.py:load_checkpoint": "puts back what a user's own part had drawn from",
    "torchflava/training/run.py:session": "seeds all generators once, for a user's own part",
}
"""Functions that may touch a global generator, and why."""
PRINTS: set[str] = {
    "torchflava/training/meter.py:Meter._speak",
    "torchflava/convert.py:main",
    "torchflava/export.py:main",
}
"""Functions that print."""
VAGUE = re.compile(r"(^|_)(utils?|helpers?|managers?|info|tmp|misc|common)(_|$)")
"""Words that say nothing (style 10)."""


@cache
def parsed(text: str) -> ast.Module:
    """Each file is asked many things."""
    return ast.parse(text)


def functions(file: Path) -> Iterator[tuple[str, Function]]:
    """All functions of a file with their qualified names, methods and inner ones included."""

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{inside}{child.name}", child
                yield from walk(child, f"{inside}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{inside}{child.name}.")
            else:
                yield from walk(child, inside)

    for name, node in walk(parsed(file.read_text()), ""):
        yield f"{relative(file)}:{name}", node


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


def num_lines(node: Function) -> int:
    """From `def` to the end, without the docstring."""
    first = node.body[0]
    told = ast.get_docstring(node) is not None
    return node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if told else 0)


def arguments(node: Function) -> tuple[list[str], list[str]]:
    """Those by position and those by keyword alone, without self."""
    by_position = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    if by_position[:1] in (["self"], ["cls"]):
        by_position = by_position[1:]
    return by_position, [a.arg for a in node.args.kwonlyargs]


def is_public(name: str) -> bool:
    """No part of the name begins with an underscore; __init__ and __call__ are public where their class is."""
    parts = name.split(":")[1].split(".")
    return not any(p.startswith("_") and p not in ("__init__", "__call__", "__new__") for p in parts)


def found_in(files: list[Path], breaks: Callable[[str, Function], bool]) -> set[str]:
    return {name for file in files for name, node in functions(file) if breaks(name, node)}


def too_long(name: str, node: Function) -> bool:
    return num_lines(node) > 40


def too_many(name: str, node: Function) -> bool:
    return sum(map(len, arguments(node))) > 8


def too_many_by_position(name: str, node: Function) -> bool:
    return len(arguments(node)[0]) > 3 and is_public(name)


def takes_anything(name: str, node: Function) -> bool:
    return node.args.kwarg is not None and is_public(name)


def test_files_hold_at_most_300_lines() -> None:
    long = {relative(file) for file in (*PACKAGE, *SCRIPTS) if len(file.read_text().splitlines()) > 300}
    assert long == LONG_FILES


@pytest.mark.parametrize(
    ("breaks", "files", "exceptions"),
    [
        (too_long, [*PACKAGE, *SCRIPTS], LONG_FUNCTIONS),
        (too_many, [*PACKAGE, *SCRIPTS], MANY_ARGUMENTS),
        (too_many_by_position, PACKAGE, set(POSITIONAL)),
        (takes_anything, [*PACKAGE, *SCRIPTS], ANY_KEYWORD),
    ],
)
def test_functions_are_small_and_their_arguments_few_and_named(
    breaks: Callable[[str, Function], bool], files: list[Path], exceptions: set[str]
) -> None:
    assert found_in(files, breaks) == exceptions


# Randomness: of numpy only Generator and its makers; of random only Random; of torch only with a generator.
OF_NUMPY = {"Generator", "Philox", "PCG64", "SeedSequence", "BitGenerator", "default_rng"}
OF_TORCH = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "rand_like", "randn_like",
            "randint_like", "poisson", "manual_seed", "seed", "set_rng_state"}  # fmt: skip
IN_PLACE = {"uniform_", "normal_", "random_", "bernoulli_", "exponential_", "geometric_", "cauchy_", "log_normal_",
            "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_",
            "orthogonal_"}  # fmt: skip


def draws_globally(call: ast.Call) -> str | None:
    """What is called, if it draws from (or seeds) a generator that belongs to everyone."""
    dotted = ast.unparse(call.func)
    *front, last = dotted.split(".")
    keywords = {word.arg for word in call.keywords}
    if front in (["np", "random"], ["numpy", "random"]) and last not in OF_NUMPY:
        return dotted
    if (front, last) == (["np", "random"], "default_rng") and not call.args and not call.keywords:
        return dotted
    if front == ["random"] and last not in ("Random",):
        return dotted
    if front in (["torch"], ["torch", "cuda"]) and last in OF_TORCH and "generator" not in keywords:
        return dotted
    if front and last in IN_PLACE and "generator" not in keywords:
        return dotted
    return None


def global_draws(file: Path) -> dict[str, str]:
    """The functions of a file that use a global generator, and by what."""
    found = {}
    in_functions: set[int] = set()
    for name, node in functions(file):
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        in_functions |= {id(call) for call in calls}
        for call in calls:
            if (what := draws_globally(call)) is not None:
                found[name] = what
    tree = parsed(file.read_text())
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and (what := draws_globally(call)) is not None:
            inside = any(call.lineno >= n.lineno and call.end_lineno <= n.end_lineno for _, n in functions(file))
            if not inside:
                found[f"{relative(file)}:module"] = what
    return found


def test_no_global_generator_is_used() -> None:
    found = {name: what for file in (*PACKAGE, *SCRIPTS) for name, what in global_draws(file).items()}
    assert set(found) == set(GLOBAL_GENERATOR), found


def test_the_package_does_not_print() -> None:
    def prints(name: str, node: Function) -> bool:
        return any(isinstance(c, ast.Call) and ast.unparse(c.func) == "print" for c in ast.walk(node))

    found = {name for name in found_in(PACKAGE, prints) if not name.startswith("torchflava/launch/")}
    assert found == PRINTS


def test_nothing_in_the_model_reads_a_value_back_to_the_host() -> None:
    """Style 22 and 25: no .item(), .cpu(), .tolist(), .numpy(), .data; the CPU's check of ids is made with aminmax."""
    read = []
    for room in ("layers", "encoders", "heads", "losses", "models"):
        for file in sorted((ROOT / "torchflava" / room).glob("*.py")):
            for node in ast.walk(parsed(file.read_text())):
                called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr
                if called in ("item", "cpu", "tolist", "numpy", "nonzero") or (
                    isinstance(node, ast.Attribute) and node.attr == "data"
                ):
                    read.append(f"{relative(file)}:{node.lineno}")
    assert read == []


def test_modules_open_with_a_sentence_and_public_names_are_told() -> None:
    untold = []
    for file in PACKAGE:
        tree = parsed(file.read_text())
        if not ast.get_docstring(tree) and file.read_text().strip():
            untold.append(relative(file))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                untold.append(f"{relative(file)}:{node.name}")
        for name, node in functions(file):
            inner = name.split(":")[1]
            short = inner.rsplit(".", 1)[-1]
            told_by_class = short == "__init__" or (short == "forward" and inner.count(".") == 1)
            if is_public(name) and not told_by_class and not ast.get_docstring(node) and "<" not in inner:
                nested = any(other != name and name.startswith(f"{other}.") for other, _ in functions(file))
                untold += [] if nested else [name]
    assert untold == []


def test_names_of_files_say_something() -> None:
    assert [relative(file) for file in (*PACKAGE, *SCRIPTS) if VAGUE.search(file.stem)] == []


def test_no_two_modules_of_the_tests_have_one_name() -> None:
    """pytest imports them by it alone, and the second of two is an error in CI."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_what_is_left_to_do_has_a_number() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#\d+\)| #\d+)")
    assert [relative(file) for file in (*PACKAGE, *SCRIPTS) if marks.search(file.read_text())] == []


def test_the_order_of_the_data_asks_for_no_rank() -> None:
    """Style 27: the kind of a batch depends on step and seed alone; the order may not ask who it works for."""
    assert "torchflava.distributed" not in (ROOT / "torchflava/data/order.py").read_text()


BAD = '''
import random
import numpy as np
import torch
from torch import nn

random.shuffle([1])

class Part:
    def build(self, a, b, c, d, **kwargs):
        np.random.seed(0)

    def draw(self, *, a, b, c, d, e, f, g, h, i):
        return torch.rand(3)

def fill(x, generator):
    x.normal_()
    nn.init.trunc_normal_(x)

def fresh():
    return np.random.default_rng()

def fine(x, generator, rng):
    x.normal_(generator=generator)
    torch.randperm(3, generator=generator)
    rng.random()
    return np.random.Generator(np.random.Philox(key=3)), random.Random(3), np.random.default_rng(3)

def long():
    """
    Told.
    """
''' + "    x = 1\n" * 40  # fmt: skip


def test_breaches_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(BAD)
    assert found_in([file], too_long) == {"bad.py:long"}
    assert found_in([file], too_many) == {"bad.py:Part.draw"}
    assert found_in([file], too_many_by_position) == {"bad.py:Part.build"}
    assert found_in([file], takes_anything) == {"bad.py:Part.build"}
    assert global_draws(file) == {
        "bad.py:module": "random.shuffle",
        "bad.py:Part.build": "np.random.seed",
        "bad.py:Part.draw": "torch.rand",
        "bad.py:fill": "nn.init.trunc_normal_",
        "bad.py:fresh": "np.random.default_rng",
    }
