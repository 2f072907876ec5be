"""Where a benchmark ran: the processor or GPU, the versions, the commit. Every page in `results/` begins with it."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The commit, in short; with a plus if tracked files differ from it."""
    told = ["git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=7"]
    return subprocess.run(told, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip() or "unknown"


def processor() -> str:
    """The CPU's name, as Linux tells it; elsewhere its architecture."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def facts(device: str = "cpu", *, threads: int = 0, packages: Sequence[str] = ()) -> Iterator[str]:
    """Lines for the head of a page.

    Args:
        device: cpu or cuda.
        threads: of torch; 0 tells torch's choice.
        packages: others beside torch whose versions matter.
    """
    import torch

    if device == "cuda":
        yield f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, beside {os.cpu_count()} x {processor()}."
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        used = threads or torch.get_num_threads()
        yield f"{os.cpu_count()} x {processor()}, {capability}, {used} threads of torch, load {load:.1f} at the end."
    versions = "".join(f", {name} {importlib.metadata.version(name)}" for name in packages)
    yield f"torch {torch.__version__}{versions}; commit {commit()}."
