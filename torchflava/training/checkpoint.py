"""Checkpoints: all that a run needs to go on, sharded, written in the background, whole or not at all, and never a pickle.

A checkpoint is a folder `step-00000200/`: a safetensors file for each rank, written and read by torch.distributed.checkpoint, so
that any number of ranks can go on from it; and `state.json`, written last, which lists the files: without it there is no
checkpoint.
"""

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from torchflava.distributed import rank, world_size

FORMAT = 2
"""Of the folder; raised when an older reader could not read it."""


class Checkpoints:
    """A run's checkpoints in one folder. Made, and its methods called, by every rank; the group of ranks must be there.

    Saving copies the tensors and returns; files are written meanwhile by a thread, over a group of its own, so that training's
    messages and its own do not mix. What fails there is raised by the next `save` or by `wait`.

    Args:
        folder: on a disk that all ranks share.
        keep: the last so many are kept, older ones are deleted once a newer one is whole.
        keep_every: those of a step that is a multiple are kept too; 0 keeps none.

    Raises:
        ValueError: for numbers that cannot be.
    """

    def __init__(self, folder: Path, *, keep: int = 2, keep_every: int = 0) -> None:
        if keep < 1 or keep_every < 0:
            raise ValueError(f"keep {keep} must be 1 or more, and keep_every {keep_every} 0 or more")
        self.folder = folder
        self.keep, self.keep_every = keep, keep_every
        self._group: Any = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        state: Mapping[str, Any],
        best: bool = False,
    ) -> Path:
        """Begin to write the checkpoint after `step` steps.

        Args:
            step: the steps done.
            model: may be sharded.
            optimizer: of its parameters.
            state: what else goes on, in what JSON can hold, the same on every rank: config, loss scale.
            best: keep this one, whatever comes, until a better one does.

        Returns:
            Where it will be.

        Raises:
            OSError: if the one before could not be written.
        """
        self.wait()
        target = self.folder / f"step-{step:08d}"
        if rank() == 0:
            _clear(target)
        dist.barrier(self._group)
        tensors = _tensors(model, optimizer)
        writer = HuggingFaceStorageWriter(str(target), save_distributed=True)
        written = async_save(tensors, storage_writer=writer, process_group=self._group)
        told = {"format": FORMAT, "step": step, "ranks": world_size(), "torch": torch.__version__, **state}
        self._pending = self._thread.submit(self._finish, written, target, told, best)
        return target

    def wait(self) -> None:
        """Return once the last checkpoint is whole.

        Raises:
            OSError: if it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _finish(self, written: Any, target: Path, told: dict[str, Any], best: bool) -> None:
        try:
            written.result()
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            raise OSError(f"{target} could not be written ({_short(error)}); the one before it is whole") from error
        if rank() == 0:
            _seal(target, told)
            if best:
                _write(self.folder / "best.json", {"step": told["step"]})
            self._forget()

    def _forget(self) -> None:
        """Delete what need not be kept, and halves that a killed save left."""
        whole, best = _whole(self.folder), _best(self.folder)
        for path in self.folder.glob("step-*"):
            step = int(path.name.partition("-")[2])
            wanted = step == best or (self.keep_every and step % self.keep_every == 0)
            if path.name < whole[-self.keep :][0].name and not (wanted and path in whole):
                (path / "state.json").unlink(missing_ok=True)
                shutil.rmtree(path)


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a sharded model, whole and on the CPU, on the first rank; empty on the others. Called by every rank."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {name: v for name, v in get_model_state_dict(model, options=whole).items() if isinstance(v, Tensor)}


def last_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint of the greatest step in `folder`, if there is one."""
    whole = _whole(folder)
    return whole[-1] if whole else None


def best_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint that was saved as the best, if there is one."""
    best = _best(folder)
    return next((path for path in _whole(folder) if path.name == f"step-{best:08d}"), None)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read a checkpoint into a model and an optimizer, on any number of ranks; what `state` was, and `step`.

    Nothing is changed unless all of it can be read.

    Args:
        path: of the checkpoint's folder.
        model: may be sharded.
        optimizer: of its parameters; left out for evaluation.
        config: must be the saved one's, where given.

    Raises:
        ValueError: if the checkpoint is damaged, of another format or model, or of another config.
    """
    state = _checked_state(path, config)
    named = dict(model.named_parameters())
    reader = HuggingFaceStorageReader(str(path))
    try:
        there: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    except Exception as error:  # whatever a damaged header makes its reader stumble over
        raise _damaged(path, error) from error
    own = {f"model/{name}": value for name, value in model.state_dict().items()}
    _refuse_other_model(path, own, {key: tuple(told.size) for key, told in there.items() if key.startswith("model/")})
    found: dict[str, Any] = {key: torch.empty_like(value) for key, value in own.items()}
    if f"random/{rank()}" in there:
        found[f"random/{rank()}"] = torch.get_rng_state()
    if optimizer is not None:
        for key, told in there.items():
            name = key.removeprefix("optimizer/").rpartition("/")[0]
            if key.startswith("optimizer/"):
                like = named[name].detach() if told.size == named[name].shape and told.size else None
                found[key] = (
                    torch.empty(told.size, dtype=told.properties.dtype) if like is None else torch.empty_like(like)
                )
    try:
        load(found, storage_reader=HuggingFaceStorageReader(str(path)))
    except (Exception, CheckpointException) as error:
        raise _damaged(path, error) from error
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(found[key])
    if state["ranks"] == world_size() and (random := f"random/{rank()}") in there:
        torch.set_rng_state(found[random])
    if optimizer is not None:
        _set_moments(optimizer, named, {key: value for key, value in found.items() if key.startswith("optimizer/")})
    return state


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All tensors of a run by name; of sharded ones this rank's shards."""
    names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Any] = {f"model/{name}": value for name, value in model.state_dict().items()}
    for parameter, moments in optimizer.state.items():
        tensors |= {f"optimizer/{names[parameter]}/{part}": value for part, value in moments.items()}
    return tensors | {f"random/{rank()}": torch.get_rng_state()}


def _set_moments(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], found: Mapping[str, Any]) -> None:
    """A parameter that has had no gradient yet has no moments, before and after."""
    optimizer.state.clear()
    for key, value in found.items():
        name, _, part = key.removeprefix("optimizer/").rpartition("/")
        optimizer.state[named[name]][part] = value


def _clear(target: Path) -> None:
    """Make an empty folder; what made it a checkpoint goes first."""
    (target / "state.json").unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)


def _seal(target: Path, told: dict[str, Any]) -> None:
    """Make a folder of written files a checkpoint."""
    files = {}
    for path in sorted(target.glob("*.safetensors")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = path.stat().st_size
    _write(target / "state.json", told | {"files": files})


def _write(path: Path, told: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("w") as file:
        json.dump(told, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the name could be lost where the power is
    finally:
        os.close(folder)


def _whole(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def _best(folder: Path) -> int:
    try:
        return int(json.loads((folder / "best.json").read_text())["step"])
    except FileNotFoundError:
        return -1


def _checked_state(path: Path, config: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text())
        there = {name: (path / name).stat().st_size for name in state["files"]}
        if state["format"] == FORMAT and there != state["files"]:
            short = [name for name, size in there.items() if size != state["files"][name]]
            raise ValueError(f"{', '.join(short)} is not as long as it was")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path, error) from error
    if state["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {state['format']}, this version reads {FORMAT}; use the version that wrote it"
        )
    if config is not None:
        both = state.get("config", {}), json.loads(json.dumps(config))
        told = [f"{key} was {both[0].get(key)!r}, is {both[1].get(key)!r}" for key in both[0] | both[1]
                if both[0].get(key) != both[1].get(key)]  # fmt: skip
        if told:
            raise ValueError(
                f"{path} belongs to another run: {'; '.join(told)}; go on with the same settings or start a new folder"
            )
    return state


def _refuse_other_model(path: Path, own: Mapping[str, Tensor], there: Mapping[str, tuple[int, ...]]) -> None:
    told = [f"{name} is missing" for name in own if name not in there]
    told += [f"{name} is not the model's" for name in there if name not in own]
    told += [
        f"{name} is {there[name]}, the model's {tuple(value.shape)}"
        for name, value in own.items()
        if name in there and there[name] != tuple(value.shape)
    ]
    if told:
        raise ValueError(
            f"{path} is of another model: {'; '.join(told[:5])} ({len(told)} in all); build the one it is of"
        )


def _short(error: BaseException) -> str:
    """One line of it; of a failure on several ranks, the first rank's."""
    failures = list(getattr(error, "failures", {}).values())
    first = failures[0][0] if failures else error
    return str(first).strip().splitlines()[-1] if str(first).strip() else type(first).__name__


def _damaged(path: Path, error: BaseException) -> ValueError:
    return ValueError(f"{path} is damaged ({_short(error)}); delete it to go on from the checkpoint before it")
