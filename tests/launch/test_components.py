"""Every component is sound by TorchX's own test, and every recipe has one."""

import ast
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torchx.components.component_test_base import ComponentTestCase

ROOT = Path(__file__).parents[2]


def components() -> list[str]:
    """FILE:FUNCTION of all functions in the package's launching room and the recipes that answer an AppDef."""
    files = [*(ROOT / "torchflava" / "launch").glob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    found = []
    for file in sorted(files):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.returns is not None and not node.name.startswith("_"):
                returns = ast.unparse(node.returns).strip("'\"").split(".")[-1]
                if returns == "AppDef" and ast.get_docstring(node, clean=False) and node.args.vararg:
                    found.append(f"{file.relative_to(ROOT).as_posix()}:{node.name}")
    return found


def check(path: Path, function: str) -> None:
    """TorchX's validation of a component in a file, whose module is not run: TorchX reads the file."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)

    class Component(ComponentTestCase):  # type: ignore[misc]
        def runTest(self) -> None:
            self.validate(module, function)

    result = Component().run()
    assert result is not None
    assert result.wasSuccessful(), result.errors + result.failures


def test_there_are_the_package_s_and_the_recipes_own() -> None:
    assert {"torchflava/launch/recipe.py:recipe", "recipes/pretrain.py:pretrain"} <= set(components())


@pytest.mark.parametrize("component", components())
def test_torchx_finds_it_sound(
    component: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["torchx"])
    file, _, function = component.partition(":")
    check(ROOT / file, function)
    told = capsys.readouterr().out
    assert "--nodes" in told  # TorchX printed its help


def test_a_component_that_torchx_cannot_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from torchx.specs import AppDef\n"
        "def odd(*args: str, nodes=1) -> AppDef:\n"  # no type
        '    """Odd.\n\n    Args:\n        args: words\n        nodes: machines\n    """\n'
        "    return AppDef('odd')\n"
    )
    with pytest.raises(AssertionError, match="nodes"):
        check(tmp_path / "odd.py", "odd")
