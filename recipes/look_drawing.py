"""A look at a pair, drawn: heat over an image, masked patches, and all of it as one picture by matplotlib.

Letters: N patches, R patches a side, S side in pixels, T tokens.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import torch
from look_pair import Attended, HiddenPatches, Look
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_HEAT = 0.72  # of the colour at the strongest patch
_MOST_WORDS = 6
_GREY = (120, 108, 86)


def heat(view: Tensor, patches: Tensor) -> Tensor:
    """(3, S, S) uint8, (N,) weights -> (3, S, S) uint8: the image in grey, coloured by weight in shares of the largest."""
    side = math.isqrt(len(patches))
    strength = (patches / patches.max().clamp(min=1e-12)).view(1, 1, side, side)
    spread = torch.nn.functional.interpolate(strength, size=view.shape[1:], mode="nearest")[0, 0]
    colours = torch.from_numpy(matplotlib.colormaps["inferno"](spread.numpy())[..., :3].copy()).permute(2, 0, 1)
    grey = 0.7 * view.float().mean(0, keepdim=True).expand(3, -1, -1) / 255
    alpha = 0.35 + (_HEAT - 0.35) * spread
    return ((grey * (1 - alpha) + colours * alpha) * 255).round().clamp(0, 255).to(torch.uint8)


def masked_view(view: Tensor, masked: Tensor) -> Tensor:
    """(3, S, S) uint8, (N,) bool -> the same with the hidden patches in one colour."""
    side = math.isqrt(len(masked))
    spread = torch.nn.functional.interpolate(masked.float().view(1, 1, side, side), size=view.shape[1:])[0].bool()
    return torch.where(spread, torch.tensor(_GREY, dtype=torch.uint8)[:, None, None], view)


def draw(found: Look, title: str, file: Path) -> None:
    """Write the picture (.png)."""
    figure = plt.figure(figsize=(14, 9), layout="constrained")
    figure.suptitle(title, parse_math=False)
    top, bottom = figure.subfigures(2, 1)
    axes = top.subplots(1, 4, width_ratios=(1, 1, 1, 1.1))
    _show(axes[0], found.view, "What the model sees")
    _show(axes[1], heat(found.view, found.last.patches), "CLS_M, last fusion layer")
    _show(axes[2], heat(found.view, found.rollout.patches), "CLS_M, rollout over the layers")
    _bars(axes[3], found.tokens, found.last, found.rollout)
    below = bottom.subplots(1, 4, width_ratios=(1, 1, 1, 1.1))
    for each in below:
        each.set_axis_off()
    if found.patches is not None:
        _show_patches(below, found.view, found.patches)
    if found.words is not None:
        _show_words(below[3], found)
    file.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a font has not every script; the page (.html) shows all
        figure.savefig(file, dpi=100)
    plt.close(figure)


def _show(axes: Any, image: Tensor, title: str) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest", extent=(0, 1, 1, 0))
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _bars(axes: Any, tokens: list[str], last: Attended, rollout: Attended) -> None:
    at = range(len(tokens))
    axes.barh([y - 0.2 for y in at], last.words.tolist(), height=0.38, color="#2a7f9e", label="last layer")
    axes.barh([y + 0.2 for y in at], rollout.words.tolist(), height=0.38, color="#c9a227", label="rollout")
    axes.set_yticks(at, tokens, parse_math=False, fontsize=9 if len(tokens) < 24 else 6)
    axes.invert_yaxis()
    axes.set_title("CLS_M's attention to words", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _show_patches(axes: Any, view: Tensor, patches: HiddenPatches) -> None:
    _show(axes[0], masked_view(view, patches.masked), "With patches hidden")
    if patches.drawn is not None:
        _show(axes[1], patches.drawn[0], "The true codes, decoded")
        _show(axes[2], patches.drawn[1], f"MMM's codes: {int((patches.predicted == patches.true).sum())} right")
        _outline(axes[2], patches)
    elif len(patches.predicted):
        _show(axes[1], masked_view(view, patches.masked), "MMM's codes")
        _outline(axes[1], patches, numbers=True)


def _outline(axes: Any, patches: HiddenPatches, *, numbers: bool = False) -> None:
    side = math.isqrt(len(patches.masked))
    places = patches.masked.nonzero()[:, 0].tolist()
    for number, place in enumerate(places):
        colour = "white"
        if len(patches.true):
            colour = "#3fae5a" if patches.predicted[number] == patches.true[number] else "#e0523f"
        y, x = divmod(place, side)
        square = plt.Rectangle((x / side + 0.004, y / side + 0.004), 1 / side - 0.008, 1 / side - 0.008, fill=False)
        square.set(edgecolor=colour, linewidth=1.4)
        axes.add_patch(square)
        if numbers:
            told = str(int(patches.predicted[number]))
            at = ((x + 0.5) / side, (y + 0.5) / side)
            axes.text(*at, told, color=colour, fontsize=5, ha="center", va="center")


def _show_words(axes: Any, found: Look) -> None:
    words = found.words or []
    axes.set_title("MMM's words in the masked places", fontsize=10)
    for number, word in enumerate(words[:_MOST_WORDS]):
        lines = [f"{word.true}: rank {word.rank:,}, {word.probability:.1%}"]
        lines += [f"  {guess.probability:.1%}  {guess.token}" for guess in word.guesses]
        at = (0.5 * (number % 2), 1 - number // 2 / 3)
        axes.text(*at, "\n".join(lines), va="top", fontsize=9, parse_math=False, transform=axes.transAxes)
    if len(words) > _MOST_WORDS:
        told = f"and {len(words) - _MOST_WORDS} more, on the page (.html)"
        axes.text(0, -0.02, told, va="top", fontsize=8, transform=axes.transAxes)
