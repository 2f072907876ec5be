"""Files that users hand in: what torch and safetensors wrote comes back, what is damaged or hostile is refused by name."""

import json
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from torchflava import files
from torchflava.files import held_in, load_metadata, load_tensors, read_state, save_tensors

CLASSES = (
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.activation.ReLU",
)
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}
fuzz = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def net() -> nn.Sequential:
    """Every awkward thing that a module can hold."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2, bias=False)))
    net[2][1].weight = nn.Parameter(torch.randn(5, 2).T)  # not contiguous
    net.register_buffer("hidden", torch.ones(7), persistent=False)
    net.register_buffer("halves", torch.randn(2, 3).half())
    net.register_buffer("brain", torch.randn(11).bfloat16())
    net.register_buffer("flags", torch.tensor([True, False, True]))
    net.register_buffer("scalar", torch.tensor(5))
    net.register_buffer("empty", torch.empty(0, 3))
    net.register_buffer("tail", torch.arange(13)[4:9:2])  # a view into a larger record
    net.register_module("tied", net[0])
    return net


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_pickled_module_gives_its_state_dict(tmp_path: Path, form: str, protocol: int) -> None:
    module = net()
    torch.save(module, tmp_path / "net.pkl", pickle_protocol=protocol, **FORMS[form])
    state = read_state(tmp_path / "net.pkl", CLASSES)
    assert_same(state, module.state_dict())
    assert state["tied.weight"].data_ptr() == state["0.weight"].data_ptr()


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_of_torch(tmp_path: Path, form: str) -> None:
    state = net().state_dict()
    for name, held in [("a.pt", state), ("b.pth", {"state_dict": state, "epoch": 3}), ("c.bin", dict(state))]:
        torch.save(held, tmp_path / name, **FORMS[form])
        assert_same(load_tensors(tmp_path / name), state)
        assert_same(read_state(tmp_path / name), state)


@pytest.mark.parametrize("read", [load_tensors, read_state])
def test_one_of_several_state_dicts_is_named(tmp_path: Path, read) -> None:
    student, teacher = net().state_dict(), {"a": torch.ones(2)}
    torch.save({"student": student, "teacher": teacher}, tmp_path / "dino.pth")
    with pytest.raises(ValueError, match=r"choose one by part=NAME: student, teacher"):
        read(tmp_path / "dino.pth")
    assert_same(read(tmp_path / "dino.pth", part="teacher"), teacher)
    with pytest.raises(ValueError, match="no part 'pupil'; it has student, teacher"):
        read(tmp_path / "dino.pth", part="pupil")


@pytest.mark.parametrize("held", [{}, [1, 2], {"epoch": 3}, {"a": torch.ones(1), "epoch": 3}, torch.ones(2)])
@pytest.mark.parametrize("read", [load_tensors, read_state])
def test_a_torch_file_without_a_state_dict(tmp_path: Path, read, held: object) -> None:
    torch.save(held, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt holds no state dict"):
        read(tmp_path / "odd.pt")


def test_safetensors_in_all_its_forms(tmp_path: Path) -> None:
    state = {"a": torch.randn(2, 3), "b": torch.arange(5)}
    shards = tmp_path / "shards"
    shards.mkdir()
    save_file(state, tmp_path / "model.safetensors")
    save_file({"a": state["a"]}, shards / "one.safetensors")
    save_file({"b": state["b"]}, shards / "two.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    for path in [tmp_path / "model.safetensors", tmp_path, shards, shards / "model.safetensors.index.json"]:
        assert_same(load_tensors(path), state)
        assert_same(read_state(str(path)), state)
    (tmp_path / "model.safetensors").rename(tmp_path / "renamed.pkl")
    assert_same(load_tensors(tmp_path / "renamed.pkl"), state)


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({"weight_map": {"a": "../a.safetensors"}}, "outside its folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "outside its folder"),
        ({"weight_map": {"a": "model.safetensors.index.json"}}, "outside its folder"),
        ({"weight_map": {"a": "a.safetensors", "gone": "a.safetensors"}}, "lack gone"),
        ({"weights": {}}, "weight_map"),
        ({"weight_map": {"a": 3}}, "weight_map"),
        ({"weight_map": [3]}, "weight_map"),
    ],
)
def test_a_bad_index_of_shards(tmp_path: Path, index: object, match: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file({"a": torch.ones(1)}, folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=match) as caught:
        load_tensors(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git LFS"),
        (b"\x93NUMPY\x01\x00", "neither safetensors nor"),
        (b"\x80\x04N.", "neither safetensors nor"),
        (b"PK\x03\x04 and then no zip", "damaged"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"a": 1', "damaged"),
        (b"{ not json", "no index"),
    ],
)
@pytest.mark.parametrize("read", [load_tensors, read_state])
def test_files_that_are_no_weights(tmp_path: Path, read, content: bytes, match: str) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        read(tmp_path / "weights.pt")
    assert "weights.pt" in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.pt"):
        load_tensors(tmp_path / "gone.pt")
    with pytest.raises(FileNotFoundError, match=r"holds none of model\.safetensors"):
        read_state(tmp_path)


def test_load_tensors_names_a_refused_global(tmp_path: Path) -> None:
    torch.save({"args": Namespace(lr=1)}, tmp_path / "args.pt")
    with pytest.raises(ValueError, match=r"args\.pt: its pickle names 'argparse\.Namespace'.*convert"):
        load_tensors(tmp_path / "args.pt")
    torch.save({"model": {"a": torch.ones(2)}, "args": Namespace(lr=1)}, tmp_path / "dino.pth")
    assert_same(read_state(tmp_path / "dino.pth", ["argparse.Namespace"]), {"a": torch.ones(2)})


def test_a_compressed_or_big_endian_zip_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pt")
    for name, way, order in [("bomb.pt", zipfile.ZIP_DEFLATED, b"little"), ("big.pt", zipfile.ZIP_STORED, b"big")]:
        with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / name, "w", way) as bad:
            for entry in good.namelist():
                bad.writestr(entry, order if entry.endswith("byteorder") else good.read(entry))
    with pytest.raises(ValueError, match=r"bomb\.pt .*compressed"):
        read_state(tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"big\.pt .*big-endian"):
        read_state(tmp_path / "big.pt")


@given(data=st.data(), form=st.sampled_from(["zip", "legacy", "safetensors"]))
@fuzz
def test_a_damaged_file_is_read_or_a_value_error(tmp_path: Path, data: st.DataObject, form: str) -> None:
    path = tmp_path / form
    if not path.exists():
        state = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        save_file(state.state_dict(), path) if form == "safetensors" else torch.save(state, path, **FORMS[form])
    damaged = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged").write_bytes(damaged)
    told: list[str] = []
    for read in (lambda file: read_state(file, CLASSES), load_tensors, load_metadata):
        try:
            found = read(tmp_path / "damaged")
        except ValueError as error:
            told.append(str(error))
        else:
            assert isinstance(found, dict)
    assert all(str(tmp_path / "damaged") in message for message in told)


def test_save_tensors_writes_shared_and_strided_tensors_whole(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    state = {"all": base, "same": base, "part": base[1:3], "turned": base.T, "one": nn.Parameter(torch.tensor(2.0))}
    save_tensors(tmp_path / "x.safetensors", state, {"made": "here"})
    assert_same(load_tensors(tmp_path / "x.safetensors"), {name: tensor.detach() for name, tensor in state.items()})
    assert load_metadata(tmp_path / "x.safetensors") == {"made": "here"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)})
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {"made": 3})
    assert_same(load_tensors(tmp_path / "x.safetensors"), {"a": torch.ones(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert load_metadata(tmp_path / "x.safetensors") == {}
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        save_tensors(tmp_path / "folder", {"a": torch.zeros(2)})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "x.safetensors"]


def test_what_cannot_be_written_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone to write x\.safetensors into; make it first"):
        save_tensors(tmp_path / "gone" / "x.safetensors", {"a": torch.ones(2)})

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match=r"x\.safetensors cannot be written: No space left"):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.ones(2)})


@pytest.mark.parametrize("read", [load_tensors, read_state])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_that_repeats_its_numbers_for_ever_is_refused(read: Any, legacy: bool, tmp_path: Path) -> None:
    """A few bytes that claim to be 256 GiB: what makes a copy of it would fill the memory."""
    state = {"b": torch.ones(3), "a": torch.zeros(1).expand(2**30, 64)}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"x\.pt.*\ba (is larger than what is stored|reaches beyond its record)"):
        read(tmp_path / "x.pt")


@pytest.mark.parametrize("read", [load_tensors, read_state])
def test_many_tensors_that_share_a_few_numbers_are_refused(read: Any, tmp_path: Path) -> None:
    few = torch.zeros(2**20)
    torch.save({f"{i}": few for i in range(300)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt has 4\d{6} bytes, and its tensors.* would be 1258291200"):
        read(tmp_path / "x.pt")
    torch.save({f"{i}": few[:99] for i in range(300)}, tmp_path / "x.pt")
    assert len(read(tmp_path / "x.pt")) == 300


def test_a_record_that_claims_to_be_huge(tmp_path: Path) -> None:
    """In torch's older files its length stands before it; one that is out of reach cannot be sought."""
    torch.save({"w": torch.ones(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x.pt").read_bytes()
    at = whole.rindex((3).to_bytes(8, "little"))
    (tmp_path / "x.pt").write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    for read in (load_tensors, read_state):
        with pytest.raises(ValueError, match=r"x\.pt is damaged"):
            read(tmp_path / "x.pt")
    assert held_in(tmp_path / "x.pt") == {}


def test_a_tensor_without_its_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, device="meta")}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: a is .*no plain tensor"):
        load_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("read", [load_tensors, read_state])
def test_a_torch_file_cut_anywhere_is_called_damaged(read: Any, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.randn(50, 50)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for part in range(1, 100):
        path.write_bytes(whole[: len(whole) * part // 100])
        with pytest.raises(ValueError, match=r"weights\.pt"):
            read(path)


@pytest.mark.parametrize("name", ["idx", "..", "."])
def test_an_index_of_itself_or_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "idx").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="outside its folder"):
        load_tensors(tmp_path / "idx")


def test_a_bottomless_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "idx").write_text('{"a":' * 100_000)
    with pytest.raises(ValueError, match="idx"):
        load_tensors(tmp_path / "idx")
