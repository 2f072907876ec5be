"""What a run leaves behind for a person: a table on the terminal, the same in result.md and result.json, and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from presets import Config, shaping

from torchflava.evaluation import Reading, table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_LOSSES = ("contrastive", "mmm_image", "mmm_text", "itm", "mim", "mlm")


def report(config: Config, readings: Sequence[Reading], shown: Sequence[Any], folder: Path) -> None:
    """Print the table and write the files."""
    text = table(readings)
    (folder / "result.md").write_text(f"# {folder.name}\n\n{text}\n")
    measured = {r.name: {"value": r.value, "chance": r.chance} for r in readings}
    (folder / "result.json").write_text(json.dumps({"readings": measured, "config": shaping(config)}, indent=1))
    picture(readings, shown, folder)
    files = ("picture.png", "model.safetensors", "vocab.txt", "tokenizer.json", "codebook.safetensors", "log.jsonl")
    there = ", ".join(name for name in files if (folder / name).exists())
    elsewhere = f"; in {config.checkpoints}: " if config.checkpoints else ", "
    print(f"\n{text}\n\nIn {folder}: {there}{elsewhere}checkpoints.", flush=True)


def picture(readings: Sequence[Reading], shown: Sequence[Any], folder: Path) -> None:
    """Losses over the run, what was reached beside chance, and images never seen with the captions found for them."""
    figure = plt.figure(figsize=(13, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.2))
    curves, bars = top.subplots(1, 2)
    _draw_losses(curves, folder / "log.jsonl")
    _draw_readings(bars, [r for r in readings if 0 <= r.value <= 1 and "loss" not in r.name])
    _draw_found(bottom, shown)
    figure.savefig(folder / "picture.png", dpi=110)
    plt.close(figure)


def _draw_losses(axes: Any, log: Path) -> None:
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for name in _LOSSES:
        seen = [(r["step"], v) for r in records for k, v in r.items() if k.split("/")[1:] == [name]]
        if seen:
            steps, values = zip(*seen, strict=True)
            axes.plot(steps, values, label=name, linewidth=1.2)
    axes.set(title="The six losses", xlabel="step", ylabel="nats, mean over labelled rows", ylim=(0, None))
    axes.legend(frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_readings(axes: Any, readings: Sequence[Reading]) -> None:
    at = range(len(readings))
    axes.barh(at, [r.value for r in readings], color="#2a7f9e", height=0.62, label="reached")
    axes.barh(at, [r.chance for r in readings], color="#c9a227", height=0.2, label="chance")
    axes.set_yticks(at, [r.name for r in readings])
    for y, r in zip(at, readings, strict=True):
        axes.text(min(r.value + 0.01, 0.93), y, f"{r.value:.2f}", va="center", fontsize=9)
    axes.set_title("On what was held out", loc="left")
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_found(figure: Any, shown: Sequence[Any]) -> None:
    figure.suptitle("Images never seen, and the caption that the model finds for each (green: its own)")
    grid = figure.subplots(2, max(1, (len(shown) + 1) // 2), squeeze=False).flatten()
    for axes in grid:
        axes.set_axis_off()
    for axes, found in zip(grid, shown, strict=False):
        axes.imshow(found.image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(_wrapped(found.caption), fontsize=8, color="#1b7837" if found.right else "#b2182b")


def _wrapped(text: str, width: int = 24) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines[:4])
