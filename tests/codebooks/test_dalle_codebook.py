"""The dVAE's encoder: against the same network written out, its names in other files, and what it refuses."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from torchflava.codebooks import DalleCodebook, codes_at, load_codebook, map_pixels
from torchflava.codebooks.dalle import Precision
from torchflava.codebooks.dalle_names import (
    TRANSFORMERS_PREFIX,
    dalle_layout,
    dalle_to_torchmultimodal,
    dalle_to_transformers,
    from_transformers,
    to_transformers,
)
from torchflava.files import load_metadata

WIDTH, BLOCKS, CODES, SIZE = 16, 3, 37, 24


def weights(width: int = WIDTH, blocks: int = BLOCKS, num_codes: int = CODES) -> dict[str, Tensor]:
    """Of a scale at which every convolution matters to the logits."""
    draws = torch.Generator().manual_seed(0)
    shapes = dalle_layout(width, blocks, num_codes)
    state = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    scales = {name: 0.1 if name.endswith("b") else 5 if "res_path" in name else 1 for name in shapes}
    return {name: t * scales[name] / math.sqrt(t[0].numel()) for name, t in state.items()}


def pixels(batch: int = 5, size: int = SIZE) -> Tensor:
    """Large and small patches of colour."""
    draws = torch.Generator().manual_seed(1)
    coarse = 30 * torch.randint(0, 7, (batch, 3, size // 8, size // 8), generator=draws).repeat_interleave(8, 2)
    fine = torch.randint(0, 70, (batch, 3, size, size), generator=draws)
    return (coarse.repeat_interleave(8, 3) + fine).to(torch.uint8)


@pytest.fixture(scope="module")
def codebook() -> DalleCodebook:
    return DalleCodebook(weights(), image_size=SIZE)


def written_out(w: dict[str, Tensor], images: Tensor) -> Tensor:
    """The logits, from the description: 7 x 7, four groups of blocks with pools between, ReLU and 1 x 1."""

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, w[f"{name}.w"], w[f"{name}.b"], padding=(w[f"{name}.w"].shape[2] - 1) // 2)

    x = conv(0.1 + 0.8 * images / 255, "blocks.input")
    for g in (1, 2, 3, 4):
        for k in range(1, BLOCKS + 1):
            name, inner = f"blocks.group_{g}.block_{k}", x
            for i in (1, 2, 3, 4):
                inner = conv(inner.relu(), f"{name}.res_path.conv_{i}")
            x = (conv(x, f"{name}.id_path") if g > 1 and k == 1 else x) + inner / (4 * BLOCKS) ** 2
        x = F.max_pool2d(x, 2) if g < 4 else x
    return conv(x.relu(), "blocks.output.conv")


def test_logits_and_codes_are_those_of_the_network_written_out(codebook: DalleCodebook) -> None:
    expected = written_out(weights(), pixels())
    logits, codes = codebook(pixels()), codebook.encode(pixels())
    assert logits.shape == (5, CODES, 3, 3)
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5
    assert codes.dtype == torch.int64
    for b, row, column in [(0, 0, 0), (1, 0, 2), (4, 2, 1)]:
        assert codes[b, row * 3 + column] == expected[b, :, row, column].argmax()
    assert len(codes.unique()) > 4  # or equal codes would say little
    assert not torch.equal(codes[0], codes[1])
    assert (codebook.num_codes, codebook.grid, codebook.image_size) == (CODES, (3, 3), SIZE)


POSITIONS = torch.tensor([[0, 8, 3, 3], [1, 2, 0, 7], [5, 5, 5, 5], [8, 0, 1, 2], [4, 6, 7, 0]])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_codes_at_positions_are_those_of_all(precision: Precision) -> None:
    codebook = DalleCodebook(weights(), image_size=SIZE, at_most=2, precision=precision)
    assert torch.equal(codebook.encode_at(pixels(), POSITIONS), codebook.encode(pixels()).gather(1, POSITIONS))
    assert torch.equal(codes_at(codebook, pixels(), POSITIONS, num_patches=9), codebook.encode_at(pixels(), POSITIONS))
    with pytest.raises(ValueError, match="gives 9 codes an image, the encoder sees 16 patches"):
        codes_at(codebook, pixels(), POSITIONS, num_patches=16)


def test_a_codebook_of_ones_own_is_asked_for_all_codes() -> None:
    class Halves:
        num_codes, image_size, grid = 9, SIZE, (3, 3)

        def encode(self, images: Tensor) -> Tensor:
            return torch.arange(9).expand(len(images), -1)

    assert torch.equal(codes_at(Halves(), pixels(), POSITIONS, num_patches=9), POSITIONS)


@pytest.mark.parametrize(("precision", "near", "least"), [("bf16", 0.05, 0.9), ("fp16", 0.006, 0.97)])
def test_lower_precision_changes_logits_and_codes_little(precision: Precision, near: float, least: float) -> None:
    """All but the last convolution: the logits are float32, and so are the weights that `save` writes."""
    exact, low = (
        DalleCodebook(weights(), image_size=SIZE),
        DalleCodebook(weights(), image_size=SIZE, precision=precision),
    )
    images = pixels(40)
    logits, due = low(images), exact(images)
    assert logits.dtype == torch.float32
    off = float((logits - due).abs().max() / due.abs().max())
    assert 1e-5 < off < near
    assert least < float((low.encode(images) == exact.encode(images)).float().mean())
    assert {t.dtype for t in low.state_dict().values()} == {torch.float32}


def test_other_weights_are_cast_anew() -> None:
    low, other = (DalleCodebook(weights(), image_size=SIZE, precision="bf16") for _ in range(2))
    before = low(pixels())
    state = {name: -t for name, t in low.state_dict().items()}
    other.load_state_dict(state)
    low.load_state_dict(state)
    assert torch.equal(low(pixels()), other(pixels()))
    assert not torch.equal(low(pixels()), before)


def test_a_precision_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, got 'fp8'"):
        DalleCodebook(weights(), image_size=SIZE, precision="fp8")  # type: ignore[arg-type]


def test_the_papers_size() -> None:
    shapes = dalle_layout()
    assert sum(math.prod(shape) for shape in shapes.values()) == 53_786_240
    with torch.device("meta"):
        codebook = DalleCodebook({name: torch.empty(shape) for name, shape in shapes.items()})
    assert (codebook.num_codes, codebook.grid, codebook.image_size) == (8192, (14, 14), 112)


def test_pixels_are_read_from_a_tenth_to_nine_tenths() -> None:
    torch.testing.assert_close(
        map_pixels(torch.tensor([0, 255, 51], dtype=torch.uint8)), torch.tensor([0.1, 0.9, 0.26])
    )


def test_large_batches_go_through_in_parts(codebook: DalleCodebook) -> None:
    seen: list[int] = []
    small = DalleCodebook(weights(), image_size=SIZE, at_most=2)
    small.blocks.get_submodule("input").register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    assert torch.equal(small.encode(pixels()), codebook.encode(pixels()))
    assert seen == [2, 2, 1]


def test_it_is_frozen_and_out_of_training_s_reach(codebook: DalleCodebook) -> None:
    around = nn.ModuleDict({"codebook": codebook, "model": nn.Linear(2, 2)}).train()
    assert [name for name, _ in around.named_parameters()] == ["model.weight", "model.bias"]
    assert not any(module.training for module in codebook.modules())
    assert not any(buffer.requires_grad for buffer in codebook.buffers())
    given = {name: tensor.requires_grad_() for name, tensor in weights().items()}
    assert not DalleCodebook(given, image_size=SIZE)(pixels()).requires_grad


def test_autocast_does_not_change_it(codebook: DalleCodebook) -> None:
    logits = codebook(pixels())
    with torch.autocast("cpu", torch.bfloat16):
        assert F.conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).dtype == torch.bfloat16
        assert torch.equal(codebook(pixels()), logits)


def test_a_cast_codebook_refuses() -> None:
    codebook = DalleCodebook(weights(), image_size=SIZE).half()
    with pytest.raises(ValueError, match=r"cast to torch\.float16.*load it anew"):
        codebook.encode(pixels())


def test_names_of_others_and_back() -> None:
    names = list(dalle_layout())
    theirs = [to_transformers(name) for name in names]
    assert theirs[0] == "blocks.input.weight"
    assert "blocks.group_2.group.block_1.id_path.bias" in theirs
    assert "blocks.group_4.group.block_2.res_path.path.conv_3.weight" in theirs
    assert "blocks.output.conv.bias" in theirs
    assert [from_transformers(name) for name in theirs] == names
    assert [from_transformers(name) for name in names] == names
    assert [to_transformers(name) for name in theirs] == theirs


OTHERS = {"flava.logit_scale": torch.ones(1), "mim_head.decoder.bias": torch.ones(3)}
LAYOUTS = {
    "openai": lambda w: w,
    "transformers": dalle_to_transformers,
    "transformers, whole": lambda w: OTHERS | dalle_to_transformers(w, TRANSFORMERS_PREFIX),
    "torchmultimodal": lambda w: dalle_to_torchmultimodal(w, "encoder."),
    "torchmultimodal, whole": lambda w: OTHERS | dalle_to_torchmultimodal(w),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_every_layout_gives_the_same_codebook(tmp_path: Path, codebook: DalleCodebook, layout: str, name: str) -> None:
    held = LAYOUTS[layout](weights())
    save_file(held, tmp_path / name) if name.endswith("safetensors") else torch.save(held, tmp_path / name)
    for path in (tmp_path / name, str(tmp_path)):
        found = DalleCodebook.from_file(path, image_size=SIZE)
        assert torch.equal(found.encode(pixels()), codebook.encode(pixels()))
        assert found.state_dict().keys() == weights().keys()


def test_save_and_load(tmp_path: Path, codebook: DalleCodebook) -> None:
    codebook.save(tmp_path / "codebook.safetensors")
    for found in (
        DalleCodebook.from_file(tmp_path / "codebook.safetensors"),
        load_codebook(tmp_path / "codebook.safetensors"),
    ):
        assert isinstance(found, DalleCodebook)
        assert found.image_size == SIZE
        assert torch.equal(found(pixels()), codebook(pixels()))
    assert load_metadata(tmp_path / "codebook.safetensors") == {"codebook": "dalle", "image_size": str(SIZE)}
    assert DalleCodebook.from_file(tmp_path / "codebook.safetensors", image_size=16).grid == (2, 2)


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in weights().items()}
    save_file(halves, tmp_path / "half.safetensors")
    found = DalleCodebook.from_file(tmp_path / "half.safetensors", image_size=SIZE)
    assert torch.equal(found.blocks.get_buffer("input.w"), halves["blocks.input.w"].float())


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in weights().items() if key != name}


@pytest.mark.parametrize(
    ("held", "match"),
    [
        (without("blocks.group_2.block_1.id_path.b"), r"missing blocks\.group_2\.block_1\.id_path\.b"),
        (without("blocks.input.w"), r"blocks\.input\.w is missing"),
        (without("blocks.output.conv.w"), r"blocks\.output\.conv\.w is missing"),
        (weights() | {"blocks.extra": torch.ones(1)}, r"unexpected blocks\.extra"),
        (weights() | {"decoder.w": torch.ones(1)}, r"unexpected decoder\.w"),
        (weights() | {"blocks.group_1.block_9999999.id_path.w": torch.ones(1)}, r"missing .* more"),
        (weights() | {"blocks.input.b": torch.ones(9)}, r"blocks\.input\.b has shape \(9,\) instead of \(16,\)"),
        (weights() | {"blocks.input.b": torch.ones(16, dtype=torch.int64)}, r"blocks\.input\.b is torch\.int64"),
        (weights() | {"blocks.input.bias": torch.ones(8)}, r"blocks\.input\.bias stands there under two names"),
        (OTHERS, r"none of its 2 tensors.*flava\.logit_scale"),
        (OTHERS | dalle_to_transformers(without("blocks.input.b"), TRANSFORMERS_PREFIX), r"missing blocks\.input\.b"),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, held: dict[str, Tensor], match: str) -> None:
    save_file(held, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=match) as caught:
        DalleCodebook.from_file(tmp_path / "wrong.safetensors")
    assert "wrong.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (pixels(2, 32), r"\(2, 3, 32, 32\); resize its view to 24 px"),
        (pixels()[0], r"\(3, 24, 24\)"),
        (pixels()[:, :1], r"\(5, 1, 24, 24\)"),
        (pixels()[:0], "no images"),
        (pixels().float(), r"uint8 pixels from 0 to 255, got torch\.float32"),
    ],
)
def test_wrong_pixels_are_named(codebook: DalleCodebook, images: Tensor, match: str) -> None:
    for read in (codebook, codebook.encode):
        with pytest.raises(ValueError, match=match):
            read(images)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="image_size is 100; the dVAE needs a multiple of 8"):
        DalleCodebook(weights(), image_size=100)
    with pytest.raises(ValueError, match="at_most is 0"):
        DalleCodebook(weights(), at_most=0)
