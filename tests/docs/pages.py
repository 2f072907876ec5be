"""The pages of the documents and the code blocks on them."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")])
}
SHELL = {"sh", "bash", "shell", "console"}
DATA = {"ini", "toml", "json", "yaml"}
"""Languages whose blocks are read by a parser."""
PROSE = {"", "text", "mermaid", "csv", "tsv", "html", "diff", "bibtex", "dockerfile", "md", "markdown"}
"""Languages in which nothing is run: output, layouts of folders, drawings."""


class Block(NamedTuple):
    """A fenced block."""

    page: str
    line: int
    """Of the page, where its first line of code stands."""
    language: str
    source: str

    @property
    def at(self) -> str:
        """Where a reader finds it."""
        return f"{self.page}:{self.line}"


_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<source>.*?)^(?P=indent)(?P=fence)[ \t]*$",
    re.S | re.M,
)


def blocks_in(text: str, page: str) -> list[Block]:
    """The blocks of a page, in order; what is indented (in a list, say) without its indent."""
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start("source")) + 1
        words = fence["language"].strip().split()
        language = words[0] if words else ""
        found.append(Block(page, line, language, textwrap.dedent(fence["source"])))
    return found


def blocks_of(page: str) -> list[Block]:
    """The blocks of one of `PAGES`."""
    return blocks_in(PAGES[page].read_text(), page)


def code_on(page: str) -> list[Block]:
    """Its blocks that are code; a directive of the documentation site, in braces, is none."""
    return [block for block in blocks_of(page) if not block.language.startswith("{") and block.language not in PROSE]


ALL = [block for page in PAGES for block in code_on(page)]
