"""What the pages take for granted: names and files that their Python begins with, and blocks that are not run here.

A page's Python is run from top to bottom in one namespace, in an empty folder. Where it speaks of something that the reader has
(a file, a trained model, tensors), a function here makes a small one: it is called with the folder and returns names.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from small_files import a_run

Given = Callable[[Path], dict[str, Any]]


def features(folder: Path) -> dict[str, Any]:
    """Of docs/evaluation.md: 37 classes, far apart."""
    generator = torch.Generator().manual_seed(0)

    def split(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(rows) % 37
        return torch.eye(37)[labels] + 0.1 * torch.randn(rows, 37, generator=generator), labels

    (x, y), (x_valid, y_valid), (x_test, y_test) = split(74), split(37), split(37)
    return {"x": x, "y": y, "x_valid": x_valid, "y_valid": y_valid, "x_test": x_test, "y_test": y_test}


def vocabulary(folder: Path) -> dict[str, Any]:
    """Of docs/torchtext.md: BERT's layout of a vocabulary, cut short."""
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["a", "red", "ball", "two", "blue", "cube", "##s", "on", "table"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return {}


def pair(folder: Path) -> dict[str, Any]:
    """Of docs/looking.md: a model, and a batch of it."""
    batch = tiny.pair_batch()
    return {"model": tiny.pretraining(), "pixels": batch.pixels, "ids": batch.ids}


def first_run(folder: Path) -> dict[str, Any]:
    """Of docs/quickstart.md: what `--preset tiny --name first` leaves."""
    a_run(folder / "runs/first")
    return {}


GIVEN: dict[str, Given] = {
    "docs/quickstart.md": first_run,
    "docs/evaluation.md": features,
    "docs/torchtext.md": vocabulary,
    "docs/looking.md": pair,
}
"""A page -> what it takes for granted."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "docs/looking.md": (
        "python recipes/look.py runs/first --pair photo.jpg 'a dog on a beach' --mask",
        "python recipes/look.py runs/first --retrieval",
    ),
    "docs/tasks.md": (
        "python recipes/zero_shot.py --model runs/first --images",
        "python recipes/linear_probe.py --model runs/first --train shelf/train",
    ),
    "docs/data.md": ("python recipes/data/browse.py data/coco",),
    "docs/evaluation.md": ("python recipes/scorecard.py",),
}
"""A page -> how those of its commands begin that are run for all to see, before its Python, in a folder that holds what
`small_files.py` makes. All other commands are read and not run: they take hours, a cluster, or data that no one may pass on."""

SLOW = {"docs/evaluation.md", "docs/export.md"}
"""Pages whose Python takes more than a second."""

ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/tasks.md": "tests/recipes/test_evaluated.py",
    "docs/variants.md": "tests/docs/variants.py",
    "docs/own_data.md": "tests/docs/test_own_data_page.py",
    **{
        f"docs/contributing/{page}.md": "tests/docs/test_contributing.py"
        for page in ("part", "data_source", "task", "loss")
    },
}
"""Pages whose Python a test of its own runs, which must name the page or its file."""

NEEDS = {
    "docs/from_transformers.md": "transformers",
    "docs/from_torchmultimodal.md": "torchmultimodal",
}
"""Pages whose Python wants a package that plain `pytest` does not have."""

NOT_RUN = {
    ("docs/tasks.md", "for clip in"): "ffmpeg cuts UCF101's films, which no one may pass on; bash reads it",
}
"""(page, how the block begins) -> why it is not run."""
