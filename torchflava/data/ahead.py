"""Making things by their number in worker processes, in order, ahead of their use, with a state to go on from.

torchdata's StatefulDataLoader does the processes, the prefetching, the pinning and the state.
"""

import multiprocessing
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

State = dict[str, Any]
"""StatefulDataLoader's, in numbers and names that JSON can hold; of this number of workers."""
_END = object()


def read_ahead(
    make: Callable[[int], Any], stop: int, *, num_workers: int, state: State | None = None
) -> Iterator[tuple[Any, State]]:
    """What `make` returns for 0 to stop - 1, in order, each with the state after it; in pinned memory where CUDA is in use.

    The workers are started from a clean server (forkserver, or afresh where there is none), never forked from this process,
    whose CUDA, NCCL and threads would not survive it. They end with the iterator. No global generator is used here.

    Args:
        make: pure in its number; pickled, with all that it holds, if there are workers.
        stop: the end of the numbers.
        num_workers: processes; 0 makes everything here.
        state: to go on from.

    Raises:
        ValueError: if `make` cannot be pickled.
        Exception: whatever `make` raises, with the worker's traceback as a note.
        RuntimeError: if a worker is lost.
    """
    loader = _loader(make, stop, num_workers)
    if state is not None:
        loader.load_state_dict(state)
    try:
        made_ahead = iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # pickle raises all three
        if not num_workers:
            raise
        raise ValueError(
            f"this cannot be sent to worker processes ({error}); define sources, rows and collate at the top of a module, "
            "or use num_workers=0"
        ) from error
    try:
        while (made := _next(made_ahead, num_workers)) is not _END:
            if isinstance(made, _Failed):
                raise made.error
            yield made, loader.state_dict()
    finally:
        if num_workers:
            made_ahead._shutdown_workers()  # here and now, not when a traceback that holds them is forgotten


def _loader(make: Callable[[int], Any], stop: int, num_workers: int) -> Any:
    methods = multiprocessing.get_all_start_methods()
    with warnings.catch_warnings():
        # torchdata 0.11 calls it, torch 2.14 wants it gone
        warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)
        return StatefulDataLoader(
            _Caught(make),
            batch_size=None,
            sampler=_Numbers(stop),
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available() and torch.cuda.is_initialized(),  # type: ignore[no-untyped-call]
            multiprocessing_context=("forkserver" if "forkserver" in methods else "spawn") if num_workers else None,
            generator=torch.Generator(),  # else a seed for the workers is drawn from everyone's
        )


def _next(made_ahead: Iterator[Any], num_workers: int) -> Any:
    try:
        return next(made_ahead, _END)
    except (OSError, EOFError, RuntimeError) as error:  # what `make` raises comes as `_Failed`
        if not num_workers:
            raise
        raise RuntimeError(
            f"a worker process was lost ({type(error).__name__}: {error}); if the system ended it for its memory, use fewer "
            "workers or smaller batches"
        ) from error


def _as_it_is(made: Any) -> Any:
    return made


class _Failed(NamedTuple):
    """An error on its way out of a worker: torch would make another of the same type, or wait for ever if it does not pickle."""

    error: BaseException


class _Caught:
    """What is made, by number, or the error."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Any:
        try:
            return self.make(number)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return _Failed(error if get_worker_info() is None else _sendable(error))


def _sendable(error: BaseException) -> BaseException:
    told = traceback.format_exc()
    error.add_note(f"in a worker process:\n{told}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error's own way of pickling may raise anything
        error = RuntimeError(f"{type(error).__name__}: {error}")
        error.add_note(f"in a worker process:\n{told}")
    return error


class _Numbers:
    """The sampler: 0 to stop - 1. Its state is the next one, so that nothing is gone through again."""

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def __len__(self) -> int:
        return self.stop

    def __iter__(self) -> "_Next":
        return _Next(self.stop)


class _Next:
    """An iterator in torchdata's protocol."""

    def __init__(self, stop: int) -> None:
        self.next, self.stop = 0, stop

    def __iter__(self) -> "_Next":
        return self

    def __next__(self) -> int:
        if self.next >= self.stop:
            raise StopIteration
        self.next += 1
        return self.next - 1

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]
