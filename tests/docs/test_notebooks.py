"""The notebooks run from their first cell to their last as they stand, and are kept without outputs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_it_is_kept_without_outputs(notebook: Path) -> None:
    text = notebook.read_text()
    assert '"outputs": []' in text
    assert text.count('"outputs": []') == text.count('"outputs"')
    assert '"execution_count": null' in text
    assert text.count('"execution_count": null') == text.count('"execution_count"')


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_it_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the extra docs is not installed: pip install -e '.[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="the extra docs is not installed: pip install -e '.[docs]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(book, timeout=280, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    printed = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum(output.output_type == "display_data" for output in printed) >= 2, "its pictures are drawn"
    assert [output.text for output in printed if output.get("name") == "stderr"] == []
