"""How well codes stand for images: how many are used and how evenly, and what a picture loses; a table and a picture of it."""

import json
import math
import shlex
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from codebook_settings import Dvae
from codebook_start import Started
from presets import shaping
from torch import Tensor

from torchflava.codebooks import CodeUsage, DiscreteVae, code_usage
from torchflava.evaluation import Reading, embed_over_ranks, table
from torchflava.training import Run

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_AT_ONCE = 32  # images that a rank measures at a time
_SHOWN = 10
_BLUE, _GOLD = "#2a7f9e", "#c9a227"


class Health(NamedTuple):
    """What a codebook is worth on images that it was not trained on."""

    readings: list[Reading]
    usage: CodeUsage
    images: Tensor
    """(n, 3, s, s) uint8: some of them."""
    drawn: Tensor
    """(n, 3, s, s) uint8: the same, from their codes alone."""

    def sheet(self) -> Tensor:
        """(3, 2s, n s) uint8: images in the upper row, what is drawn from their codes in the lower."""
        return torch.cat([torch.cat([*row], dim=2) for row in (self.images, self.drawn)], dim=1)


@torch.no_grad()
def measure(model: DiscreteVae, pixels: Tensor, config: Dvae, run: Run) -> Health:
    """Encode held-out images to their likeliest codes and draw them again. Called by every rank.

    Args:
        model: sharded; only its verb is called.
        pixels: (M, 3, s, s) uint8, the same on every rank.
        config: its number of codes.
        run: the ranks.
    """

    def of_own(own: Any) -> Tensor:
        return torch.cat([_row(model, part.to(run.device)) for part in torch.stack([*own]).split(_AT_ONCE)])

    rows = embed_over_ranks([*pixels], of_own).cpu()
    usage = code_usage(rows[:, 2:].long(), config.num_codes)
    image = pixels.double() / 255
    off = image - image.mean(dim=(0, 2, 3), keepdim=True)
    absolute, square = rows[:, :2].double().mean(0).tolist()
    readings = [
        Reading("codes used", usage.used / config.num_codes, 1 / config.num_codes),
        Reading("perplexity of codes", math.exp(usage.entropy), 1.0),
        Reading("mean error, of 255", 255 * absolute, 255 * float(off.abs().mean())),
        Reading("PSNR, dB", _decibels(square), _decibels(float(off.square().mean()))),
    ]
    shown = pixels[:_SHOWN]
    drawn = (255 * model.reconstruct(shown.to(run.device)).pixels).round().to(torch.uint8).cpu()
    return Health(readings, usage, shown, drawn)


def _row(model: DiscreteVae, pixels: Tensor) -> Tensor:
    """(B, 2 + N) float32: mean absolute and squared error of each image, and its codes, which float32 holds exactly."""
    codes, drawn = model.reconstruct(pixels)
    off = (drawn - pixels.float() / 255).flatten(1)
    return torch.cat([off.abs().mean(1, keepdim=True), off.square().mean(1, keepdim=True), codes.float()], dim=1)


def _decibels(square: float) -> float:
    return -10 * math.log10(max(square, 1e-10))


def report(config: Dvae, health: Health, started: Started) -> None:
    """Print the table and write the files."""
    folder, text = started.folder, table(health.readings)
    told = (
        "" if started.images.unseen else "\nMeasured on images that it was trained on; hold some out by --held-out.\n"
    )
    (folder / "result.md").write_text(f"# {folder.name}\n\n{text}\n{told}")
    measured = {r.name: {"value": r.value, "chance": r.chance} for r in health.readings}
    (folder / "result.json").write_text(json.dumps({"readings": measured, "config": shaping(config)}, indent=1))
    _draw(config, health, started)
    print(
        f"\n{text}\n{told}\nIn {folder}: picture.png, codebook.safetensors, decoder.safetensors, log.jsonl.", flush=True
    )
    size = f"--codebook {shlex.quote(str(folder / 'codebook.safetensors'))} --code-size {config.code_size}"
    print(f"recipes/pretrain.py takes it by {size}, with {config.code_size // 8} patches a side.", flush=True)


def _draw(config: Dvae, health: Health, started: Started) -> None:
    """Losses over the run, how often each code occurs, and images with what is left of them."""
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))
    losses, frequencies = top.subplots(1, 2)
    records = [json.loads(line) for line in (started.folder / "log.jsonl").read_text().splitlines()]
    beside = losses.twinx()
    for axes, name, colour in ((losses, "reconstruction", _BLUE), (beside, "kl", _GOLD)):
        seen = [(r["step"], r[f"image/{name}"]) for r in records if f"image/{name}" in r]
        axes.plot(*zip(*seen, strict=True), color=colour, linewidth=1.2)
        axes.spines["top"].set_visible(False)
        axes.tick_params(axis="y", labelcolor=colour)
    losses.set(xlabel="step", title="Reconstruction, nats a value (blue), and KL, nats a code (gold)")
    counts = np.sort(health.usage.counts.numpy())[::-1]
    frequencies.bar(range(len(counts)), counts / counts.sum(), width=1.0, color=_BLUE)
    frequencies.set(
        title=f"{health.usage.used} of {config.num_codes} codes are used", xlabel="code, by frequency", ylabel="share"
    )
    frequencies.spines[["top", "right"]].set_visible(False)
    unseen = "Images never seen" if started.images.unseen else "Images"
    bottom.suptitle(
        f"{unseen} (above), and what is drawn from their codes, {config.code_size // 8} x {config.code_size // 8} each"
    )
    grid = bottom.subplots(2, len(health.images), squeeze=False)
    for row, pictures in zip(grid, (health.images, health.drawn), strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set_axis_off()
    figure.savefig(started.folder / "picture.png", dpi=110)
    plt.close(figure)
