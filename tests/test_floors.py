"""Imports point down: the house's floors, read off the source; and that a breach is seen."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    **dict.fromkeys(("batch", "distributed", "files", "stores"), 0),
    **dict.fromkeys(("layers", "losses", "transforms", "training"), 1),
    **dict.fromkeys(("data", "encoders", "codebooks", "heads", "evaluation"), 2),
    **dict.fromkeys(("models", "tasks"), 3),
}
ONE_ROOM = {
    **dict.fromkeys(("pickled", "stored", "streams", "zipped"), "files"),
    **dict.fromkeys(("convert", "export"), "models"),
}
"""Files of one room that stand beside each other instead of in a folder."""
APART = "launch"
FRONT_DOOR = "__init__"
LAUNCH_MAY_IMPORT = {"torchx", "yaml", "kubernetes", "docker", "urllib3", "fsspec", "tyro", "torchflava"}
"""Beside the standard library: a login node has no torch."""
ON_A_NODE = {"torchrun.py", "worker.py"}
"""Files of launch that also run in a job's processes; inside functions they may import torch."""
KNOW_RANKS = {"distributed", "training", "losses", "data", "evaluation"}
"""House style 28; `data` and `evaluation` ask `torchflava.distributed` for rank and sums (amendment 14)."""
NAMES_ONLY = {("models", "Gather")}
"""What others may take from `torchflava.distributed`: the name of a type."""


class Import:
    """One module that a file imports: its dotted name, what is taken from it, and where."""

    def __init__(self, module: str, names: tuple[str, ...], file: Path, node: ast.stmt) -> None:
        self.module, self.names, self.at = module, names, f"{file.name}:{node.lineno}"
        self.runs_on_a_node = file.name in ON_A_NODE and node.col_offset > 0

    @property
    def room(self) -> str | None:
        """The folder or file of torchflava that is entered, if one is."""
        parts = self.module.split(".")
        return ONE_ROOM.get(parts[1], parts[1]) if parts[0] == "torchflava" and len(parts) > 1 else None


def imports_of(file: Path, package: Path) -> Iterator[Import]:
    """Everywhere in a file, functions and `if TYPE_CHECKING` included; relative ones spelled out."""
    inside = ("torchflava", *file.relative_to(package).with_suffix("").parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), file, node)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if module == "torchflava":  # from torchflava import models
                for alias in node.names:
                    yield Import(f"torchflava.{alias.name}", (), file, node)
            else:
                yield Import(module, tuple(alias.name for alias in node.names), file, node)


def room_of(file: Path, package: Path) -> str:
    name = file.relative_to(package).parts[0].removesuffix(".py")
    return ONE_ROOM.get(name, name)


def breaches(package: Path) -> list[str]:
    """What in a package breaks the rules, one sentence each."""
    found = []
    for file in sorted(package.rglob("*.py")):
        room = room_of(file, package)
        if room == FRONT_DOOR:
            continue
        if room != APART and room not in FLOORS:
            found.append(f"{room} stands on no floor; give it one")
            continue
        for entry in imports_of(file, package):
            told = f"{room} ({entry.at}) imports {entry.module}"
            if room == APART:
                found += _of_launch(entry, told)
            else:
                found += _of_floor(room, entry, told)
    return found


def _of_launch(entry: Import, told: str) -> list[str]:
    top = entry.module.split(".")[0]
    if top == "torchflava" and entry.room not in (APART, "__version__", None):
        return [f"{told}: launch enters no other room"]
    if top == "torch" and entry.runs_on_a_node:
        return []
    if top not in LAUNCH_MAY_IMPORT and top not in sys.stdlib_module_names:
        return [f"{told}: a login node may not have it"]
    return []


def _of_floor(room: str, entry: Import, told: str) -> list[str]:
    top, other = entry.module.split(".")[0], entry.room
    if top in ("recipes", "tests", "benchmarks"):
        return [f"{told}: nothing imports {top}"]
    if top == "torchflava" and other is None:
        return [f"{told}: the front door leads up; import from the room"]
    if entry.module.startswith("torch.distributed") and room not in ("distributed", "training"):
        return [f"{told}: only distributed and training talk to other ranks"]
    if (
        other == "distributed"
        and room not in KNOW_RANKS
        and not all((room, name) in NAMES_ONLY for name in entry.names)
    ):
        return [f"{told}: it may not know of other ranks"]
    if other in (None, room, "__version__"):
        return []
    if other == APART:
        return [f"{told}: launch stands apart"]
    if other not in FLOORS:
        return [f"{told}: {other} stands on no floor"]
    if FLOORS[other] >= FLOORS[room]:
        return [f"{told}: floor {FLOORS[room]} from floor {FLOORS[other]}"]
    return []


def test_imports_point_down() -> None:
    assert breaches(ROOT / "torchflava") == []


def test_the_front_door_imports_nothing_when_it_is_opened() -> None:
    """Names come in lazily (PEP 562): `torchflava.launch` needs no torch."""
    tree = ast.parse((ROOT / "torchflava/__init__.py").read_text())
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in at_once}
    assert modules <= {"importlib", "typing"}


def test_rooms_of_the_house_exist_where_the_map_says() -> None:
    there = {room_of(file, ROOT / "torchflava") for file in (ROOT / "torchflava").rglob("*.py")}
    assert {
        "batch",
        "distributed",
        "layers",
        "losses",
        "training",
        "encoders",
        "heads",
        "models",
        "tasks",
        APART,
    } <= there


@pytest.mark.parametrize(
    ("file", "line", "breach"),
    [
        ("heads/masked.py", "from torchflava.models import flava_model", "floor 2 from floor 3"),
        ("heads/masked.py", "import torchflava.models.flava", "floor 2 from floor 3"),
        ("heads/masked.py", "from torchflava import models", "floor 2 from floor 3"),
        ("heads/masked.py", "from ..models import flava_model", "floor 2 from floor 3"),
        ("heads/masked.py", "from .. import models", "floor 2 from floor 3"),
        ("heads/masked.py", "def f():\n    from torchflava.models import flava_model", "floor 2 from floor 3"),
        ("heads/masked.py", "if TYPE_CHECKING:\n    from torchflava.models import Flava", "floor 2 from floor 3"),
        ("heads/masked.py", "from torchflava.encoders import Encoded", "floor 2 from floor 2"),
        ("layers/rows.py", "from torchflava.losses import Loss", "floor 1 from floor 1"),
        ("files.py", "from torchflava.batch import IGNORE", "floor 0 from floor 0"),
        ("batch.py", "import torchflava.layers", "floor 0 from floor 1"),
        ("models/flava.py", "from torchflava.tasks import perform", "floor 3 from floor 3"),
        ("training/run.py", "from torchflava.models import Flava", "floor 1 from floor 3"),
        ("models/flava.py", "from torchflava import Flava", "Flava stands on no floor"),
        ("models/flava.py", "import torchflava", "the front door leads up"),
        ("models/flava.py", "from torchflava.launch import cli", "launch stands apart"),
        ("models/flava.py", "from recipes.presets import tiny", "nothing imports recipes"),
        ("models/flava.py", "import torch.distributed as dist", "only distributed and training talk to other ranks"),
        ("losses/total.py", "from torch.distributed.nn import functional", "only distributed and training talk"),
        ("layers/rows.py", "from torchflava.distributed import rank", "may not know of other ranks"),
        ("models/flava.py", "from torchflava.distributed import Gather, gather", "may not know of other ranks"),
        ("launch/cli.py", "import torch", "a login node may not have it"),
        ("launch/cli.py", "def f():\n    import numpy", "a login node may not have it"),
        ("launch/cli.py", "from torchflava.batch import IGNORE", "launch enters no other room"),
        ("attic/old.py", "import os", "attic stands on no floor"),
    ],
)
def test_a_breach_is_seen(tmp_path: Path, file: str, line: str, breach: str) -> None:
    path = tmp_path / "torchflava" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    found = breaches(tmp_path / "torchflava")
    assert len(found) == 1
    assert breach in found[0]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/flava.py", "from torchflava.heads import MatchHead"),
        ("models/pretraining.py", "from torchflava.distributed import Gather"),
        ("models/flava.py", "from torchflava.models.sizes import SIZES"),
        ("models/flava.py", "from .sizes import SIZES"),
        ("losses/total.py", "from torchflava.distributed import sum_over_ranks"),
        ("data/mixture.py", "from torchflava.distributed import rank, world_size"),
        ("training/run.py", "import torch.distributed as dist"),
        ("launch/cli.py", "import argparse\nfrom torchx.specs import AppDef\nfrom torchflava.launch.ddp import dist"),
        ("tasks/glue.py", "from torchflava.evaluation import accuracy\nimport numpy"),
        ("__init__.py", "from torchflava.models import Flava"),
    ],
)
def test_what_the_house_allows(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / "torchflava" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n")
    assert breaches(tmp_path / "torchflava") == []
