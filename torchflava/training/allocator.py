"""Memory that was freed, kept for the next step, where the GNU C library would give it back and take it anew.

On the CPU a tensor of more than 32 MiB is mapped each time it is made, and each of its pages filled with zeros when it is
first touched. Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD. What it saves: docs/decisions/0075.
"""

import ctypes
import os
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_NEVER, _LARGEST = -1, 1 << 30  # bytes


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 1 GiB a piece, where its allocator is the GNU C library's.

    What the user has set by that library's own variables, `MALLOC_...` or `GLIBC_TUNABLES`, stays. Another allocator that
    was preloaded has settings of its own, which this leaves alone.

    Returns:
        Whether the library was told so, and agreed.
    """
    library = None if _is_set_by_user() else _gnu_library()
    if library is None:
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST) and library.mallopt(_TRIM_THRESHOLD, _NEVER))


def give_back_freed_memory() -> bool:
    """Give back, once, what this process has freed; whether there was any (malloc_trim(3))."""
    library = _gnu_library()
    return library is not None and bool(library.malloc_trim(0))


@cache
def _gnu_library() -> ctypes.CDLL | None:
    """None on other systems, and where the C library is another (musl)."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _is_set_by_user() -> bool:
    """`GLIBC_TUNABLES` may be about other parts of the library alone."""
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        f"MALLOC_{name}_" in os.environ for name in ("MMAP_THRESHOLD", "TRIM_THRESHOLD", "TOP_PAD", "MMAP_MAX")
    )
