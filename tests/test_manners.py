"""Importing prints nothing, opens nothing and is lazy; every name that is offered is there; a typo is an error."""

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import torchflava

ROOT = Path(__file__).parents[1]
ROOMS = sorted(f"torchflava.{m.name}" for m in pkgutil.iter_modules(torchflava.__path__) if m.ispkg)

# Runs in a fresh interpreter: notes what is opened and connected to while everything is imported.
IMPORT_ALL = """
import importlib, json, sys

PACKAGE, HEAVY, names = json.loads(sys.argv[1])
opened, connected, started = [], [], []

def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = str(arguments[0])
        writes = isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+")
        if path.startswith(PACKAGE) and not path.endswith((".py", ".pyc")) or writes and path != "/dev/null":
            opened.append([path, arguments[1]])
    elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request"):
        connected.append(event)
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        started.append(str(arguments[0]))

import torchflava
bare = [name for name in HEAVY if name in sys.modules]
launch = [name for name in names if name.startswith("torchflava.launch")]
sys.addaudithook(note)
for name in launch:
    importlib.import_module(name)
light = [name for name in HEAVY if name in sys.modules]
import torch, torchvision
state = torch.random.get_rng_state()
threads = torch.get_num_threads()
dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
opened.clear(), connected.clear(), started.clear()
for name in names:
    importlib.import_module(name)
calm = (torch.equal(state, torch.random.get_rng_state()) and threads == torch.get_num_threads()
        and dtype == torch.get_default_dtype() and grad == torch.is_grad_enabled()
        and not torch.distributed.is_initialized())
print(json.dumps({"bare": bare, "launch": launch, "light": light, "opened": opened, "connected": connected,
                  "started": started, "calm": calm, "names": names}))
"""
HEAVY = ["torch", "torchvision", "torchmetrics", "torchdata", "numpy", "transformers"]


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What importing everything did."""
    files = sorted((ROOT / "torchflava").rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    told = json.dumps([str(ROOT / "torchflava"), HEAVY, names])
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error::DeprecationWarning:torchflava", "-c", IMPORT_ALL, told],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "importing says something"
    lines = done.stdout.splitlines()
    assert len(lines) == 1, f"importing prints {lines[:-1]}"
    return json.loads(lines[0])


def test_importing_torchflava_does_not_import_torch(imported: dict[str, Any]) -> None:
    assert imported["bare"] == []


def test_importing_launch_does_not_import_torch(imported: dict[str, Any]) -> None:
    assert "torchflava.launch" in imported["launch"]
    assert [name for name in imported["light"] if name != "numpy"] == []


def test_building_models_and_reading_data_import_neither_torchvision_nor_the_compiler() -> None:
    """They take seconds each: ten times as long as this package's own modules."""
    rooms = ", ".join(f"torchflava.{room}" for room in ("models", "encoders", "heads", "losses", "data", "transforms"))
    program = f"import sys, torch, {rooms}; print([x for x in ('torchvision', 'torch._dynamo') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_importing_opens_no_file_no_socket_and_no_process(imported: dict[str, Any]) -> None:
    assert {"torchflava.models.pretraining", "torchflava.layers.norm"} <= set(imported["names"])
    assert imported["opened"] == []
    assert imported["connected"] == []
    assert imported["started"] == []


def test_importing_leaves_torch_as_it_was(imported: dict[str, Any]) -> None:
    assert imported["calm"], "the generator, the threads, the default type or the process group was touched"


def test_every_name_of_the_front_door_opens() -> None:
    assert len(set(torchflava.__all__)) == len(torchflava.__all__)
    assert {"__version__", "flava_model"} < set(torchflava.__all__)
    assert dir(torchflava) == sorted(torchflava.__all__)
    for name in torchflava.__all__:
        assert getattr(torchflava, name) is not None


def test_the_front_door_tells_types_and_names_alike() -> None:
    """What a type checker sees is what is loaded, from the same rooms."""
    tree = ast.parse((ROOT / "torchflava/__init__.py").read_text())
    (typed,) = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    seen = {alias.asname: node.module for node in typed.body for alias in node.names}
    assert {name: f"torchflava.{room}" for name, room in torchflava._HOME.items()} == seen


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"torchflava has no 'flava_modl'; its names are Batch, .*flava_model"):
        torchflava.flava_modl  # noqa: B018
    with pytest.raises(ImportError):
        from torchflava import flava_modl  # noqa: F401


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_room_opens(room: str) -> None:
    module = importlib.import_module(room)
    offered = getattr(module, "__all__", [])
    assert len(set(offered)) == len(offered)
    for name in offered:
        assert hasattr(module, name), name
    if room in (
        "torchflava.layers",
        "torchflava.encoders",
        "torchflava.heads",
        "torchflava.losses",
        "torchflava.models",
    ):
        assert offered == sorted(offered, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def public() -> dict[str, Any]:
    """All that rooms offer and that can be called."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", []):
            if callable(getattr(module, name)) and not hasattr(getattr(module, name), "__origin__"):
                found[f"{room}.{name}"] = getattr(module, name)
    return found


def test_no_public_signature_takes_any_keyword() -> None:
    loose = []
    for name, thing in public().items():
        own = thing.__init__ if inspect.isclass(thing) and "__init__" in vars(thing) else thing
        if inspect.isclass(own) or getattr(thing, "_is_protocol", False):
            continue
        kinds = {parameter.kind for parameter in inspect.signature(own).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD in kinds:
            loose.append(name)
    assert loose == []


@pytest.mark.parametrize("name", [name for name in torchflava.__all__ if name.startswith("flava_")])
def test_a_typo_in_a_builder_is_a_type_error(name: str) -> None:
    builder = getattr(torchflava, name)
    due = [p.name for p in inspect.signature(builder).parameters.values() if p.default is inspect.Parameter.empty]
    with pytest.raises(TypeError, match="unexpected keyword argument 'no_such_option'"):
        builder(**dict.fromkeys(due, 3), no_such_option=3)


def test_a_seed_makes_a_model() -> None:
    def drawn(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return torchflava.flava_model("tiny", image_size=32, vocab_size=101).state_dict()

    first, again, other = drawn(3), drawn(3), drawn(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image_projection.weight"], other["image_projection.weight"])
