"""Where a benchmark ran, with which every page in `results/` begins: processor or GPU, versions, commit. And the memory taken."""

import importlib.metadata
import os
import platform
import resource
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


def from_now_on(device: str = "cpu") -> float:
    """Forget how much memory was taken at most; what is now, in MB."""
    import torch

    from torchflava.training.allocator import give_back_freed_memory

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        give_back_freed_memory()  # what was freed and kept would not be seen to be taken again
        Path("/proc/self/clear_refs").write_text("5")
    return most(device)


def most(device: str = "cpu") -> float:
    """The most memory that was taken, in MB: by CUDA's allocator, or resident (Linux's VmHWM, which can be set back)."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS, in bytes
