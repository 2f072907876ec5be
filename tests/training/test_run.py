"""Which kernels attention runs on, and that they agree."""

import pytest
import torch
from tiny import image_encoder
from torch.testing import assert_close

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
    torch.manual_seed(0)
    encoder = image_encoder()
    pixels = torch.randn(3, 3, 15, 15, generator=torch.Generator().manual_seed(0))

    def seen(dtype, num_tokens):
        encoder.to(dtype)
        with attention_kernels(torch.device("cpu"), "bf16", num_tokens):
            states = encoder(pixels.to(dtype)).normed
        (grad,) = torch.autograd.grad(states.sin().mean(), encoder.trunk.blocks[0].attention.qkv.weight)
        return states.float(), grad.float()

    assert_close(seen(torch.float32, 10), seen(torch.float32, 1000), atol=1e-5, rtol=1e-4)
    for plain, fused in zip(seen(torch.bfloat16, 10), seen(torch.bfloat16, 1000), strict=True):
        assert (plain - fused).norm() < 0.05 * fused.norm()
