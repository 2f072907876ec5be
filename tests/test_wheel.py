"""The wheel: what it holds, and that it works by itself, away from the checkout, beside no packages but those it asks for.

torch alone is gigabytes, so nothing is fetched: the clean environment is linked to those of this one's packages that the wheel's
requirements lead to, and sees no others.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import torchflava

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

SMOKE = """
import importlib, json, pkgutil, sys
import torchflava

names = [name for name in torchflava.__all__ if getattr(torchflava, name) is None]
rooms = [m.name for m in pkgutil.walk_packages(torchflava.__path__, "torchflava.") if importlib.import_module(m.name) is None]

import torch
from torchflava.batch import ImageBatch
from torchflava.losses import mean_losses

model = torchflava.flava_for_pretraining(torchflava.flava_model("tiny", image_size=32, patch_size=8), num_codes=16)
output = model.flava(torch.randn(2, 3, 32, 32), torch.randint(1, 999, (2, 7)))
masked = torch.zeros(2, 16, dtype=torch.bool)
masked[:, 3] = True
at = torch.full((2, 1), 3)
mean_losses(model(ImageBatch(torch.randn(2, 3, 32, 32), masked, at, at)))["mim"].backward()
print(json.dumps({
    "file": torchflava.__file__, "version": torchflava.__version__, "missing": names + rooms,
    "fused": list(output.fused.cls.shape), "learns": bool(model.mim.decoder.weight.grad.any()),
    "others": [name for name in ("pytest", "transformers", "timm", "hypothesis") if importlib.util.find_spec(name)],
}))
"""


def test_the_version_stands_in_two_places() -> None:
    assert PYPROJECT["project"]["version"] == torchflava.__version__


def tracked() -> list[str]:
    """The files of the checkout that a wheel may be built from."""
    names = ["pyproject.toml", "README.md", "LICENSE"]
    return names + [str(p.relative_to(ROOT)) for p in (ROOT / "torchflava").rglob("*") if p.suffix in (".py", ".typed")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout, by the setuptools that is here if it is new enough."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (builds,) = map(Requirement, PYPROJECT["build-system"]["requires"])
    here = [found for found in Distribution.discover(name=builds.name) if builds.specifier.contains(found.version)]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out)]
    run(copy, *command, *(["--no-build-isolation"] if here else []), ".")
    (built,) = out.glob("torchflava-*.whl")
    return built


def run(folder: Path, *command: str) -> str:
    """What a command prints, in an environment without this checkout."""
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def asked_for(lines: list[str]) -> dict[str, Distribution]:
    """The packages that requirements lead to, each of a version that was asked for."""
    found: dict[str, Distribution] = {}
    todo = [(Requirement(line), frozenset[str]()) for line in lines]
    seen = set()
    while todo:
        wanted, extras = todo.pop()
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        there = distribution(wanted.name)
        assert wanted.specifier.contains(there.version, prereleases=True), (
            f"{wanted} is asked for, {there.version} is here"
        )
        found[canonicalize_name(wanted.name)] = there
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key not in seen:
            seen.add(key)
            todo += [(Requirement(line), key[1]) for line in there.requires or ()]
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a clean environment with the wheel and what it asks for."""
    folder, linked = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("linked")
    run(folder, sys.executable, "-m", "venv", "--without-pip", "venv")
    python = folder / "venv/bin/python"
    run(folder, sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel))
    with zipfile.ZipFile(wheel) as file:
        (metadata,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        head = file.read(metadata).decode().partition("\n\n")[0]
    lines = [line.removeprefix("Requires-Dist: ") for line in head.splitlines() if line.startswith("Requires-Dist: ")]
    for there in asked_for(lines).values():
        for top in {file.parts[0] for file in there.files or ()} - {"..", "__pycache__"}:
            if not (linked / top).is_symlink():
                (linked / top).symlink_to(Path(str(there.locate_file(top))).resolve())
    site = run(folder, str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site) / "linked.pth").write_text(f"{linked}\n")
    return python


@pytest.mark.slow
def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        about = {name.partition(".dist-info/")[2] for name in file.namelist()} - {""}
    assert names == {name for name in tracked() if name.startswith("torchflava/")}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= about


@pytest.mark.slow
def test_it_works_away_from_the_checkout(python: Path, tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, str(python), "-W", "error", "-c", SMOKE).splitlines()[-1])
    assert Path(found["file"]).is_relative_to(python.parents[1])
    assert found["version"] == torchflava.__version__
    assert (found["missing"], found["others"]) == ([], [])
    assert found["fused"] == [2, 64]
    assert found["learns"]


@pytest.mark.slow
def test_torchx_finds_its_commands(python: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('a recipe')")
    torchx = [str(python), "-m", "torchx.cli.main"]
    shown = run(tmp_path, *torchx, "run", "-s", "local_cwd", "--dryrun", "mine.py", "--procs", "2")
    assert "torchflava.launch.torchrun" in shown
    assert "--nproc-per-node 2" in shown
