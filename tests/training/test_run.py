"""Which kernels attention runs on, and that they agree."""

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import image_encoder
from torchflava.training import attention_kernels


@pytest.mark.parametrize(
    ("device", "precision", "num_tokens", "fused"),
    [("cpu", "bf16", 37, False), ("cpu", "bf16", 901, True), ("cpu", "fp32", 37, True), ("cuda", "bf16", 37, True)],
)
def test_plain_matmuls_for_short_bf16_on_the_cpu_alone(device, precision, num_tokens, fused):
    with attention_kernels(torch.device(device), precision, num_tokens):
        assert torch.backends.cuda.flash_sdp_enabled() is fused  # of all devices, whatever it is called
    assert torch.backends.cuda.flash_sdp_enabled()


def test_kernels_agree_in_states_and_gradients():
    encoder, seen = image_encoder(), []
    pixels = torch.randn(3, 3, 15, 15, generator=torch.Generator().manual_seed(0))
    for precision in ("bf16", "fp32"):
        with attention_kernels(torch.device("cpu"), precision, 10):
            states = encoder(pixels).normed
            (grad,) = torch.autograd.grad(states.square().mean(), encoder.trunk.blocks[0].attention.qkv.weight)
            seen.append((states, grad))
    assert_close(seen[0], seen[1], atol=1e-5, rtol=1e-4)
