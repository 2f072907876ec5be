"""recipes/data/index.py: built in parallel, gone on with, checked; damage is named and ends in failure."""

import importlib.util
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from torchflava.data.index import INDEX_NAME, open_index, scan
from torchflava.data.lines import TextLines
from torchflava.data.shards import ShardPairs
from torchflava.data.tars import write_shards

SCRIPT = Path(__file__).parents[2] / "recipes/data/index.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("index_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def samples(*names: str) -> list[tuple[str, dict[str, bytes]]]:
    return [(name, {"jpg": f"image {name}".encode(), "txt": f"caption {name}".encode()}) for name in names]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards([*samples("a", "b", "c", "d"), ("e", {"txt": b"alone"})], tmp_path / "s", 2)
    return tmp_path


def run(script: ModuleType, *paths: Path, **options: bool) -> list[object]:
    return script.main(script.Config(tuple(map(str, paths)), workers=1, **options))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".tar")


def test_a_folder_is_indexed_and_told(script, folder):
    (report,) = run(script, folder)
    assert report[1:4] == (3, 5, 4)
    assert report.num_bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert report.passed_over == Counter({"no image": 1})
    assert left(folder) == [INDEX_NAME]
    index = open_index(folder / INDEX_NAME)
    assert index.names == ["s-00000.tar", "s-00001.tar", "s-00002.tar"]
    assert all(index.part(i).same_as(scan(folder / name)) for i, name in enumerate(index.names))
    assert script.show([report]).splitlines()[1].split(None, 4)[:3] == ["3", "5", "4"]
    assert "1 no image" in script.show([report])
    assert run(script, folder, check=True) == [report]


def test_only_what_is_new_or_changed_is_scanned(script, folder, monkeypatch):
    scanned: list[str] = []
    monkeypatch.setattr(script, "scan", lambda path, endings: scanned.append(path.name) or scan(path, endings))
    run(script, folder / "s-00000.tar")
    run(script, folder)
    assert scanned == ["s-00000.tar", "s-00001.tar", "s-00002.tar"]
    (folder / "s-00001.tar").unlink()
    (folder / "s-00002.tar").unlink()
    write_shards(samples("x", "y"), folder / "t", 1)
    (folder / "s-00000.tar").unlink()
    write_shards(samples("z"), folder / "s", 1)
    (report,) = run(script, folder)
    assert scanned[3:] == ["s-00000.tar", "t-00000.tar", "t-00001.tar"]
    assert (report.shards, report.pairs) == (3, 3)
    before = (folder / INDEX_NAME).stat().st_mtime_ns
    assert run(script, folder) == [report]
    assert (folder / INDEX_NAME).stat().st_mtime_ns == before
    assert len(scanned) == 6


def test_a_run_that_was_stopped_goes_on(script, folder, monkeypatch):
    scanned: list[str] = []

    def stopped(path: Path, endings: object) -> object:
        scanned.append(path.name)
        if len(scanned) == 3:
            raise KeyboardInterrupt
        return scan(path, endings)

    monkeypatch.setattr(script, "scan", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(script, folder)
    assert left(folder) == [".index"]
    (folder / ".index/whole").write_bytes(b"half")
    (folder / ".index/.whole.part").write_bytes(b"half")
    run(script, folder)
    assert scanned == [f"s-0000{n}.tar" for n in (0, 1, 2, 2)]
    assert left(folder) == [INDEX_NAME]
    pairs = ShardPairs(sorted(folder.glob("*.tar")))
    assert [pairs.caption(i) for i in range(4)] == [f"caption {name}" for name in "abcd"]


def test_a_damaged_shard_is_named_and_can_be_left_out(script, folder):
    bad = folder / "s-00001.tar"
    os.truncate(bad, 1500)
    with pytest.raises(
        ValueError, match=r"shard .*s-00001\.tar cannot be read .*cut short at byte 1500[^$]*--skip-damaged"
    ):
        run(script, folder)
    assert left(folder) == [".index"]
    (report,) = run(script, folder, skip_damaged=True)
    assert (report.shards, len(report.damaged)) == (2, 1)
    assert "damaged: shard" in script.show([report])
    with pytest.raises(ValueError, match=r"s-00001\.tar is not in the index"):
        run(script, folder, check=True)


def test_a_check_sees_what_has_changed(script, folder):
    with pytest.raises(ValueError, match=r"has no index\.safetensors; build it first"):
        run(script, folder, check=True)
    run(script, folder)
    shard = folder / "s-00000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"a.jpg", b"q.jpg").replace(b"a.txt", b"q.txt"))
    (folder / "s-00002.tar").unlink()
    with pytest.raises(ValueError, match=r"s-00002\.tar is gone[^$]*s-00000\.tar cannot be read"):
        run(script, folder, check=True)
    shard.unlink()
    write_shards(samples("q", "b"), folder / "s", 2)
    with pytest.raises(ValueError, match=r"s-00000\.tar is not what was indexed"):
        run(script, folder, check=True)


def test_folders_patterns_and_texts(script, folder, monkeypatch):
    other = folder / "other"
    other.mkdir()
    write_shards(samples("x"), other / "o", 1)
    texts = other / "t.txt"
    texts.write_text("one\n\ntwo\n")
    monkeypatch.chdir(folder)
    assert script.expand(["*.tar", "other", str(folder / "o*/*.txt")]) == [
        texts,
        *(Path(name) for name in ("other/o-00000.tar", "s-00000.tar", "s-00001.tar", "s-00002.tar")),
    ]
    reports = run(script, Path("*.tar"), other, texts)
    assert [(report.shards, report.samples) for report in reports] == [(3, 5), (1, 1), (1, 2)]
    assert TextLines(texts)[1].text == "two"
    run(script, texts, check=True)
    texts.write_text("one\n\ntw\n\n")
    with pytest.raises(ValueError, match=r"t\.txt is not what was indexed"):
        run(script, texts, check=True)
    run(script, texts)
    with pytest.raises(ValueError, match="nothing-here names no shards"):
        run(script, folder / "nothing-here")
    with pytest.raises(ValueError, match="0 workers"):
        script.main(script.Config((str(folder),), workers=0))


def test_the_script_ends_with_a_failure_that_names_the_shard(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder), "--workers", "1"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "1 no image" in capsys.readouterr().out
    os.truncate(folder / "s-00002.tar", 700)
    with pytest.raises(SystemExit, match=r"s-00002\.tar cannot be read"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "damaged: shard" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--skip-damaged"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert len(ShardPairs(sorted(folder.glob("s-0000[01].tar")))) == 4


@pytest.mark.slow
def test_processes_build_the_same_index(script, folder):
    """The script itself, as its workers must be able to import it; every process imports torch anew."""
    run(script, folder)
    alone = open_index(folder / INDEX_NAME)
    (folder / INDEX_NAME).unlink()
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), str(folder), "--workers", "2"]
    subprocess.run(command, env=environment, capture_output=True, timeout=250, check=True)
    assert open_index(folder / INDEX_NAME).same_as(alone)
    os.truncate(folder / "s-00002.tar", 700)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 1, done.stderr
    assert "s-00002.tar cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
