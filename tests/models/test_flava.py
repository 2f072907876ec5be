"""The three encoders together: what is fused, what is compared, other image sizes, low precision."""

import copy
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchflava.models import Flava, flava_for_classification, flava_for_pretraining


def inputs(size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """pixels, ids, keep."""
    generator = torch.Generator().manual_seed(0)
    return tiny.pixels(size, generator), *tiny.caption(size, 7, generator)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def test_fused_are_the_states_before_the_last_norm_projected() -> None:
    flava = tiny.flava()
    pixels, ids, keep = inputs()
    out = flava(pixels, ids, keep)
    image, text = flava.image_encoder(pixels), flava.text_encoder(ids, keep)
    due = flava.fusion_encoder(
        linear(flava.image_to_fusion, image.hidden), linear(flava.text_to_fusion, text.hidden), keep
    )
    torch.testing.assert_close(out.image, image)
    torch.testing.assert_close(out.text, text)
    torch.testing.assert_close(out.fused, due)
    shapes = [tuple(x.shape) for x in out.fused]
    assert shapes == [(3, tiny.FUSION_WIDTH), (3, 10, tiny.FUSION_WIDTH), (3, 7, tiny.FUSION_WIDTH)]


def test_compared_are_the_normed_class_tokens_projected_to_length_1() -> None:
    flava = tiny.flava()
    pixels, ids, keep = inputs()
    for got, normed, projection in (
        (flava.embed_image(pixels), flava.image_encoder(pixels).normed, flava.image_projection),
        (flava.embed_text(ids, keep), flava.text_encoder(ids, keep).normed, flava.text_projection),
    ):
        due = linear(projection, normed[:, 0])
        torch.testing.assert_close(got, due / due.square().sum(-1, keepdim=True).sqrt())
        torch.testing.assert_close(got.norm(dim=-1), torch.ones(3))
    assert flava.embed_dim == tiny.EMBED_DIM


def test_padding_changes_nothing() -> None:
    flava = tiny.flava()
    pixels, ids, keep = inputs()
    longer = F.pad(ids, (0, 6))
    short, long = flava(pixels, ids), flava(pixels, longer)
    torch.testing.assert_close(long.fused.cls, short.fused.cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(long.fused.image, short.fused.image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(long.fused.text[:, :7][keep], short.fused.text[keep], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flava.embed_text(longer), flava.embed_text(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("in_text", "in_fusion"), [(True, False), (False, True), (True, True)])
def test_attend_to_padding_is_two_settings(in_text: bool, in_fusion: bool) -> None:
    parts = {
        "text": tiny.text_encoder(attend_to_padding=in_text),
        "fusion": tiny.fusion_encoder(attend_to_padding=in_fusion),
    }
    flava = tiny.flava(**parts)
    pixels, ids, _ = inputs()
    longer = F.pad(ids, (0, 6))
    text_moves = (flava.embed_text(longer) - flava.embed_text(ids)).abs().max() > 1e-3
    fusion_moves = (flava(pixels, longer).fused.cls - flava(pixels, ids).fused.cls).abs().max() > 1e-3
    assert (bool(text_moves), bool(fusion_moves)) == (in_text, True)


def test_keep_derived_equals_keep_given_and_a_caption_of_two_tokens_is_fine() -> None:
    flava = tiny.flava()
    pixels, ids, keep = inputs()
    torch.testing.assert_close(flava(pixels, ids), flava(pixels, ids, keep), rtol=0, atol=0)
    out = flava(pixels[:1], torch.tensor([[tiny.CLS, tiny.SEP]]))
    assert out.fused.text.shape == (1, 2, tiny.FUSION_WIDTH)
    assert out.fused.cls.isfinite().all()


def test_images_of_another_size_from_every_entry() -> None:
    pixels = tiny.pixels(3, torch.Generator().manual_seed(0), 35)
    _, ids, keep = inputs()
    fly = tiny.flava(image=tiny.image_encoder(interpolate=True))
    due = fly(pixels, ids, keep)
    assert due.fused.image.shape == (3, 50, tiny.FUSION_WIDTH)

    flava = tiny.flava()
    flava.load_state_dict(fly.state_dict())
    with pytest.raises(ValueError, match="images are 35 x 35, the encoder is made for 15 x 15"):
        flava(pixels, ids, keep)
    encoder = copy.deepcopy(flava).image_encoder
    encoder.resize(35)
    torch.testing.assert_close(encoder(pixels), due.image)

    pretraining = flava_for_pretraining(copy.deepcopy(flava), num_codes=tiny.NUM_CODES)
    pretraining.flava.resize(35)
    torch.testing.assert_close(pretraining.flava(pixels, ids, keep), due)
    torch.testing.assert_close(pretraining.embed_image(pixels), fly.embed_image(pixels))
    batch = tiny.image_batch()._replace(pixels=pixels, masked=torch.ones(3, 49, dtype=torch.bool))
    assert pretraining(batch)["mim"].mean.isfinite()

    classification = flava_for_classification(7, copy.deepcopy(flava), hidden=13)
    classification.resize(35)
    torch.testing.assert_close(classification(pixels, ids, keep), classification.classifier(due.fused.cls))


def test_what_is_refused() -> None:
    flava = tiny.flava()
    pixels, ids, keep = inputs()
    for arguments, words in (
        ((pixels[:2], ids, keep), "2 images meet 3 texts; give one text for each image"),
        ((pixels[..., :10], ids, keep), "images are 15 x 10, the encoder is made for 15 x 15"),
        ((pixels, ids + tiny.VOCAB_SIZE, keep), "is beyond the vocabulary of 41"),
        ((pixels, ids, keep[:, :3]), r"keep is \(3, 3\).*; a bool for each of \(3, 7\) ids is due"),
        ((pixels, ids, keep.long()), r"keep is \(3, 7\) torch.int64; a bool for each"),
        ((pixels[:0], ids[:0], keep[:0]), "the batch is empty"),
        ((pixels, F.pad(ids, (0, 7)), None), "texts are 14 tokens long, the encoder takes 13; truncate them"),
    ):
        with pytest.raises(ValueError, match=words):
            flava(*arguments)


class NormsChecked(TorchDispatchMode):
    """Compares each layer norm with the same of the same inputs in float64: only the last rounding may differ."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        if func is torch.ops.aten.native_layer_norm.default:
            x, shape, weight, bias, eps = args
            exact = F.layer_norm(x.double(), shape, weight.double(), bias.double(), eps)
            torch.testing.assert_close(found[0], exact.to(x.dtype), rtol=torch.finfo(x.dtype).eps, atol=1e-5)
            self.seen += 1
        return found


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_every_layer_norm_computes_in_float32(how: str) -> None:
    model = tiny.pretraining().requires_grad_(False)
    batch = tiny.pair_batch()
    exact = model(batch)
    if how == "weights":
        model = model.bfloat16()
        batch = batch._replace(pixels=batch.pixels.bfloat16())
    with NormsChecked() as checked, torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        losses = model(batch)
    # Towers: two norms of the first block over both views, of the last over each, one at each end; the texts' embedding. Then
    # the fusion encoder and two heads.
    assert checked.seen == 2 * (2 + 4 + 2) + 1 + 3 + 2
    for name, loss in losses.items():
        assert loss.total.dtype == torch.float32
        torch.testing.assert_close(loss.mean, exact[name].mean, rtol=0.1, atol=0.05)


def test_no_two_names_share_storage() -> None:
    state = tiny.pretraining().state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state), "safetensors refuses tied weights"


def test_built_on_meta_and_drawn_later_equals_what_was_built_at_once() -> None:
    def built() -> nn.Module:
        flava = Flava(tiny.image_encoder(), tiny.text_encoder(), tiny.fusion_encoder(), embed_dim=tiny.EMBED_DIM)
        return flava_for_pretraining(flava, num_codes=tiny.NUM_CODES)

    with torch.device("meta"):
        late = built()
    late.to_empty(device="cpu")
    for parameter in late.parameters():
        nn.init.constant_(parameter, 1e9)
    torch.manual_seed(3)
    # `apply` goes from the leaves up, so our values overwrite PyTorch's.
    late.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
    torch.manual_seed(4)
    early = built()
    for (name, a), b in zip(late.named_parameters(), early.parameters(), strict=True):
        if b.numel() > 100:
            assert b.std().item() == pytest.approx(a.std().item(), rel=0.35), name
            assert a.abs().max() < 3, name
        elif b.ndim == 1:
            torch.testing.assert_close(a, b, msg=name)


def test_forward_compiles_into_one_graph() -> None:
    flava = tiny.flava(**tiny.shallow())
    pixels, ids, keep = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(flava, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(pixels, ids, keep), flava(pixels, ids, keep))
