"""What is known of a machine's peak, and that memory once taken is seen."""

import pytest
import torch

from torchflava.training.machine import of_name, peak_flops, peak_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H200", 989),
    ],
)
def test_gpus_are_found_by_their_names(name: str, half: float) -> None:
    found = of_name(name)
    assert found is not None
    assert found[0] == half


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA L40", "Tesla V100-SXM2-16GB", "", "NVIDIA H1000"])
def test_a_gpu_that_is_not_listed_is_unknown(name: str) -> None:
    assert of_name(name) is None


def test_the_peak_is_the_users_or_the_gpus_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    gpu = torch.device("cuda", 0)
    assert peak_flops(CPU, "bf16") is None
    assert peak_flops(CPU, "fp32", tflops=0.5) == 5e11
    assert peak_flops(gpu, "bf16", tflops=100) == 1e14
    assert (peak_flops(gpu, "bf16"), peak_flops(gpu, "fp16"), peak_flops(gpu, "fp32")) == (312e12, 312e12, 19.5e12)


def test_memory_taken_is_in_the_peak_even_when_given_back() -> None:
    before = peak_memory(CPU)
    taken = torch.ones(before // 4 + 100_000_000, dtype=torch.float32)  # more than all before it
    size = taken.numel() * 4
    del taken
    assert size <= peak_memory(CPU) < before + 2 * size
