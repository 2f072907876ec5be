"""A checkpoint gives back the run to the bit, and what goes wrong with a save never shadows a good one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import torchflava
from torchflava.training import Checkpoints, adamw, best_checkpoint, last_checkpoint, load_checkpoint, session
from torchflava.training import checkpoint as checkpoint_module
from torchflava.training.places import Local


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with session(0, "cpu"):
        yield


def made(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3), nn.Linear(3, 2), nn.Dropout(0.5))
    return model, adamw(model, 1e-2, 0.1)  # model[3] has no gradient until its turn comes


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> list[float]:
    seen = []
    for i in range(n):
        x = torch.full((4, 5), 0.1 * (i + 1))
        loss = model[4](model[2](model[1](model[0](x)))).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
    return seen


def saved(folder: Path, step: int = 3, **state: Any) -> tuple[Path, nn.Module, torch.optim.Optimizer]:
    model, optimizer = made(0)
    steps(model, optimizer, step)
    checkpoints = Checkpoints(folder)
    path = checkpoints.save(step, model, optimizer, state=state)
    checkpoints.wait()
    return path, model, optimizer


def test_a_resumed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Weights, moments, and the dropout of a part that draws from the global generator."""
    path, model, optimizer = saved(tmp_path, 3, config={"lr": 0.01}, scale=1024.0)
    want = steps(model, optimizer, 4)
    other, its = made(1)
    steps(other, its, 2)
    state = load_checkpoint(path, other, its, config={"lr": 0.01})
    assert (state["step"], state["scale"]) == (3, 1024.0)
    assert steps(other, its, 4) == want
    evaluated = made(2)[0]
    load_checkpoint(path, evaluated)
    tensors = load_file(next(path.glob("*.safetensors")))
    assert all(tensors[f"model/{name}"].equal(value) for name, value in evaluated.state_dict().items())


def test_a_part_without_moments_has_none_afterwards(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path)
    other, its = made(1)
    load_checkpoint(path, other, its)
    assert {name for name, p in other.named_parameters() if p in its.state} == {
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    }


def test_the_files_are_plain_and_named_in_the_state(tmp_path: Path) -> None:
    path, model, optimizer = saved(tmp_path, 2, config={})
    (file,) = path.glob("*.safetensors")
    tensors, state = load_file(file), json.loads((path / "state.json").read_text())
    assert sorted(p.name for p in path.iterdir()) == [file.name, "state.json"]
    assert state["files"] == {file.name: file.stat().st_size}
    assert (state["step"], state["ranks"], state["torch"]) == (2, 1, torch.__version__)
    assert state["torchflava"] == torchflava.__version__
    assert all(tensors[f"model/{name}"].equal(value) for name, value in model.state_dict().items())
    assert tensors["optimizer/0.weight/exp_avg"].equal(optimizer.state[model[0].weight]["exp_avg"])
    assert last_checkpoint(tmp_path) == path
    assert best_checkpoint(tmp_path) is None


def test_what_training_does_meanwhile_is_not_written(tmp_path: Path) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    checkpoints = Checkpoints(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = checkpoints.save(1, model, optimizer, state={})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
    checkpoints.wait()
    load_checkpoint(path, model, optimizer)
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("keep", "every", "left"), [(1, 0, [5, 7]), (2, 0, [5, 6, 7]), (2, 3, [3, 5, 6, 7]), (9, 0, [1, 2, 3, 4, 5, 6, 7])]
)
def test_the_last_the_best_and_every_nth_are_kept(tmp_path: Path, keep: int, every: int, left: list[int]) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    checkpoints = Checkpoints(tmp_path, keep=keep, keep_every=every)
    for step in range(1, 8):
        checkpoints.save(step, model, optimizer, state={}, best=step in (2, 5))
    checkpoints.wait()
    assert sorted(int(path.name[5:]) for path in tmp_path.glob("step-*")) == left
    assert best_checkpoint(tmp_path) == tmp_path / "step-00000005"
    assert last_checkpoint(tmp_path) == tmp_path / "step-00000007"


def test_a_kill_after_state_json_leaves_the_best_step_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint says of itself, and which is the best, are one file."""
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, model, optimizer, state={}, best=True)
    checkpoints.save(2, model, optimizer, state={})
    checkpoints.wait()
    plain = Local.write

    def last(place: Local, name: str, data: bytes) -> None:
        if (tmp_path / "step-00000003" / "state.json").exists():
            raise OSError("the power is gone")
        plain(place, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Local, "write", last)
        checkpoints.save(3, model, optimizer, state={}, best=True)
        checkpoints.wait()
    assert best_checkpoint(tmp_path) == tmp_path / "step-00000003"
    again = Checkpoints(tmp_path, keep=1)  # as the run does that goes on
    for step in (4, 5):
        again.save(step, model, optimizer, state={})
    again.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000005"]
    assert best_checkpoint(tmp_path) == tmp_path / "step-00000003"


def test_other_settings_formats_and_models_are_refused_by_name(tmp_path: Path) -> None:
    path, model, optimizer = saved(tmp_path, config={"lr": 0.01, "betas": (0.9, 0.98)})
    load_checkpoint(path, model, optimizer, config={"lr": 0.01, "betas": (0.9, 0.98)})
    for config, told in (({"lr": 0.02, "betas": (0.9, 0.98)}, r"lr was 0\.01, is 0\.02"), ({"lr": 0.01}, "betas was .*, is None"),
                         ({"lr": 0.01, "betas": [0.9, 0.98], "new": 1}, "new was None, is 1")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            load_checkpoint(path, model, optimizer, config=config)
    wide = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3))
    with pytest.raises(
        ValueError,
        match=r"model/3.weight is not the model's; .*model/0.weight is \(7, 5\), the model's \(8, 5\)",
    ):
        load_checkpoint(path, wide)
    with pytest.raises(ValueError, match=r"model/5.weight is missing"):
        load_checkpoint(path, nn.Sequential(*made(0)[0], nn.Linear(1, 1)))
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(ValueError, match=r"has format 99, this version reads 2; use the version that wrote it"):
        load_checkpoint(path, model, optimizer)


def test_settings_that_came_later_have_their_defaults(tmp_path: Path) -> None:
    path, model, optimizer = saved(tmp_path, config={"lr": 0.01, "shares": {"pair": 0.7}})
    defaults = {"lr": 9.0, "betas": (0.9, 0.98), "shares": {"pair": 9.0, "text": 0.3}}
    now: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.98), "shares": {"pair": 0.7, "text": 0.3}}
    assert load_checkpoint(path, model, optimizer, config=now, defaults=defaults)["step"] == 3
    for changed, told in (
        ({"betas": (0.9, 0.99)}, r"betas was \[0.9, 0.98\], is \[0.9, 0.99\]"),
        ({"shares": {"pair": 0.6, "text": 0.4}}, r"shares was .*'pair': 0.7, 'text': 0.3"),
        ({"lr": 9.0}, "lr was 0.01, is 9.0"),
        ({"new": 1}, "new was None, is 1"),
    ):
        with pytest.raises(ValueError, match=told):
            load_checkpoint(path, model, optimizer, config=now | changed, defaults=defaults)


def test_a_save_that_fails_is_told_and_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    checkpoints = Checkpoints(tmp_path, keep=1)
    good = checkpoints.save(1, model, optimizer, state={})
    checkpoints.wait()

    def full(*parts: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.HuggingFaceStorageWriter, "write_data", full)
    checkpoints.save(2, model, optimizer, state={})
    with pytest.raises(OSError, match=r"step-00000002 could not be written .*No space left on device"):
        checkpoints.wait()
    assert last_checkpoint(tmp_path) == good
    monkeypatch.undo()
    monkeypatch.setattr(Checkpoints, "_seal", full)
    checkpoints.save(2, model, optimizer, state={})
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(3, model, optimizer, state={})
    assert last_checkpoint(tmp_path) == good
    monkeypatch.undo()
    again = checkpoints.save(2, model, optimizer, state={})
    checkpoints.wait()
    assert last_checkpoint(tmp_path) == again
    assert not good.exists()


def test_a_half_written_folder_is_no_checkpoint_and_is_written_over(tmp_path: Path) -> None:
    path, model, optimizer = saved(tmp_path, 3)
    half = tmp_path / "step-00000009"
    shutil.copytree(path, half)
    (half / "state.json").unlink()
    (half / "shard-00077-model-00001-of-00001.safetensors").write_bytes(b"of a run with more ranks")
    assert last_checkpoint(tmp_path) == path
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(9, model, optimizer, state={})
    checkpoints.wait()
    assert last_checkpoint(tmp_path) == half
    assert len(list(half.iterdir())) == 2
    assert load_checkpoint(half, model, optimizer)["step"] == 9


def test_halves_are_deleted_once_they_lie_behind(tmp_path: Path) -> None:
    path, model, optimizer = saved(tmp_path, 3)
    for step in (1, 3, 5, 9):
        (tmp_path / f"step-{step:08d}").mkdir(exist_ok=True)
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=5)
    for step in (4, 6):
        checkpoints.save(step, model, optimizer, state={})
    checkpoints.wait()
    assert sorted(path.name[-1] for path in tmp_path.glob("step-*")) == ["4", "5", "6", "9"]
    checkpoints.save(7, model, optimizer, state={})
    checkpoints.wait()
    assert sorted(path.name[-1] for path in tmp_path.glob("step-*")) == ["6", "7", "9"]
    assert not path.exists()


@pytest.mark.parametrize("name", ["state.json", "shard-00001-model-00001-of-00001.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_damaged_checkpoint_is_named_with_the_way_on(name: str, kept: int, tmp_path: Path) -> None:
    path, model, optimizer = saved(tmp_path)
    (path / name).write_bytes((path / name).read_bytes()[:kept])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"step-00000003 is damaged .* delete it to go on"):
        load_checkpoint(path, model, optimizer)
    assert all(before[key].equal(value) for key, value in model.state_dict().items())
    (path / name).unlink()
    with pytest.raises(ValueError, match=r"step-00000003 is damaged"):
        load_checkpoint(path, model, optimizer)


def test_a_header_that_is_damaged_but_as_long_as_before_is_told(tmp_path: Path) -> None:
    path, model, optimizer = saved(tmp_path)
    (file,) = path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[20:40] = b"x" * 20
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"step-00000003 is damaged"):
        load_checkpoint(path, model, optimizer)


@pytest.mark.parametrize(("keep", "every"), [(0, 0), (1, -1)])
def test_numbers_that_cannot_be(tmp_path: Path, keep: int, every: int) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        Checkpoints(tmp_path, keep=keep, keep_every=every)
