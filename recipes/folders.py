"""A run's own folder: a new one, the one of its name, or the one to go on in; and whether it can hold what will be written."""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from keeping import Keeping
from kept import local_disk, where_checkpoints_lie
from torch import nn

from torchflava.training import last_checkpoint, local_folder

_BYTES = 12  # of a weight in a checkpoint: itself and AdamW's two moments, in float32
_PATIENCE = 60.0  # seconds in which a start that was stopped may still end
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)  # of a disk that knows none

_held: dict[Path, int] = {}  # locks of the folders that this process trains in, until it ends


def find_folder(config: Keeping) -> tuple[Path, Path | str | None]:
    """The run's folder, which is made, and the checkpoint to go on from, if there is one; the first rank tells the others.

    Raises:
        OSError: if nothing can be written there.
        ValueError: if there shall be a checkpoint and is none; if the folder's run has its checkpoints in another place; if
            torchrun may start the run again and it has no name; or if another process trains there.
    """
    name = config.name or _name_of_job(config)
    folder = Path(config.resume or Path(config.folder) / (name or _new_name(config)))
    try:
        folder = _made(folder) if config.resume or name else _made_anew(folder)
        with tempfile.TemporaryFile(dir=folder, prefix="."):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error}); choose another place by --folder") from error
    _hold(folder)
    where = where_checkpoints_lie(config, folder)
    last = last_checkpoint(where)
    if config.resume and last is None:
        raise ValueError(f"{where} has no checkpoint for {folder} to go on from; start anew without --resume")
    if last is None:
        _refuse_other_place(folder, where)
    return folder, last


def check_space(config: Keeping, folder: Path, model: nn.Module) -> None:
    """Refuse to train what could not be saved: `--keep` checkpoints, and the next beside them until it is whole.

    Raises:
        OSError: if the disk has no room for those that are not there yet.
    """
    disk, where = local_disk(config, folder), where_checkpoints_lie(config, folder)
    far = local_folder(where) is None
    count = 1 if far else max(1, config.keep + 1 - len(list(disk.glob("step-*"))))
    one = _BYTES * sum(parameter.numel() for parameter in model.parameters())
    free = shutil.disk_usage(disk).free
    if free < count * one:
        flag = "TMPDIR" if far else "--checkpoints" if config.checkpoints else "--folder"
        takes = f"a checkpoint takes {one / 1e9:.3g} GB" + (f", and {count} of them are to come" if count > 1 else "")
        fewer = ", keep fewer by --keep" if count > 2 else ""  # one, and the next beside it
        raise OSError(
            f"{disk} has {free / 1e9:.3g} GB left and {takes}; make room{fewer}, or choose another place by {flag}"
        )


def _refuse_other_place(folder: Path, where: Path | str) -> None:
    """A start anew would write over what the checkpoints need that the folder's run has elsewhere than in `where`."""
    place = _named_place(folder)
    if last_checkpoint(folder) is not None:
        told, way = str(folder), "without --checkpoints"
    elif place and place != str(where) and _may_have_one(place):
        told, way = place, f"with --checkpoints {place}"
    else:
        return
    raise ValueError(
        f"{where} has no checkpoint, but the run in {folder} has its checkpoints in {told}; go on {way}, or start another run "
        "by another --name"
    )


def _named_place(folder: Path) -> str:
    """`--checkpoints` of the folder's run; empty if it has none."""
    try:
        return str(json.loads((folder / "config.json").read_bytes()).get("checkpoints", ""))
    except (FileNotFoundError, ValueError):  # it died before it was whole, and so before a checkpoint
        return ""


def _may_have_one(place: str) -> bool:
    try:
        return last_checkpoint(place) is not None
    except (OSError, ValueError):  # out of reach: nobody knows
        return True


def _hold(folder: Path) -> None:
    """Keep other processes out of `folder`: two runs of one name would write over each other's checkpoints.

    The system lets go when this process ends, however it ends; a disk that has no locks has none here.
    """
    if folder.absolute() in _held:
        return
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _wait_for(lock, folder)
    except BaseException:
        os.close(lock)
        raise
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _held[folder.absolute()] = lock


def _wait_for(lock: int, folder: Path) -> None:
    end, told = time.monotonic() + _PATIENCE, False
    while not _locked(lock):
        who = os.pread(lock, 1000, 0).decode(errors="replace").strip() or "another process"
        if time.monotonic() > end:
            raise ValueError(
                f"{who} is training in {folder}; wait for it or end it, or start another run by another --name"
            )
        if not told:
            print(f"waiting for {who}, which is still in {folder}", flush=True)
        told = True
        time.sleep(0.2)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _made_anew(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3 ... that is not there yet: runs may begin in the same second."""
    for name in chain([folder.name], (f"{folder.name}-{number}" for number in count(2))):
        with suppress(FileExistsError):
            folder.with_name(name).mkdir(parents=True)
            return folder.with_name(name)
    raise AssertionError("there is always a next number")


def _new_name(config: Keeping) -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{config.preset}"


def _name_of_job(config: Keeping) -> str:
    """Of a run without a name whose job may start again, so that it goes on; empty where each start is a new run.

    Schedulers give TORCHFLAVA_RUN_NAME (torchflava/launch/slurm.py, pods.py); torchrun its --rdzv-id, to all its workers.
    """
    if name := os.environ.get("TORCHFLAVA_RUN_NAME"):
        return f"{name}-{config.preset}"
    if config.resume or config.checkpoints or not int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")):
        return ""
    run_id = re.sub(r"[^\w-]+", "-", os.environ.get("TORCHELASTIC_RUN_ID", "none"))
    if run_id == "none":  # what torchrun says where it was given no id and made none
        raise ValueError(
            "torchrun may start this run again (--max-restarts), which would then begin anew; name the run by --name, or the "
            "job by torchrun's --rdzv-id"
        )
    return f"{run_id}-{config.preset}"
