"""Checkpoints: all that a run needs to go on, sharded, written in the background, whole or not at all, and never a pickle.

A checkpoint is a folder `step-00000200/`: a safetensors file for each rank, written and read by torch.distributed.checkpoint, so
that any number of ranks can go on from it; and `state.json`, written last, which lists the files: without it there is no
checkpoint. It lies on a disk that all ranks share, or in an object store (`s3://` ...).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from torchflava import __version__
from torchflava.distributed import rank, world_size
from torchflava.training.places import STATE
from torchflava.training.saved import (
    FORMAT,
    Where,
    best_step,
    checked_state,
    damaged,
    parts_of,
    place_of,
    short,
    whole,
    within,
)
from torchflava.training.together import WAIT, together


class Checkpoints(Generic[Where]):
    """A run's checkpoints in one folder. Made, and its methods called, by every rank; the group of ranks must be there.

    Saving copies the tensors and returns; files are written meanwhile by a thread, over a group of its own, so that training's
    messages and its own do not mix. What fails there is raised by the next `save` or by `wait`.

    Args:
        folder: on a disk that all ranks share; or the URL of one in an object store that fsspec opens: then each rank writes
            its file on its machine's own disk (`TMPDIR`) and sends it from there.
        keep: the last so many are kept, older ones are deleted once a newer one is whole.
        keep_every: those of a step that is a multiple are kept too; 0 keeps none.
        beside: files of the first rank that are copied into `folder` before a checkpoint becomes one, if they have changed.

    Raises:
        ValueError: for numbers that cannot be.
    """

    def __init__(self, folder: Where, *, keep: int = 2, keep_every: int = 0, beside: Sequence[Path] = ()) -> None:
        if keep < 1 or keep_every < 0:
            raise ValueError(f"keep {keep} must be 1 or more, and keep_every {keep_every} 0 or more")
        self.folder, self.place = folder, place_of(folder)
        self.keep, self.keep_every = keep, keep_every
        self._beside: dict[Path, tuple[int, int] | None] = dict.fromkeys(beside)
        self._group: Any = dist.new_group(backend="gloo", timeout=WAIT)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._best: int | None = None  # step, on the first rank once it has saved; -1 if none is the best

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        state: Mapping[str, Any],
        best: bool = False,
    ) -> Where:
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
        name = f"step-{step:08d}"
        written = self.place.prepare(name)
        dist.barrier(self._group)
        tensors = _tensors(model, optimizer)
        writer = HuggingFaceStorageWriter(str(written), save_distributed=True)
        writing = async_save(tensors, storage_writer=writer, process_group=self._group)
        versions = {"torch": torch.__version__, "torchflava": __version__}
        told = {"format": FORMAT, "step": step, "ranks": world_size(), **versions, **state}
        self._pending = self._thread.submit(self._finish, writing, written, name, told=told, best=best)
        return within(self.folder, name)

    def wait(self) -> None:
        """Return once the last checkpoint is whole.

        Raises:
            OSError: if it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _finish(self, writing: Any, written: Path, name: str, *, told: dict[str, Any], best: bool) -> None:
        target = within(self.folder, name)
        try:
            writing.result()
            self._on_first(lambda: self.place.make_way(name))
            files: dict[str, int] = {}
            for part in together(lambda: self.place.publish(name, written), self._group):
                files |= part
            self._on_first(lambda: self._seal(name, told | {"files": files}, best=best))
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            raise OSError(f"{target} could not be written ({short(error)}); the one before it is whole") from error
        finally:
            self.place.discard(written)
        try:
            self._on_first(self._forget)
        except (OSError, ValueError) as error:
            raise OSError(f"{target} is whole, but older ones could not be deleted ({short(error)})") from error

    def _on_first(self, act: Callable[[], None]) -> None:
        together(lambda: act() if rank() == 0 else None, self._group)

    def _seal(self, name: str, told: dict[str, Any], *, best: bool) -> None:
        """Make published files a checkpoint."""
        self.place.see(name, told["files"])
        for path, before in self._beside.items():
            if path.is_file() and (now := (path.stat().st_mtime_ns, path.stat().st_size)) != before:
                self.place.write(path.name, path.read_bytes())
                self._beside[path] = now
        found = told["step"] if best else best_step(self.place) if self._best is None else self._best
        self.place.write(f"{name}/{STATE}", _as_json(told | {"best_step": found}))
        self._best = found

    def _forget(self) -> None:
        """Delete what need not be kept, and halves that a killed save left."""
        there = whole(self.place)
        for name in self.place.steps():
            step = int(name.partition("-")[2])
            wanted = step == self._best or (self.keep_every and step % self.keep_every == 0)
            if name < there[-self.keep :][0] and not (wanted and name in there):
                self.place.delete(name)


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights of a sharded model, whole and on the CPU, on the first rank; empty on the others. Called by every rank."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {name: v for name, v in get_model_state_dict(model, options=whole).items() if isinstance(v, Tensor)}


def load_checkpoint(
    path: Path | str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read a checkpoint into a model and an optimizer, on any number of ranks; what `state` was, and `step`.

    Nothing is changed unless all of it can be read.

    Args:
        path: of the checkpoint's folder; or its URL: its files are fetched once a machine, onto its own disk, and deleted.
        model: may be sharded.
        optimizer: of its parameters; left out for evaluation.
        config: must be the saved one's, where given.
        defaults: of settings, for those that the saved config lacks because they came later.

    Raises:
        ValueError: if the checkpoint is damaged, of another format or model, or of another config.
        OSError: if it cannot be fetched.
    """
    state = checked_state(path, config, defaults)
    named = dict(model.named_parameters())
    own = {f"model/{name}": value for name, value in model.state_dict().items()}
    place, name = parts_of(path)
    with place.fetched(name, state["files"]) as folder:
        found = _found(folder, path, own, moments_of=named if optimizer is not None else {})
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(found[key])
    if state["ranks"] == world_size() and (random := f"random/{rank()}") in found:
        torch.set_rng_state(found[random])
    if optimizer is not None:
        _set_moments(optimizer, named, {key: value for key, value in found.items() if key.startswith("optimizer/")})
    return state


def _found(
    folder: Path, path: Path | str, own: Mapping[str, Tensor], *, moments_of: Mapping[str, nn.Parameter]
) -> dict[str, Any]:
    """This rank's shards of all tensors in the files in `folder`, which are those of the checkpoint at `path`."""
    try:
        there: dict[str, Any] = dict(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
    except Exception as error:  # whatever a damaged header makes its reader stumble over
        raise damaged(path, error) from error
    _refuse_other_model(path, own, {key: tuple(told.size) for key, told in there.items() if key.startswith("model/")})
    found: dict[str, Any] = {key: torch.empty_like(value) for key, value in own.items()}
    if f"random/{rank()}" in there:
        found[f"random/{rank()}"] = torch.get_rng_state()
    for key, told in there.items() if moments_of else ():
        name = key.removeprefix("optimizer/").rpartition("/")[0]
        if key.startswith("optimizer/"):
            like = moments_of[name].detach() if told.size == moments_of[name].shape and told.size else None
            found[key] = torch.empty(told.size, dtype=told.properties.dtype) if like is None else torch.empty_like(like)
    try:
        load(found, storage_reader=HuggingFaceStorageReader(str(folder)))
    except (Exception, CheckpointException) as error:
        raise damaged(path, error) from error
    return found


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


def _refuse_other_model(path: Path | str, own: Mapping[str, Tensor], there: Mapping[str, tuple[int, ...]]) -> None:
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


def _as_json(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, indent=1).encode()
