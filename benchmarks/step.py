"""How fast a training step is beside transformers' FLAVA: `python benchmarks/step.py --size small --precision fp32`.

Both models have the same sizes and see the same samples, captions of 8 to 24 tokens: ours trims them to the batch's longest,
transformers' is fed as its users feed it, padded to 77. Codes are given to both, so no codebook runs. The two take turns,
and the ratio of medians counts: absolute times differ by a factor of two between runs on a shared machine.
"""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from transformers import FlavaConfig
from transformers import FlavaForPreTraining as TheirFlava

from torchflava.batch import Batch, ImageBatch, PairBatch, TextBatch
from torchflava.losses import LOSSES, mean_losses, weighted_sum
from torchflava.models import SIZES, flava_for_pretraining, flava_model

PADDED = 77  # tokens, in facebookresearch/multimodal@3c2a85a, examples/flava/data/transforms.py


@dataclass(frozen=True)
class Config:
    """Compare a step's time."""

    size: str = "small"
    image_size: int = 96
    patch_size: int = 16
    batch_size: int = 16
    turns: int = 7
    """Steps of each, after one to warm up."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast in both."""
    threads: int = 0
    """0 leaves torch's choice."""
    out: str = "benchmarks/results"


def theirs(config: Config) -> nn.Module:
    """transformers' model of the same sizes, with its codebook left out."""
    width, depth, num_heads, hidden, fusion_depth, embed_dim = SIZES[config.size]
    tower = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": num_heads,
        "intermediate_size": hidden,
    }
    return TheirFlava(
        FlavaConfig(
            image_config=tower | {"image_size": config.image_size, "patch_size": config.patch_size},
            text_config=tower,
            multimodal_config=tower | {"num_hidden_layers": fusion_depth},
            image_codebook_config={"hidden_size": 8, "num_groups": 4},
            hidden_size=width,
            projection_dim=embed_dim,
            skip_unmasked_multimodal_encoder=True,
        )
    )


def samples(config: Config) -> dict[str, Tensor]:
    """Random samples of the real lengths."""
    draw = torch.Generator().manual_seed(0)
    n, num_patches = config.batch_size, (config.image_size // config.patch_size) ** 2
    lengths = torch.randint(8, 25, (n,), generator=draw)
    keep = torch.arange(PADDED) < lengths[:, None]
    ids = torch.randint(1000, 30000, (n, PADDED), generator=draw) * keep
    order = torch.rand(n, num_patches, generator=draw).argsort(1)
    return {
        "pixels": torch.randn(n, 3, config.image_size, config.image_size, generator=draw),
        "masked": order < round(num_patches * 75 / 196),
        "codes": torch.randint(8192, (n, num_patches), generator=draw),
        "ids": ids,
        "keep": keep,
        "hidden": (torch.rand(n, PADDED, generator=draw) < 0.15) & keep,
    }


def our_batch(s: dict[str, Tensor], kind: str) -> Batch:
    """The samples as our loader would give them."""
    longest = int(s["keep"].sum(1).max())
    ids, keep, hidden = (s[name][:, :longest] for name in ("ids", "keep", "hidden"))
    masked_ids = ids.masked_fill(hidden, 103)
    patches = s["masked"].nonzero()[:, 1].view(len(ids), -1)
    patch_labels = s["codes"].gather(1, patches)
    most = int(hidden.sum(1).max())
    tokens = hidden.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    labels = torch.where(hidden.gather(1, tokens), ids.gather(1, tokens), -100)
    if kind == "image":
        return ImageBatch(s["pixels"], s["masked"], patches, patch_labels)
    if kind == "text":
        return TextBatch(masked_ids, keep, tokens, labels)
    yes = torch.ones(len(ids), dtype=torch.bool)
    return PairBatch(
        s["pixels"], s["masked"], patches, patch_labels, ids, keep, masked_ids, keep, tokens, labels, yes, yes
    )


def their_inputs(s: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The same samples as transformers' processor would give them."""
    image = {"pixel_values": s["pixels"], "bool_masked_pos": s["masked"], "mim_labels": s["codes"]}
    text = {
        "input_ids_masked": s["ids"].masked_fill(s["hidden"], 103),
        "attention_mask": s["keep"].long(),
        "mlm_labels": s["ids"].masked_fill(~s["hidden"], -100),
    }
    if kind == "image":
        return image
    text["input_ids"] = s["ids"]
    return text if kind == "text" else image | text | {"itm_labels": torch.ones(len(s["ids"]), dtype=torch.long)}


def our_step(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    return lambda: weighted_sum(mean_losses(model(batch)), dict.fromkeys(LOSSES, 1.0))


def their_step(model: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], Tensor]:
    # mim_labels are changed in place by transformers' forward, so each call gets its own.
    return lambda: model(**{k: v.clone() for k, v in inputs.items()}, return_loss=True).loss


def timed(step: Callable[[], Tensor], model: nn.Module, precision: str) -> float:
    """Seconds of a forward and backward."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = step()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def compare(config: Config) -> list[str]:
    """A row for each kind of batch."""
    torch.manual_seed(0)
    flava = flava_model(config.size, image_size=config.image_size, patch_size=config.patch_size)
    ours, other, drawn = flava_for_pretraining(flava), theirs(config), samples(config)
    rows = []
    for kind in ("pair", "image", "text"):
        steps = (our_step(ours, our_batch(drawn, kind)), ours), (their_step(other, their_inputs(drawn, kind)), other)
        seconds: list[list[float]] = [[], []]
        for turn in range(config.turns + 1):
            for which, (step, model) in enumerate(steps):
                took = timed(step, model, config.precision)
                if turn:
                    seconds[which].append(took)
        mine, their = (statistics.median(s) for s in seconds)
        spread = max(max(s) / min(s) for s in seconds)
        rows.append(f"| {kind} | {mine:.3f} | {their:.3f} | {their / mine:.2f} | {spread:.2f} |")
    return rows


def main(config: Config) -> None:
    """Print the table and write it to a file."""
    if config.threads:
        torch.set_num_threads(config.threads)
    rows = compare(config)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    head = [
        f"# Step time: {config.size}, {config.image_size} px, batch {config.batch_size}, {config.precision}",
        "",
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, commit {commit}; "
        f"medians of {config.turns} alternating steps, forward and backward, codes given.",
        "",
        "| batch | ours, s | transformers, s | ratio | spread |",
        "|---|---:|---:|---:|---:|",
    ]
    text = "\n".join([*head, *rows]) + "\n"
    print(text)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"step-{config.size}-{config.precision}.md").write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Config))
