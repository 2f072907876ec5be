"""Checkpoints in an object store are those of a local folder to the bit, and what goes wrong with it never shadows a good one."""

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bucket
import fsspec
import pytest
import torch
from bucket import Bucket, asked
from safetensors.torch import load, load_file
from torch import nn

from torchflava.training import (
    Checkpoints,
    adamw,
    best_checkpoint,
    last_checkpoint,
    load_checkpoint,
    local_folder,
    place_of,
    read_state,
    session,
)
from torchflava.training import checkpoint as checkpoint_module


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """One process, its own disk, which is empty afterwards, and the pauses between tries, which take no time."""
    bucket.register()
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    with session(0, "cpu"):
        yield pauses
    assert list((tmp_path / "disk").glob("torchflava-*")) == []


@pytest.fixture(params=["bucket", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return bucket.made(tmp_path) if request.param == "bucket" else f"memory://{tmp_path.name}/run"


def made(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3), nn.Dropout(0.5))
    return model, adamw(model, 1e-2, 0.1)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> list[float]:
    seen = []
    for i in range(n):
        loss = model(torch.full((4, 5), 0.1 * (i + 1))).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
    return seen


def saved(where: Any, *numbers: int, **more: Any) -> Any:
    """A model and its optimizer, saved after these steps; what saves them, and the path of the last."""
    model, optimizer = made(0)
    steps(model, optimizer, 2)
    checkpoints = Checkpoints(where, **more)
    for step in numbers:
        path = checkpoints.save(step, model, optimizer, state={"config": {"lr": 0.01}, "scale": 2.0})
    checkpoints.wait()
    return checkpoints, path, model, optimizer


def test_a_run_goes_on_from_a_url_as_from_a_folder(url: str, tmp_path: Path) -> None:
    _, path, model, optimizer = saved(url, 3)
    drawn = torch.get_rng_state()
    _, local, *_ = saved(tmp_path / "local", 3)
    assert read_state(path) == json.loads((local / "state.json").read_text())
    files = place_of(url).sizes("step-00000003")
    assert files == {found.name: found.stat().st_size for found in local.iterdir()}
    for name in files.keys() - {"state.json"}:
        far, near = load(place_of(url).read(f"step-00000003/{name}")), load_file(local / name)
        assert far.keys() == near.keys()
        assert all(far[key].equal(value) for key, value in near.items())
    torch.set_rng_state(drawn)
    want = steps(model, optimizer, 4)
    other, its = made(1)
    steps(other, its, 1)
    found = last_checkpoint(url)
    assert found == path == f"{url}/step-00000003"
    state = load_checkpoint(found, other, its, config={"lr": 0.01})
    assert (state["step"], state["scale"]) == (3, 2.0)
    assert steps(other, its, 4) == want


@pytest.mark.parametrize(("keep", "every", "left"), [(1, 0, [5, 7]), (2, 3, [3, 5, 6, 7])])
def test_the_last_the_best_and_every_nth_are_kept(url: str, keep: int, every: int, left: list[int]) -> None:
    model, optimizer = made(0)
    checkpoints = Checkpoints(url, keep=keep, keep_every=every)
    for step in range(1, 8):
        checkpoints.save(step, model, optimizer, state={}, best=step in (2, 5))
    checkpoints.wait()
    assert place_of(url).steps() == [f"step-{n:08d}" for n in left]
    assert best_checkpoint(url) == f"{url}/step-00000005"
    assert last_checkpoint(url) == f"{url}/step-00000007"


def test_nothing_is_there_before_the_first_save(url: str) -> None:
    assert last_checkpoint(url) is None
    assert best_checkpoint(url) is None
    with pytest.raises(ValueError, match="step-00000001 is damaged"):
        load_checkpoint(f"{url}/step-00000001", made(0)[0])


def test_what_makes_a_checkpoint_comes_last_and_goes_first(tmp_path: Path) -> None:
    url = bucket.made(tmp_path)
    checkpoints, path, model, optimizer = saved(url, 1, keep=1)
    shard = next(iter(read_state(path)["files"]))
    assert asked(tmp_path, "put", "rm") == [f"put run/step-00000001/{shard}", "put run/step-00000001/state.json"]
    (tmp_path / "asked").unlink()
    for step in (1, 2):  # the first over one that is whole
        checkpoints.save(step, model, optimizer, state={})
    checkpoints.wait()
    of = {n: [f"run/step-0000000{n}/state.json", f"run/step-0000000{n}/{shard}"] for n in (1, 2)}
    assert asked(tmp_path, "put", "rm") == [
        *(f"rm {name}" for name in of[1]),
        *(f"put {name}" for name in reversed(of[1])),
        *(f"put {name}" for name in reversed(of[2])),
        *(f"rm {name}" for name in of[1]),
    ]


def failing(verb: str, ending: str, times: int) -> tuple[Callable[[str, str], None], list[str]]:
    """A fault of requests whose path so ends, the first so many times; and the paths at which it came."""
    failed: list[str] = []

    def fault(said: str, path: str) -> None:
        if said == verb and path.endswith(ending) and len(failed) < times:
            failed.append(path)
            raise ConnectionResetError("the line is cut")

    return fault, failed


@pytest.mark.parametrize(("verb", "ending"), [("put", "safetensors"), ("half", "safetensors"), ("put", "state.json")])
def test_what_fails_twice_is_sent_a_third_time(
    verb: str, ending: str, tmp_path: Path, machine: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, failed = failing(verb, ending, 2)
    monkeypatch.setattr(Bucket, "fault", staticmethod(fault))
    _, path, model, optimizer = saved(bucket.made(tmp_path), 1)
    assert (len(failed), machine) == (2, [1.0, 2.0])
    assert load_checkpoint(path, model, optimizer)["step"] == 1


@pytest.mark.parametrize(("verb", "ending"), [("half", "safetensors"), ("put", "state.json"), ("ls", "step-00000002")])
def test_a_save_that_fails_for_good_is_told_and_leaves_the_last_good_one(
    verb: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket.made(tmp_path)
    checkpoints, good, model, optimizer = saved(url, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "fault", staticmethod(failing(verb, ending, 99)[0]))
        checkpoints.save(2, model, optimizer, state={})
        told = r"step-00000002 could not be written \(.*7 tries, the last: ConnectionResetError: the line is cut\); the one"
        with pytest.raises(OSError, match=told):
            checkpoints.wait()
    assert last_checkpoint(url) == good
    assert load_checkpoint(good, model, optimizer)["step"] == 1
    again = checkpoints.save(2, model, optimizer, state={})
    checkpoints.wait()
    assert last_checkpoint(url) == again
    assert place_of(url).steps() == ["step-00000002"]


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = bucket.made(tmp_path)
    checkpoints, good, model, optimizer = saved(url, 1)

    def full(*parts: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.HuggingFaceStorageWriter, "write_data", full)
    checkpoints.save(2, model, optimizer, state={})
    with pytest.raises(OSError, match=r"step-00000002 could not be written .*No space left on device"):
        checkpoints.wait()
    assert last_checkpoint(url) == good


def test_old_ones_that_cannot_be_deleted_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = bucket.made(tmp_path)
    checkpoints, _, model, optimizer = saved(url, 1, keep=1)
    monkeypatch.setattr(Bucket, "fault", staticmethod(failing("rm", "state.json", 99)[0]))
    path = checkpoints.save(2, model, optimizer, state={})
    with pytest.raises(
        OSError, match=r"step-00000002 is whole, but older ones could not be deleted \(.*the line is cut"
    ):
        checkpoints.wait()
    assert last_checkpoint(url) == path


def test_a_half_is_no_checkpoint_is_written_over_and_is_deleted_once_it_lies_behind(url: str) -> None:
    checkpoints, path, model, optimizer = saved(url, 3)
    place = place_of(url)
    for step in ("step-00000002", "step-00000009"):
        place.write(f"{step}/shard-00077-model-00001-of-00001.safetensors", b"of a run with more ranks")
    assert last_checkpoint(url) == path
    checkpoints.save(9, model, optimizer, state={})
    checkpoints.wait()
    assert place.steps() == ["step-00000003", "step-00000009"]
    assert len(place.sizes("step-00000009")) == 2
    assert load_checkpoint(f"{url}/step-00000009", model, optimizer)["step"] == 9


def test_a_damaged_one_is_told_and_nothing_is_changed(url: str) -> None:
    _, path, model, optimizer = saved(url, 3)
    place, name = place_of(url), "step-00000003"
    state = read_state(path)
    (file,) = state["files"]
    whole, before = place.read(f"{name}/{file}"), {key: value.clone() for key, value in model.state_dict().items()}
    place.write(f"{name}/{file}", whole[:-1])
    with pytest.raises(ValueError, match=r"step-00000003 is damaged \(shard.* is not as long as it was\); delete it"):
        load_checkpoint(path, model, optimizer)
    place.write(f"{name}/{file}", whole[:20] + b"x" * 20 + whole[40:])
    with pytest.raises(ValueError, match="step-00000003 is damaged"):
        load_checkpoint(path, model, optimizer)
    for strange in ("../../x.safetensors", "/x.safetensors", "x.sh"):
        place.write(f"{name}/state.json", json.dumps(state | {"files": {strange: 1}}).encode())
        with pytest.raises(ValueError, match="is no name of a file of tensors"):
            load_checkpoint(path, model, optimizer)
    place.write(f"{name}/state.json", b'{"step": 3')
    with pytest.raises(ValueError, match="step-00000003 is damaged"):
        read_state(path)
    assert all(before[key].equal(value) for key, value in model.state_dict().items())


def test_a_fetch_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path, model, optimizer = saved(bucket.made(tmp_path), 3)
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "fault", staticmethod(failing("get", "safetensors", 3)[0]))
        assert load_checkpoint(path, model, optimizer)["step"] == 3
        patch.setattr(Bucket, "fault", staticmethod(failing("get", "safetensors", 99)[0]))
        with pytest.raises(OSError, match=r"step-00000003/shard.*: 7 tries, the last: ConnectionResetError"):
            load_checkpoint(path, model, optimizer)
        patch.undo()
        patch.setattr(Bucket, "get_file", lambda store, there, here, *more, **how: Path(here).write_bytes(b"cut"))
        with pytest.raises(OSError, match="did not come whole from"):
            load_checkpoint(path, model, optimizer)


def test_what_other_machines_wrote_meanwhile_is_seen(tmp_path: Path) -> None:
    url = bucket.made(tmp_path)
    _, path, *_ = saved(url, 3)
    assert last_checkpoint(url) == path
    folder = tmp_path / "bucket" / "run"
    (folder / "step-00000004").mkdir()
    (folder / "step-00000004" / "state.json").write_text("{}")
    assert last_checkpoint(url) == f"{url}/step-00000004"


def test_files_beside_are_there_before_a_checkpoint_is_and_are_sent_when_they_change(tmp_path: Path) -> None:
    url, log, vocab = bucket.made(tmp_path), tmp_path / "log.jsonl", tmp_path / "vocab.txt"
    log.write_text("1\n")
    checkpoints, _, model, optimizer = saved(url, 1, beside=[log, vocab, tmp_path / "none"])
    assert [line.rpartition("/")[2] for line in asked(tmp_path, "put")][1:] == ["log.jsonl", "state.json"]
    vocab.write_text("word\n")
    for step, text in ((2, "1\n2\n"), (3, "1\n2\n3\n")):
        log.write_text(text)
        checkpoints.save(step, model, optimizer, state={})
        checkpoints.wait()
        assert place_of(url).read("log.jsonl").decode() == text
    assert asked(tmp_path, "put").count("put run/vocab.txt") == 1
    assert place_of(url).read("vocab.txt") == b"word\n"


def test_a_place_is_tried_and_left_clean(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_of(url).check()
    assert last_checkpoint(url) is None
    if url.startswith("memory"):
        assert not fsspec.filesystem("memory").find(f"/{tmp_path.name}/run")
        return

    def refuse(verb: str, path: str) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(Bucket, "fault", staticmethod(refuse))
    with pytest.raises(OSError, match=r"run/\.writable-.*: AccessDenied"):
        place_of(url).check()
    monkeypatch.undo()
    with pytest.raises(OSError, match="there is no bucket at /nowhere/bucket"):
        place_of("bucket:///nowhere/bucket/run").check()


@pytest.mark.parametrize(("times", "raised"), [(2, RuntimeError), (99, RuntimeError), (99, PermissionError)])
def test_a_store_that_fails_while_it_is_opened_is_tried_again(
    times: int, raised: type[Exception], tmp_path: Path, machine: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clients do that look for credentials, or ask the network, where they are made."""
    url, failed = bucket.made(tmp_path), []
    plain = Bucket._get_kwargs_from_urls

    def opened(path: str) -> Any:
        failed.append(path)
        if len(failed) <= times:
            raise raised("no credentials")
        return plain(path)

    monkeypatch.setattr(Bucket, "_get_kwargs_from_urls", staticmethod(opened))
    if times == 2:
        assert last_checkpoint(url) is None
        assert machine == [1.0, 2.0]
        return
    tries, told = (
        (1, "no credentials") if raised is PermissionError else (7, "7 tries, the last: RuntimeError: no cred")
    )
    with pytest.raises(OSError, match=rf"{url}: {told}"):
        last_checkpoint(url)
    assert len(failed) == tries


def test_what_cannot_be_opened_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        ValueError, match=r"s3://bucket/run cannot be opened here \(Install s3fs .*\); pip install s3fs"
    ):
        last_checkpoint("s3://bucket/run")
    with pytest.raises(
        ValueError, match=r"cannot be opened \(Protocol not known: nowhere\); give a URL that fsspec knows"
    ):
        place_of("nowhere://bucket/run").check()


def test_a_file_url_is_a_local_folder(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/run"
    _, path, model, optimizer = saved(url, 3)
    assert path == last_checkpoint(url) == f"{url}/step-00000003"
    assert last_checkpoint(tmp_path / "run") == tmp_path / "run" / "step-00000003"
    assert last_checkpoint(str(tmp_path / "run")) == f"{tmp_path}/run/step-00000003"
    assert load_checkpoint(path, model, optimizer)["step"] == 3


def test_a_file_url_is_read_as_its_standard_says(tmp_path: Path) -> None:
    """RFC 8089: the host may be localhost, and characters may be written by their numbers."""
    saved(tmp_path / "a run", 3)
    for url in (f"file://localhost{tmp_path}/a run", f"file://{tmp_path}/a%20run"):
        assert last_checkpoint(url) == f"{url}/step-00000003"
        assert local_folder(url) == tmp_path / "a run"
    assert (local_folder("s3://bucket/run"), local_folder("a%20run")) == (None, Path("a%20run"))
    with pytest.raises(
        ValueError, match="file://there/run is a folder of the machine 'there'; write file:///there/run"
    ):
        last_checkpoint("file://there/run")


def test_what_killed_processes_left_on_the_disk_is_deleted(tmp_path: Path) -> None:
    old = time.time() - 3600
    names = ("torchflava-checkpoint-dead", "torchflava-checkpoint-alive", "torchflava-checkpoint-new", "other-dead")
    paths = [tmp_path / "disk" / name for name in names]
    for path in paths:
        path.mkdir()
        (path / "half.safetensors").touch()
        if not path.name.endswith("new"):
            os.utime(path, (old, old))
    elsewhere = tmp_path / "disk" / "torchflava-checkpoint-link"
    elsewhere.symlink_to(paths[3])
    lock = os.open(paths[1], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    saved(bucket.made(tmp_path), 1)
    assert [path.exists() for path in paths] == [False, True, True, True]
    assert (paths[3] / "half.safetensors").exists()
    os.close(lock)
    for path in paths[1:]:
        (path / "half.safetensors").unlink()
        path.rmdir()
    elsewhere.unlink()
