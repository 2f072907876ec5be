"""A checkpoint gives back the run to the bit, and a broken save never shadows a good one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from torchflava.training import adamw, load_checkpoint, save_checkpoint
from torchflava.training import checkpoint as checkpoint_module
from torchflava.training.checkpoint import last_checkpoint


def made(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3), nn.Linear(3, 2))
    model[3].requires_grad_(True)  # has no gradient until its turn comes
    return model, adamw(model, 1e-2, 0.1)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> list[float]:
    seen = []
    for i in range(n):
        x = torch.full((4, 5), 0.1 * (i + 1))
        loss = model[2](model[1](model[0](x))).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
    return seen


def test_a_resumed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 3)
    path = save_checkpoint(tmp_path, 3, model, optimizer=optimizer, config={"lr": 0.01})
    want = steps(model, optimizer, 4)
    other, its = made(1)
    assert load_checkpoint(path, other, optimizer=its, config={"lr": 0.01}) == 3
    assert steps(other, its, 4) == want


def test_the_files_are_plain(tmp_path: Path) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    path = save_checkpoint(tmp_path, 1, model, optimizer=optimizer, config={})
    assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    weights = load_file(path / "model.safetensors")
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    assert last_checkpoint(tmp_path) == path


def test_other_settings_and_formats_are_refused_by_name(tmp_path: Path) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    path = save_checkpoint(tmp_path, 1, model, optimizer=optimizer, config={"lr": 0.01})
    with pytest.raises(ValueError, match=r"lr was 0\.01, is 0\.02"):
        load_checkpoint(path, model, optimizer=optimizer, config={"lr": 0.02})
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99"):
        load_checkpoint(path, model, optimizer=optimizer, config={"lr": 0.01})


def test_a_save_that_dies_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    good = save_checkpoint(tmp_path, 1, model, optimizer=optimizer, config={})
    real = checkpoint_module.save_file

    def dying(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "optimizer" in path.name:
            raise OSError("No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint_module, "save_file", dying)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 2, model, optimizer=optimizer, config={})
    assert last_checkpoint(tmp_path) == good
    monkeypatch.undo()
    assert save_checkpoint(tmp_path, 2, model, optimizer=optimizer, config={}) == last_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("kept", [0, 7, -1])
def test_a_damaged_checkpoint_is_named_with_the_way_on(name: str, kept: int, tmp_path: Path) -> None:
    model, optimizer = made(0)
    steps(model, optimizer, 1)
    path = save_checkpoint(tmp_path, 1, model, optimizer=optimizer, config={})
    (path / name).write_bytes((path / name).read_bytes()[:kept])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"step-00000001 is damaged .* delete it to go on"):
        load_checkpoint(path, model, optimizer=optimizer, config={})
    assert all(before[key].equal(value) for key, value in model.state_dict().items())
