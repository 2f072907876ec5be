"""That a process keeps what it frees, seen in the pages that the system has to give it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchflava.training.allocator import keep_freed_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the GNU C library's allocator is Linux's")

PROGRAM = """
import resource
import torch
from torchflava.training import session

def of_large_tensors():
    for _ in range(3):
        torch.ones(12_000_000)  # 48 MB, beyond what the library keeps by itself
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(12_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(of_large_tensors())
with session(0, "cpu"):
    print(of_large_tensors())
"""


def pages_taken(**env: str) -> list[int]:
    """Before a run begins and within one: what ten tensors after one another take."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env=clean | env,
        cwd=Path(__file__).parents[2],
    )
    return [int(line) for line in told.stdout.splitlines()]


def test_a_run_on_the_cpu_keeps_what_it_frees() -> None:
    before, within = pages_taken()
    assert before > 100  # else the library keeps it by itself, and this is no test
    assert within < 10


@pytest.mark.slow
def test_what_the_user_has_set_is_what_happens() -> None:
    assert min(pages_taken(MALLOC_MMAP_THRESHOLD_="131072")) > 100


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072")],
)
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
