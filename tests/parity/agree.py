"""Setting another library's FLAVA and ours side by side: the same inputs, losses and gradients, tensor by tensor.

Letters: B batch, N patches, T tokens, K labelled rows.
"""

from typing import NamedTuple

import torch
from tiny import MASK, NUM_CODES, NUM_PATCHES, VOCAB_SIZE, caption, pixels
from torch import Tensor, nn

from torchflava.batch import IGNORE, ImageBatch, PairBatch, TextBatch
from torchflava.losses import mean_losses
from torchflava.models.layout import Layout, to_ours

CLOSE = 1e-5
"""The greatest difference between two float32 results that counts as none."""


class Inputs(NamedTuple):
    """A batch as both references take it: a label for every place, IGNORE where nothing is asked."""

    pixels: Tensor
    """(B, 3, S, S)."""
    masked: Tensor
    """(B, N) bool."""
    codes: Tensor
    """(B, N): labels of the hidden patches."""
    ids: Tensor
    """(B, T)."""
    keep: Tensor
    """(B, T) bool."""
    masked_ids: Tensor
    """(B, T)."""
    words: Tensor
    """(B, T): labels of the hidden words."""
    itm: Tensor
    """(B,): 1 where text and image belong together."""

    def image_batch(self) -> ImageBatch:
        """Ours."""
        return ImageBatch(self.pixels, self.masked, *as_positions(self.codes))

    def text_batch(self) -> TextBatch:
        """Ours."""
        return TextBatch(self.masked_ids, self.keep, *as_positions(self.words))

    def pair_batch(self) -> PairBatch:
        """Ours: a wrong text is wrong in both passes, as the references' batches have it."""
        return PairBatch(
            self.pixels,
            self.masked,
            *as_positions(self.codes),
            self.ids,
            self.keep,
            self.masked_ids,
            self.keep,
            *as_positions(self.words),
            matched=self.itm == 1,
            contrast=self.itm == 1,
        )


def inputs(size: int = 5, length: int = 11, *, padded: bool = False, mismatched: bool = False) -> Inputs:
    """Random inputs in `tiny`'s sizes; with `padded`, texts of unequal length; with `mismatched`, two wrong pairs."""
    generator = torch.Generator().manual_seed(11)
    masked = torch.rand(size, NUM_PATCHES, generator=generator) < 0.4
    codes = torch.randint(0, NUM_CODES, (size, NUM_PATCHES), generator=generator).where(masked, IGNORE)
    ids, keep = caption(size, length, generator)
    if not padded:
        ids = torch.randint(MASK + 1, VOCAB_SIZE, (size, length), generator=generator)
        keep = torch.ones_like(ids, dtype=torch.bool)
    hidden = (torch.rand(ids.shape, generator=generator) < 0.3) & (ids > MASK)
    hidden[:, 1] = True
    itm = torch.ones(size, dtype=torch.int64)
    if mismatched:
        itm[1], itm[3] = 0, 0
    return Inputs(
        pixels(size, generator), masked, codes, ids, keep, ids.masked_fill(hidden, MASK), ids.where(hidden, IGNORE), itm
    )


def as_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N) labels with IGNORE -> positions (B, K), labels (B, K), K that of the fullest row, by a loop."""
    found = [row.ne(IGNORE).nonzero().flatten().tolist() for row in labels]
    most = max(map(len, found))
    positions = torch.tensor([at + [0] * (most - len(at)) for at in found])
    asked = torch.tensor([[True] * len(at) + [False] * (most - len(at)) for at in found])
    return positions, labels.gather(1, positions).where(asked, IGNORE)


def step(model: nn.Module, batch: ImageBatch | TextBatch | PairBatch) -> dict[str, Tensor]:
    """Our losses after the backward pass of their sum."""
    model.zero_grad()
    losses = mean_losses(model(batch))
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.detach() for name, loss in losses.items()}


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Equal within `CLOSE`, entry by entry."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    worst = (ours - theirs).abs().max().item()
    assert worst <= CLOSE, f"{what} differs by {worst}"


def assert_same_losses(ours: dict[str, Tensor], theirs: dict[str, Tensor | None]) -> None:
    """The same names, None being no loss, and the same values."""
    found = {name: loss for name, loss in theirs.items() if loss is not None}
    assert ours.keys() == found.keys()
    for name, loss in found.items():
        assert_close(ours[name], loss.detach(), name)


def assert_same_gradients(
    ours: nn.Module, theirs: nn.Module, layout: Layout, *, frozen: tuple[str, int] | None = None
) -> set[str]:
    """Parameter by parameter, no gradient being zero; `frozen` is a row that gets none there. Returns those with any."""
    there = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    mapped, unused = to_ours(layout, there)
    assert not any(there[name].any() for name in unused), "a parameter that is left out has a gradient"
    alive = set()
    for name, parameter in ours.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        if frozen is not None and name == frozen[0]:
            assert not mapped[name][frozen[1]].any()
            gradient[frozen[1]] = 0
        assert_close(gradient, mapped[name], f"the gradient of {name}")
        if gradient.abs().max() > 100 * CLOSE:
            alive.add(name)
    return alive
