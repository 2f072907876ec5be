"""Rows asked for and two views at once, against the plain forward of every encoder: states and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from torchflava.encoders import (
    Encoded,
    beit_image_encoder,
    both_views,
    clip_image_encoder,
    clip_text_encoder,
    first_rows,
    fused_at,
    normed_at,
)
from torchflava.layers import Transformer, take_rows

B = 3


class Plain(nn.Module):
    """An encoder of one's own, which offers neither `at` nor `both`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *view: Any) -> Encoded:
        return self.encoder(*view)


class NoRows(nn.Module):
    """A block of one's own, which knows no rows."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.block(x, keep)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def beit() -> nn.Module:
    sizes = {"width": 12, "depth": 2, "num_heads": 2, "hidden": 23}
    return tiny.stirred(beit_image_encoder(**sizes, image_size=tiny.IMAGE_SIZE, patch_size=tiny.PATCH_SIZE))


def foreign_block() -> nn.Module:
    encoder = tiny.stirred(tiny.image_encoder())
    encoder.trunk = Transformer([encoder.trunk.blocks[0], NoRows(encoder.trunk.blocks[1])])
    return encoder


def foreign_trunk() -> nn.Module:
    encoder = tiny.stirred(tiny.image_encoder())
    encoder.trunk = NoRows(encoder.trunk)
    return encoder


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: tiny.stirred(tiny.image_encoder()),
    "beit": beit,
    "a block of one's own": foreign_block,
    "a trunk of one's own": foreign_trunk,
    "an encoder of one's own": lambda: Plain(tiny.stirred(tiny.image_encoder())),
}
TEXTS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: tiny.stirred(tiny.text_encoder()),
    "seeing padding": lambda: tiny.stirred(tiny.text_encoder(attend_to_padding=True)),
    "an encoder of one's own": lambda: Plain(tiny.stirred(tiny.text_encoder())),
}


def image_views() -> tuple[Any, Any]:
    pixels, (masked, _, _) = tiny.pixels(B, drawn()), tiny.patch_mask(B, drawn())
    return (pixels, None), (pixels, masked)


def text_views(length: int, masked_length: int) -> tuple[Any, Any]:
    return tiny.caption(B, length, drawn()), tiny.caption(B, masked_length, drawn(1))


def same(model: nn.Module, fast: tuple[Tensor, ...], slow: tuple[Tensor, ...]) -> None:
    """Equal states, and equal gradients of all weights under the same weights of the states."""
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    gradients = []
    for states in (fast, slow):
        loss = sum((state * torch.linspace(-1, 1, state.numel()).view_as(state)).sum() for state in states)
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        gradients.append(found)
    for (name, weight), a, b in zip(model.named_parameters(), *gradients, strict=True):
        a, b = (torch.zeros_like(weight) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda told, name=name: f"{name}: {told}")


ROWS = torch.tensor([[0, 2, 2, 5], [1, 0, 3, 6], [6, 5, 4, 0]])


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_rows_of_images_are_those_of_forward(make: Callable[[], nn.Module]) -> None:
    encoder, (clean, masked) = make(), image_views()
    for view in (clean, masked):
        same(encoder, (normed_at(encoder, view, ROWS),), (take_rows(encoder(*view).normed, ROWS),))


@pytest.mark.parametrize("make", TEXTS.values(), ids=TEXTS)
def test_rows_of_texts_are_those_of_forward(make: Callable[[], nn.Module]) -> None:
    encoder, (view, _) = make(), text_views(7, 7)
    same(encoder, (normed_at(encoder, view, ROWS),), (take_rows(encoder(*view).normed, ROWS),))


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_both_views_of_images_are_two_forwards(make: Callable[[], nn.Module]) -> None:
    encoder, (clean, masked) = make(), image_views()
    rows = first_rows(clean[0])
    first, second = both_views(encoder, clean, masked, rows=rows)
    same(encoder, (first, *second), (encoder(*clean).normed[:, :1], *encoder(*masked)))


@pytest.mark.parametrize("lengths", [(7, 11), (11, 7), (9, 9)])
@pytest.mark.parametrize("make", TEXTS.values(), ids=TEXTS)
def test_both_views_of_texts_of_any_lengths_are_two_forwards(
    make: Callable[[], nn.Module], lengths: tuple[int, int]
) -> None:
    encoder, (clean, masked) = make(), text_views(*lengths)
    first, second = both_views(encoder, clean, masked, rows=ROWS)
    assert second.hidden.shape[1] == lengths[1]
    kept = masked[1][..., None]  # states of padding are no one's business
    slow = encoder(*masked)
    fast_states, slow_states = ([torch.where(kept, x, 0.0) for x in states] for states in (second, slow))
    same(encoder, (first, *fast_states), (take_rows(encoder(*clean).normed, ROWS), *slow_states))


@pytest.mark.parametrize("attend_to_padding", [False, True])
def test_rows_of_the_fused_sequence_are_those_of_forward(attend_to_padding: bool) -> None:
    encoder = tiny.stirred(tiny.fusion_encoder(attend_to_padding=attend_to_padding))
    image = torch.randn(B, 5, tiny.FUSION_WIDTH, generator=drawn())
    text = torch.randn(B, 4, tiny.FUSION_WIDTH, generator=drawn(1))
    keep = torch.tensor([[True] * 4, [True, True, False, False], [True] * 3 + [False]])
    fused = encoder(image, text, keep)
    slow = take_rows(torch.cat([fused.cls[:, None], fused.image, fused.text], 1), ROWS)
    same(encoder, (fused_at(encoder, image, text, keep=keep, rows=ROWS),), (slow,))
    own = fused_at(lambda *given: encoder(*given), image, text, keep=keep, rows=ROWS)
    torch.testing.assert_close(own, slow)


def test_rows_of_clips_encoders_are_those_of_forward() -> None:
    image = tiny.stirred(clip_image_encoder(width=12, depth=2, num_heads=2, image_size=15, patch_size=5))
    text = tiny.stirred(clip_text_encoder(width=10, depth=2, num_heads=2, vocab_size=tiny.VOCAB_SIZE, max_length=13))
    (clean, _), (view, _) = image_views(), text_views(7, 7)
    same(image, (normed_at(image, clean, ROWS),), (take_rows(image(*clean).normed, ROWS),))
    same(text, (normed_at(text, view, ROWS),), (take_rows(text(*view).normed, ROWS),))
