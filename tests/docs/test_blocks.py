"""Every code block of README.md, CONTRIBUTING.md and docs/: Python runs, commands are read by their programs, data is parsed.

A new page is taken up by itself. `given.py` gives a page what it takes for granted, `commands.py` reads commands.
"""

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import WORDS_OF_THE_SHELL, WrongCommandError, commands_in, read
from given import COMMANDS, ELSEWHERE, GIVEN, NEEDS, NOT_RUN, SLOW
from pages import ALL, DATA, PAGES, ROOT, SHELL, Block, blocks_in, code_on
from small_files import small_files

PYTHON = [page for page in PAGES if page not in ELSEWHERE and any(b.language == "python" for b in code_on(page))]
SHELLS = [block for block in ALL if block.language in SHELL]


def reason_against(block: Block) -> str | None:
    """Why a block is not run, if it is not."""
    return next(
        (why for (page, start), why in NOT_RUN.items() if block.page == page and block.source.startswith(start)), None
    )


def run_page(page: str, blocks: list[Block], folder: Path) -> None:
    """Run Python from top to bottom; what fails is told by the line of the page."""
    names: dict[str, Any] = {"__name__": "__page__", **GIVEN.get(page, lambda folder: {})(folder)}
    for block in blocks:
        if block.language != "python" or reason_against(block):
            continue
        try:
            exec(compile("\n" * (block.line - 1) + block.source, page, "exec"), names)
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == page]
            line = frames[-1].lineno if frames else getattr(error, "lineno", block.line)
            raise AssertionError(
                f"{page}:{line}: {type(error).__name__}: {error}\nIf the page speaks of what a reader has, give it that by a "
                f"function in GIVEN of tests/docs/given.py; a block that cannot run stands in NOT_RUN there, with the reason"
            ) from error


def marked(page: str) -> Any:
    return pytest.param(page, marks=[pytest.mark.slow] if page in SLOW or page in NEEDS else [])


@pytest.mark.parametrize("page", [marked(page) for page in PYTHON])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in NEEDS:
        pytest.importorskip(NEEDS[page], reason=f"{NEEDS[page]} is not installed")
    monkeypatch.chdir(tmp_path)
    run_page(page, code_on(page), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in COMMANDS if page in PAGES])
def test_commands_that_need_no_more_than_a_few_files_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_files(tmp_path)
    for name in ("recipes", ".torchxconfig"):
        (tmp_path / name).symlink_to(ROOT / name)
    around = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    around["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = []
    for block in code_on(page):
        for words in commands_in(block.source) if block.language in SHELL else ():
            command = shlex.join(words)
            begins = [start for start in COMMANDS[page] if command.startswith(start)]
            if begins:
                ran += begins
                done = subprocess.run(words, env=os.environ | around, capture_output=True, text=True)
                assert done.returncode == 0, f"{block.at}: {command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert {*ran} == {*COMMANDS[page]}


@pytest.mark.parametrize("block", SHELLS, ids=lambda block: block.at)
def test_the_commands_of_a_block_would_be_taken(block: Block, request: pytest.FixtureRequest) -> None:
    if reason_against(block) or WORDS_OF_THE_SHELL.search(block.source):
        assert reason_against(block), f"{block.at}: a script; give NOT_RUN of tests/docs/given.py the reason"
        subprocess.run(["bash", "-n"], input=block.source, text=True, check=True)
        return
    made = re.findall(r"^`([\w./]+)`", PAGES[block.page].read_text(), re.M)  # as docs/contributing/ begins a step
    for words in commands_in(block.source):
        try:
            read(words, request.config._parser, made)
        except WrongCommandError as error:
            raise AssertionError(f"{block.at}: {error}") from None


@pytest.mark.parametrize("block", [block for block in ALL if block.language in DATA], ids=lambda block: block.at)
def test_data_is_well_formed(block: Block) -> None:
    parse = {
        "ini": configparser.ConfigParser().read_string,
        "toml": tomllib.loads,
        "json": json.loads,
        "yaml": lambda text: list(yaml.safe_load_all(text)),
    }[block.language]
    parse(block.source)


def test_no_block_is_in_a_language_that_nothing_here_runs() -> None:
    assert {block.at: block.language for block in ALL if block.language not in {"python"} | SHELL | DATA} == {}


def test_python_that_is_run_elsewhere_is_run_there() -> None:
    for page, test in ELSEWHERE.items():
        if page in PAGES:
            assert Path(page).stem in (ROOT / test).read_text(), f"{test} does not name {page}"


def test_every_exception_is_one() -> None:
    unused = [key for key in NOT_RUN if not any(b.page == key[0] and b.source.startswith(key[1]) for b in ALL)]
    assert unused == []
    assert [page for page in GIVEN if page in PAGES and page not in PYTHON] == []


BAD = """
# A page
```python
x = 1
```
- in a list
  ```python
  y = x + z
  ```
"""


def test_python_that_fails_is_told_by_its_line_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"bad.md:8: NameError: .*'z'.*\n.*GIVEN of tests/docs/given.py"):
        run_page("bad.md", blocks_in(BAD, "bad.md"), tmp_path)


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("torchx run -s local_cwd recipes/pretrain.py -- --stpes 3", "--steps"),
        ("torchx run -s local_cwd recipes/pretrain.py --procz 2", "--procs"),
        ("torchx run -s nowhere recipes/pretrain.py", "nowhere"),
        ("torchx run -s local_cwd recipes/pretrain.py -- --shares.text 0.5", "shares"),
        ("torchx status first", "first"),
        ("python recipes/look.py runs/first --pare photo.jpg words", "--pair"),
        ("python recipes/linear_probe.py --model runs/first --task all --backend skl", "skl"),
        ("python recipes/plan.py --gpus 8 -- --batch 3", "--batch"),
        ("python recipes/data/browse.py --preset emojis --out page.html", "emojis"),
        ("python benchmarks/scaling.py --turns many", "many"),
        ("python recipes/nowhere.py", "there is no recipes/nowhere.py"),
        ("python -m torchflava.launch.torchrun --nnodez 2", "nnode"),
        ("pip install -e '.[tset]'", "no extra 'tset'"),
        ("pip install torch==2.3.1", "pyproject.toml asks for torch"),
        ("pytest tests/parities", "tests/parities"),
        ("pytest --no-skip", "--no-skip"),
        ("frobnicate the widgets", "nothing is known of 'frobnicate'"),
    ],
)
def test_a_command_that_would_be_refused_is_told(command: str, match: str, request: pytest.FixtureRequest) -> None:
    (words,) = commands_in(command)
    with pytest.raises(WrongCommandError, match=match):
        read(words, request.config._parser)


def test_a_block_of_shell_is_read_as_the_shell_reads_it() -> None:
    source = "A=1 python x.py --a 'b c' \\\n  --d  # why\n. env && pip install x; ls | wc\n# nothing\n$ torchx list"
    assert commands_in(source) == [
        ["python", "x.py", "--a", "b c", "--d"], [".", "env"], ["pip", "install", "x"], ["ls"], ["wc"], ["torchx", "list"],
    ]  # fmt: skip
