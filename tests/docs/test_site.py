"""The site is built without a warning, its notebooks run, its links lead somewhere; and what is wrong is told."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import torchflava

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "figures"))

import draw

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
MISSING = "the extra docs is not installed: pip install -e '.[docs]'"


def build(source: Path, out: Path, *, notebooks: str = "off") -> subprocess.CompletedProcess[str]:
    """A build in which a warning is an error."""
    pytest.importorskip("myst_nb", reason=MISSING)
    pytest.importorskip("pydata_sphinx_theme", reason=MISSING)
    words = ["-W", "--keep-going", "-q", "-c", str(DOCS), str(source), str(out)]
    # One thread: a kernel whose threads spin beside other tests takes minutes.
    around = {"PYTHONPATH": str(ROOT), "TORCHFLAVA_NOTEBOOKS": notebooks, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", "import matplotlib.font_manager"], capture_output=True, check=True
    )  # its cache
    command = [sys.executable, "-m", "sphinx", *words]
    return subprocess.run(command, env=os.environ | around, capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """What a page leads to, and the places in it that can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append(value)
            if value and name == "id":
                self.places.add(value)


@cache
def read(file: Path) -> Page:
    return Page(file.read_text())


def dead_links(site: Path) -> Iterator[str]:
    """Links within the site that lead to no file, or to no place in a page."""
    for file in (page for page in site.rglob("*.html") if "_static" not in page.parts):  # the theme's own templates
        for link in read(file).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            to = file if not parts.path else (file.parent / unquote(parts.path)).resolve()
            in_page = parts.fragment and to.suffix == ".html" and to.is_file()
            if not to.exists() or (in_page and unquote(parts.fragment) not in read(to).places):
                yield f"{file.relative_to(site)}: {link}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_is_built_without_a_warning_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site", notebooks="force")
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert [*dead_links(site)] == []
    pages = [*DOCS.rglob("*.md"), *NOTEBOOKS, *(ROOT / "benchmarks/results").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    built = {page: site / page.relative_to(ROOT).with_suffix(".html") for page in pages}
    assert [str(page) for page, html in built.items() if not html.is_file()] == []
    for notebook in NOTEBOOKS:
        shown = built[notebook].read_text()
        assert shown.count("_images/") >= 2, f"{notebook.name} draws pictures"
        assert 'class="output stderr' not in shown, f"{notebook.name} says something on stderr"
    reference = "".join(file.read_text() for file in (site / "docs/reference").glob("*.html"))
    told = set(re.findall(r'id="torchflava[\w.]*\.(\w+)"', reference))
    assert set(torchflava.__all__) - {"__version__"} <= told
    of_models = (site / "docs/reference/models.html").read_text()
    assert 'internal" href="encoders.html#torchflava.encoders.Encoded"' in of_models, "a name of another room is a link"


@pytest.mark.slow
def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    nav = "```{toctree}\nfirst\n```\n"
    (source / "index.md").write_text(f"# Home\n\n{nav}\n[gone](gone.md) [no heading](first.md#nowhere)\n")
    (source / "first.md").write_text("# First\n\n[a file](gone.py)\n")
    (source / "stray.md").write_text("# Not in the navigation\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for told in ("stray.md: WARNING: document isn't included in any toctree", "gone.md", "nowhere", "gone.py"):
        assert told in done.stderr, done.stderr


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there"></a><a href="b.html#gone"></a><a href="c.html"></a>')
    (tmp_path / "b.html").write_text('<p id="there"></p><a href="https://example.org/x"></a><a href="#there"></a>')
    assert [*dead_links(tmp_path)] == ["a.html: b.html#gone", "a.html: c.html"]


@pytest.mark.parametrize("name", draw.FIGURES)
def test_a_figure_is_what_its_script_draws(name: str) -> None:
    assert (DOCS / f"figures/{name}.svg").read_text() == draw.FIGURES[name]()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    text = notebook.read_text()
    assert '"outputs": []' in text
    assert text.count('"outputs": []') == text.count('"outputs"')
    assert text.count('"execution_count": null') == text.count('"execution_count"')


def test_each_room_has_a_page_of_reference() -> None:
    pages = {page.stem for page in (DOCS / "reference").glob("*.md")}
    rooms = {file.parent.name for file in (ROOT / "torchflava").glob("*/__init__.py")}
    assert rooms <= pages
