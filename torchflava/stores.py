"""Asking a store that is far away, through fsspec: again with growing pauses if it fails, in plain words if it cannot be."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Retries(NamedTuple):
    """How often, and after which pauses, what failed is tried again."""

    tries: int = 5
    first_pause: float = 0.5
    """Seconds; every further pause is twice as long."""


def patiently(url: str, ask: Callable[[Any, str], T], retries: Retries) -> T:
    """What `ask` answers, given fsspec's file system and the path of `url` in it.

    Raises:
        ValueError: if the package that opens such URLs is not there, or none is known.
        FileNotFoundError, PermissionError: at once, for no second try mends it.
        OSError: if the last try failed too.
    """
    for attempt in range(retries.tries):
        if attempt:
            time.sleep(retries.first_pause * 2 ** (attempt - 1))
        try:
            return ask(*_opened(url))  # anew each time: fsspec keeps one of each for a process and sees a fork
        except (FileNotFoundError, PermissionError, _CannotOpenError):
            raise
        except Exception as error:  # each store's client has its own
            failed = error
    raise OSError(f"{retries.tries} tries, the last: {type(failed).__name__}: {failed}") from failed


class _CannotOpenError(ValueError):
    """No second try mends it."""


def _opened(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # with huggingface-hub; slow to import, and few read from afar

    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error.name  # the cause names what was not found
        told = f"pip install {missing}" if missing else "install what it names"
        raise _CannotOpenError(f"{url} cannot be opened here ({error}); {told}") from error
    except ValueError as error:
        raise _CannotOpenError(
            f"{url} cannot be opened ({error}); give a URL that fsspec knows, such as s3://"
        ) from error
    return system, path
