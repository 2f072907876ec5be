"""Each message that docs/troubleshooting.md quotes is one that the source says, or torch's where it is said to be."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
_GAP = "…"
_TORCHS = "got mixed torch.Tensor and DTensor"


def quoted(page: str) -> list[str]:
    """The messages: the first cell of each row, in two backquotes where there are some in it."""
    return [message.strip() for _, message in re.findall(r"^\| (`+)(.*?)\1 \|", page, re.M)]


def sentences(tree: ast.AST) -> Iterator[str]:
    """All strings of a module, with a gap for each thing put in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else _GAP for part in node.values)


@cache
def said() -> list[str]:
    files = [*(ROOT / "torchflava").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
    return [sentence for file in files for sentence in sentences(ast.parse(file.read_text()))]


def test_each_message_is_said_somewhere() -> None:
    messages = quoted((ROOT / "docs/troubleshooting.md").read_text())
    assert len(messages) > 35
    assert len(set(messages)) == len(messages)
    assert [message for message in messages if message not in said() and message != _TORCHS] == []


def test_torchs_own_message_is_torchs() -> None:
    dispatch = Path(torch.__file__).parent / "distributed/tensor/_dispatch.py"
    assert any(_TORCHS in sentence for sentence in sentences(ast.parse(dispatch.read_text())))


def test_a_message_that_nobody_says_is_seen() -> None:
    table = "| message | helps |\n|---|---|\n| ``no such … as `this` `` | nothing |\n"
    assert quoted(table) == ["no such … as `this`"]
    assert "no such … as `this`" not in said()
    assert "…: no shards were given; pass the paths of one or more tars" in said()
