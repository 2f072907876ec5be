"""The Python of docs/weights.md runs from top to bottom, in an empty folder and without a network."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs/weights.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    text = PAGE.read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)
    said = capsys.readouterr().out
    for line in re.findall(r"print\(.*\)\s+# (.*)", text):
        start = line.partition(":")[0]
        assert start in said or not line.startswith(("model =", "flava.", "[", "torchflava's")), line
    assert "model.safetensors config.json preprocessor_config.json tokenizer.json tokenizer_config.json" in said
