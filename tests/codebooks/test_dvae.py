"""The trainable dVAE: its codes are those of the codebook that it becomes, its decoder is the network written out, it learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from torchflava.codebooks import (
    DalleCodebook,
    DalleDecoder,
    DiscreteVae,
    DvaeBatch,
    clustered_logits,
    discrete_vae,
    gumbel_noise,
    kmeans,
    load_codebook,
    map_pixels,
    relaxed_codes,
    save_codebook,
    unmap_pixels,
)
from torchflava.codebooks import dvae as dvae_room
from torchflava.codebooks.dalle_names import dalle_layout, decoder_layout
from torchflava.files import load_metadata, load_tensors

CPU = torch.device("cpu")
CODES, SIZE = 11, 24


@pytest.fixture(scope="module")
def dvae() -> DiscreteVae:
    torch.manual_seed(0)
    return discrete_vae(width=12, blocks=2, num_codes=CODES, first_width=20)


def pixels(batch: int = 5) -> Tensor:
    return torch.randint(0, 256, (batch, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def halves(dvae: DiscreteVae, half: str) -> dict[str, Tensor]:
    start = f"{half}."
    return {f"blocks.{k.removeprefix(start)}": v for k, v in dvae.state_dict().items() if k.startswith(start)}


def test_a_trained_encoder_is_the_codebook_that_its_file_holds(dvae: DiscreteVae, tmp_path: Path) -> None:
    save_codebook(dvae.state_dict(), tmp_path, SIZE)
    file = tmp_path / "codebook.safetensors"
    assert load_metadata(file) == {"codebook": "dalle", "image_size": str(SIZE)}
    found = load_codebook(file)
    assert isinstance(found, DalleCodebook)
    logits = dvae.encoder(map_pixels(pixels()))
    torch.testing.assert_close(found(pixels()), logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.encode(pixels()), dvae.reconstruct(pixels()).codes)
    assert len(found.encode(pixels()).unique()) > 3
    assert load_tensors(file).keys() == dalle_layout(12, 2, CODES).keys()


def test_a_trained_decoder_draws_as_its_file_does(dvae: DiscreteVae, tmp_path: Path) -> None:
    save_codebook(dvae.state_dict(), tmp_path, SIZE)
    decoder = DalleDecoder.from_file(tmp_path / "decoder.safetensors")
    codes, drawn = dvae.reconstruct(pixels())
    torch.testing.assert_close(decoder(codes.view(5, 3, 3)), drawn, rtol=1e-5, atol=1e-5)
    decoder.save(tmp_path / "again.safetensors")
    again = DalleDecoder.from_file(tmp_path / "again.safetensors")
    assert torch.equal(again(codes.view(5, 3, 3)), decoder(codes.view(5, 3, 3)))


def test_a_decoder_in_the_codebook_s_place_is_told(dvae: DiscreteVae, tmp_path: Path) -> None:
    save_codebook(dvae.state_dict(), tmp_path, SIZE)
    with pytest.raises(ValueError, match=r"decoder\.safetensors is the decoder of a dVAE; give its encoder"):
        load_codebook(tmp_path / "decoder.safetensors")


def written_out(w: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """The decoder from its description: 1 x 1, four groups of blocks with doublings between, ReLU and 1 x 1."""

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, w[f"{name}.w"], w[f"{name}.b"], padding=(w[f"{name}.w"].shape[2] - 1) // 2)

    x = conv(x, "blocks.input")
    for g in (1, 2, 3, 4):
        for k in range(1, blocks + 1):
            name, inner = f"blocks.group_{g}.block_{k}", x
            for i in (1, 2, 3, 4):
                inner = conv(inner.relu(), f"{name}.res_path.conv_{i}")
            x = (conv(x, f"{name}.id_path") if k == 1 else x) + inner / (4 * blocks) ** 2
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if g < 4 else x
    return conv(x.relu(), "blocks.output.conv")


def test_the_decoder_is_the_network_written_out(dvae: DiscreteVae) -> None:
    codes = torch.randint(0, CODES, (2, 3, 4), generator=torch.Generator().manual_seed(2))
    chosen = torch.zeros(2, CODES, 3, 4).scatter_(1, codes[:, None], 1.0)
    said = written_out(halves(dvae, "decoder"), chosen, 2)
    assert said.shape == (2, 6, 24, 32)
    drawn = DalleDecoder(halves(dvae, "decoder"))(codes)
    torch.testing.assert_close(drawn, ((torch.sigmoid(said[:, :3]) - 0.1) / 0.8).clamp(0, 1), rtol=1e-5, atol=1e-5)


def test_the_papers_sizes() -> None:
    shapes = decoder_layout()
    assert shapes["blocks.input.w"] == (128, 8192, 1, 1)
    assert shapes["blocks.group_1.block_1.id_path.w"] == (2048, 128, 1, 1)
    assert shapes["blocks.group_4.block_2.res_path.conv_4.w"] == (256, 64, 3, 3)
    assert shapes["blocks.output.conv.w"] == (6, 256, 1, 1)
    assert "blocks.group_1.block_1.id_path.w" not in decoder_layout(16, 1, 5, first_width=128)  # nothing to widen


def test_weights_begin_by_fan_in() -> None:
    torch.manual_seed(0)
    w = discrete_vae(width=64, blocks=1, num_codes=7).encoder.get_submodule("group_3.block_1.res_path.conv_1").w
    assert float(w.detach().std()) == pytest.approx((128 * 9) ** -0.5, rel=0.02)


def test_losses_are_means_over_values_and_over_codes(dvae: DiscreteVae) -> None:
    noise = gumbel_noise(range(5), (CODES, 3, 3), CPU)
    losses = dvae(DvaeBatch(pixels(), noise, 0.5))
    assert {name: float(loss.num_rows) for name, loss in losses.items()} == {
        "reconstruction": 5 * 3 * 24 * 24,
        "kl": 45,
    }
    seen = map_pixels(pixels())
    logits = dvae.encoder(seen)
    said = written_out(halves(dvae, "decoder"), torch.softmax((logits + noise) / 0.5, 1), 2)
    off = (torch.log(seen / (1 - seen)) - said[:, :3]).abs() / said[:, 3:].exp()
    due = off + torch.log(2 * said[:, 3:].exp() * seen * (1 - seen))
    torch.testing.assert_close(losses["reconstruction"].mean, due.mean(), rtol=1e-4, atol=0)
    q = torch.softmax(logits, 1)
    torch.testing.assert_close(losses["kl"].mean, (q * (q * CODES).log()).sum(1).mean(), rtol=0, atol=1e-5)
    sum(loss.mean for loss in losses.values()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in dvae.parameters())
    assert float(dvae.encoder.get_submodule("input").w.grad.abs().max()) > 0  # through the relaxation
    dvae.zero_grad()


@torch.no_grad()
def test_codes_can_begin_as_clusters() -> None:
    """The likeliest code of a place is its nearest centre, by the encoder itself; all codes are used."""
    torch.manual_seed(0)
    fresh = discrete_vae(width=12, blocks=2, num_codes=CODES, first_width=20)
    conv = fresh.encoder.get_submodule("output.conv")
    features = fresh.features(pixels(9))
    torch.testing.assert_close(F.conv2d(features, conv.w, conv.b), fresh.encoder(map_pixels(pixels(9))))
    points = features.movedim(1, -1).flatten(0, 2)
    weight, bias = clustered_logits(points, CODES, spread=4.0, generator=torch.Generator().manual_seed(0))
    conv.w.copy_(weight)
    conv.b.copy_(bias)
    logits = fresh.encoder(map_pixels(pixels(9)))
    assert float(logits.std(1).mean()) == pytest.approx(4.0, rel=1e-3)
    codes = logits.argmax(1).flatten()
    assert len(codes.unique()) == CODES
    centres = torch.stack([points[codes == code].mean(0) for code in range(CODES)])
    nearest = torch.cdist(points.double(), centres.double()).argmin(1)
    assert float((nearest == codes).float().mean()) > 0.97  # Lloyd's may have had a step to go
    with pytest.raises(ValueError, match="differ"):
        clustered_logits(points[:1].expand(20, -1), CODES, spread=4.0, generator=torch.Generator())


def test_clusters_of_many_places_and_codes_need_no_table_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            self.numbers = max(self.numbers, made.numel() if isinstance(made, Tensor) else 0)
            return made

    points = torch.randn(700, 3, generator=torch.Generator().manual_seed(0))
    due = clustered_logits(points, CODES, spread=4.0, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(kmeans, "_CHUNK", 50)
    monkeypatch.setattr(dvae_room, "_AT_ONCE", 50)
    with Largest() as seen:
        found = clustered_logits(points, CODES, spread=4.0, generator=torch.Generator().manual_seed(0))
    assert seen.numbers == 700 * 3  # the places themselves
    torch.testing.assert_close(found, due)


def test_relaxed_codes_are_drawn_from_the_softmax() -> None:
    shares = torch.tensor([0.6, 0.3, 0.1])
    logits = shares.log().view(1, 3, 1, 1).expand(1, 3, 100, 100)
    soft = relaxed_codes(logits, gumbel_noise([3], (3, 100, 100), CPU), 0.5)
    torch.testing.assert_close(soft.sum(1), torch.ones(1, 100, 100))
    found = torch.bincount(soft.argmax(1).flatten(), minlength=3) / 10_000
    torch.testing.assert_close(found, shares, atol=0.015, rtol=0)
    hard = relaxed_codes(logits, gumbel_noise([3], (3, 100, 100), CPU), 1e-3)
    assert torch.equal(hard.argmax(1), soft.argmax(1))
    assert float(hard.max(1).values.mean()) > 0.99 > float(soft.max(1).values.mean())
    with pytest.raises(ValueError, match="temperature is 0; it must be above 0"):
        relaxed_codes(logits, logits, 0)


def test_noise_of_a_row_is_its_key_s() -> None:
    rows = gumbel_noise([5, 6, 7], (CODES, 40, 40), CPU)
    assert torch.equal(gumbel_noise([7, 5], (CODES, 40, 40), CPU), rows[[2, 0]])
    assert not torch.equal(rows[0], rows[1])
    assert float(rows.mean()) == pytest.approx(0.5772, abs=0.03)  # Euler's constant
    assert float(rows.var()) == pytest.approx(math.pi**2 / 6, rel=0.03)


def test_pixels_come_back() -> None:
    image = pixels()
    assert torch.equal((255 * unmap_pixels(map_pixels(image))).round().to(torch.uint8), image)
    assert unmap_pixels(torch.tensor([0.0, 0.95])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"blocks.input.b": None}, r"no dVAE decoder: missing blocks\.input\.b"),
        ({"blocks.more": torch.ones(1)}, r"unexpected blocks\.more"),
        ({"blocks.group_2.block_1.id_path.b": torch.ones(3)}, r"id_path\.b has shape \(3,\) instead of \(48,\)"),
        ({"blocks.input.w": None}, r"blocks\.input\.w is missing or is no convolution"),
    ],
)
def test_wrong_decoders_are_named(
    dvae: DiscreteVae, change: dict[str, Tensor | None], match: str, tmp_path: Path
) -> None:
    held = {k: v for k, v in (halves(dvae, "decoder") | change).items() if v is not None}
    save_file(held, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=match) as caught:
        DalleDecoder.from_file(tmp_path / "wrong.safetensors")
    assert "wrong.safetensors" in str(caught.value)


def test_wrong_codes_and_sizes_are_named(dvae: DiscreteVae) -> None:
    decoder = DalleDecoder(halves(dvae, "decoder"))
    with pytest.raises(ValueError, match=r"codes from 11 to 11; they must be below 11"):
        decoder(torch.full((1, 2, 2), CODES))
    with pytest.raises(ValueError, match=r"codes of shape \(2, 2\)"):
        decoder(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="width is 10; a multiple of 4 is due"):
        discrete_vae(width=10)
    with pytest.raises(ValueError, match="num_codes 1 above 1"):
        discrete_vae(num_codes=1)
    assert not any(p.requires_grad for p in decoder.parameters())
