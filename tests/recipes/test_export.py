"""The model of a run that was stopped: the same file that the run writes, of any of its checkpoints."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import export
import measure_scenes
import pretrain
import report
from presets import as_json, parse

from torchflava.models import FlavaForPreTraining, from_pretrained


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
        patch.setattr(report, "report", lambda *parts: None)
        folder = tmp_path_factory.mktemp("runs")
        pretrain.main(
            ["--preset", "tiny", "--steps", "4", "--save-every", "2", "--folder", str(folder), "--name", "run"]
        )
    return folder / "run"


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def test_it_is_the_file_that_the_run_writes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "again.safetensors"
    export.main([str(run), "--out", str(out)])
    assert f"{out}: the weights after step 4 of 4, from {run}/step-00000004" in capsys.readouterr().out
    got, due = load_file(out), load_file(run / "model.safetensors")
    assert got.keys() == due.keys()
    assert all(got[name].equal(tensor) for name, tensor in due.items())
    assert metadata(out) == metadata(run / "model.safetensors")


def test_a_run_that_was_stopped_has_a_model_too(run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    shutil.rmtree(stopped / "step-00000004")
    (stopped / "model.safetensors").unlink()
    export.main([str(stopped)])
    export.main([str(run / "step-00000002"), "--out", str(tmp_path / "named.safetensors")])
    export.main([f"file://{run}/step-00000002", "--out", str(tmp_path / "far.safetensors")])
    (shard,) = (run / "step-00000002").glob("*.safetensors")
    due = load_file(shard)
    for file in (stopped / "model.safetensors", tmp_path / "named.safetensors", tmp_path / "far.safetensors"):
        got = load_file(file)
        assert all(due[f"model/{name}"].equal(tensor) for name, tensor in got.items())
        assert len(got) == sum(name.startswith("model/") for name in due)
    assert isinstance(from_pretrained(stopped), FlavaForPreTraining)


def test_what_cannot_be_exported_is_told(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps(as_json(parse(["--preset", "tiny"]))))
    out = ["--out", str(tmp_path / "model.safetensors")]
    for words, told in (
        ([str(empty)], f"{empty} has no checkpoint yet"),
        ([str(tmp_path)], f"{tmp_path} is no run's folder"),
        ([str(run), "--best"], f"{run} has no best checkpoint"),
        ([str(run / "step-00000003"), *out], "step-00000003 is no checkpoint, for it has no state.json"),
        ([str(run / "step-00000002"), "--best", *out], "--best and step-00000002 are two ways"),
        ([str(run)], "model.safetensors is there already; choose another file by --out"),
    ):
        with pytest.raises(SystemExit) as caught:
            export.main([*words, *(out if words == [str(run), "--best"] else [])])
        assert told in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()


def test_settings_are_read_back(tmp_path: Path) -> None:
    config = parse(["--preset", "flava_c"], places=False)
    (tmp_path / "config.json").write_text(json.dumps(as_json(config)))
    assert as_json(export.read_config(tmp_path / "config.json")) == as_json(config)
    for once, now in ((True, "full"), (False, "none"), ("selective", "selective")):
        (tmp_path / "config.json").write_text(json.dumps(as_json(config) | {"recompute": once}))
        assert export.read_config(tmp_path / "config.json").recompute == now
    (tmp_path / "config.json").write_text('{"flavour": 1}')
    with pytest.raises(ValueError, match="settings that this version does not know: flavour"):
        export.read_config(tmp_path / "config.json")
