"""What a machine can do at most, and how much memory a process has taken.

Source of the table: NVIDIA's data sheets, dense tensor-core rates for bfloat16 and float16, plain rates for float32.
"""

import resource
import sys

import torch

PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "A100": (312, 19.5),
    "A40": (149.7, 37.4),
    "A10": (125, 31.2),
    "L40S": (362, 91.6),
    "L4": (121, 30.3),
    "RTX A6000": (154.8, 38.7),
    "RTX 4090": (165.2, 82.6),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "H200 NVL": (835, 60),
    "H200": (989, 67),
    "GH200": (989, 67),
}
"""By the GPU's name: 10^12 operations a second in bfloat16 or float16, and in float32."""


def peak_flops(device: torch.device, precision: str, *, tflops: float = 0.0) -> float | None:
    """The most floating-point operations a second that `device` can do; None where it is not known.

    Args:
        device: looked up in `PEAK_TFLOPS` if it is a GPU.
        precision: fp32, bf16 or fp16.
        tflops: what the user says that it can do, in 10^12 a second; 0 looks it up.
    """
    if tflops:
        return tflops * 1e12
    if device.type != "cuda":
        return None
    found = of_name(torch.cuda.get_device_name(device))
    return None if found is None else found[precision == "fp32"] * 1e12


def of_name(name: str) -> tuple[float, float] | None:
    """The entry of `PEAK_TFLOPS` whose words all occur in a GPU's name, the one of most letters; None if there is none."""
    words = name.replace("-", " ").split()
    fitting = [key for key in PEAK_TFLOPS if all(word in words for word in key.split())]
    return PEAK_TFLOPS[max(fitting, key=len)] if fitting else None


def peak_memory(device: torch.device) -> int:
    """The most bytes taken so far: by CUDA's allocator on `device`, or in main memory by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in KiB
