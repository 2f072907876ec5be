"""docs/own_data.md from its first line to its last: each block is run as it stands, one after the other, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.S | re.M)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_csv_and_a_folder_to_a_trained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BLOCK.findall((ROOT / "docs/own_data.md").read_text())
    assert [kind for kind, _ in blocks].count("sh") == 5
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / ".torchxconfig").symlink_to(ROOT / ".torchxconfig")
    around = {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for kind, block in blocks:
        if kind == "python":
            exec(block, names)
            continue
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, env=os.environ | around, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    for page in ("photos.html", "found.html", "pair.html", "shards.html"):
        assert (tmp_path / page).stat().st_size > 10_000, page
    readings = json.loads((tmp_path / "runs/photos/result.json").read_text())["readings"]
    assert {"image to text R@1", "text to image R@5", "matching AUROC", "mlm loss"} <= set(readings)
    assert json.loads((tmp_path / "runs/counted/results.json").read_text())
