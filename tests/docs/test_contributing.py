"""The pages of docs/contributing/ do what they say: each is followed file by file in a copy of the checkout, which then passes.

A page names a file in a paragraph that begins with it, in backquotes, and ends with a colon. Python under it is the whole of a
new file; a diff is applied to the one that is there, found by its unchanged lines.
"""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from commands import commands_in
from pages import ROOT, code_on

FOLLOWED = ["part", "data_source", "task", "loss"]  # docs/contributing/part.md and so on
STEP = re.compile(r"^(?:`(?P<file>[\w./]+)`[^\n]*:\n\n)?```(?P<kind>python|diff)\n(?P<text>.*?)^```$", re.S | re.M)
HOUSE = ["tests/test_house.py", "tests/test_floors.py", "tests/test_manners.py"]


def follow(page: str, checkout: Path) -> list[str]:
    """Do in a checkout what a page says; the files that it makes or changes.

    Raises:
        AssertionError: for a diff whose unchanged lines the file does not have, exactly once.
    """
    touched: list[str] = []
    for step in STEP.finditer((ROOT / f"docs/contributing/{page}.md").read_text()):
        touched += [step["file"]] if step["file"] else []
        file = checkout / touched[-1]
        if step["kind"] == "python":
            assert not file.exists(), f"{page}.md makes {touched[-1]}, which is there"
            file.write_text(step["text"])
            continue
        lines = step["text"].splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        found = file.read_text().count(before)
        assert found == 1, (
            f"{page}.md: {touched[-1]} has the lines of a diff {found} times; bring the page up to date:\n{before}"
        )
        file.write_text(file.read_text().replace(before, after))
    return touched


def words_of(page: str) -> list[list[str]]:
    """The commands of a page."""
    return [
        words
        for block in code_on(f"docs/contributing/{page}.md")
        if block.language == "sh"
        for words in commands_in(block.source)
    ]


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which all pages were followed, one after the other."""
    checkout = tmp_path_factory.mktemp("contributing")
    for name in ("torchflava", "recipes", "tests", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".torchxconfig"):
        shutil.copy(ROOT / name, checkout / name)
    if (ROOT / ".mypy_cache").is_dir():  # what mypy knows of torch takes it half a minute
        shutil.copytree(ROOT / ".mypy_cache", checkout / ".mypy_cache")
    for page in FOLLOWED:
        follow(page, checkout)
    return checkout


def run(checkout: Path, *words: str) -> None:
    around = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *words], cwd=checkout, env=around, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", FOLLOWED)
def test_each_page_can_be_followed_by_itself_and_names_what_it_makes(page: str, tmp_path: Path) -> None:
    text = (ROOT / f"docs/contributing/{page}.md").read_text()
    files = [step["file"] for step in STEP.finditer(text) if step["file"]]
    assert len(re.findall(r"^```(?:python|diff)$", text, re.M)) == len(STEP.findall(text))
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, tmp_path / file)
    assert {*follow(page, tmp_path)} == {*files}
    tests = {word for words in words_of(page) if words[0] == "pytest" for word in words[1:]}
    assert tests >= {*HOUSE, *(file for file in files if re.search(r"/test_\w+\.py$", file))}


@pytest.mark.slow
def test_what_the_pages_make_is_as_the_house_wants_it(followed: Path) -> None:
    run(followed, "ruff", "format", "--check", ".")
    run(followed, "ruff", "check", ".")
    run(followed, "mypy")


@pytest.mark.slow
def test_the_tests_of_the_pages_and_of_the_house_pass_on_it(followed: Path) -> None:
    named = dict.fromkeys(
        word
        for page in FOLLOWED
        for words in words_of(page)
        if words[0] == "pytest" and "tests/recipes/test_probe_runs.py" not in words  # half a minute
        for word in words[1:]
    )
    run(followed, "pytest", "-n", "0", "-q", "--junitxml", str(followed / "ran.xml"), *named)
    ran = {case.get("classname", "").rpartition(".")[2] for case in ET.parse(followed / "ran.xml").iter("testcase")}
    assert ran >= {Path(file).stem for file in named}
