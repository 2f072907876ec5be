"""A tiny model in a folder as a pretraining run leaves it, and fine-tuning it through the recipe's own main."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))

import finetune
from made_tuning import WORDS

from torchflava.models import clip_model, flava_model, save_pretrained
from torchflava.training import TIMED
from torchflava.transforms import WordPiece

ROOT = Path(__file__).parents[2]


def tiny_model(folder: Path, *, clip: bool = False) -> Path:
    """16 px images in four patches, the words of the made data."""
    folder.mkdir(parents=True)
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    tokenizer.save(folder / "vocab.txt")
    torch.manual_seed(0)
    made = (clip_model if clip else flava_model)("tiny", image_size=16, patch_size=8, vocab_size=tokenizer.vocab_size)
    save_pretrained(made, folder)
    return folder


def tune(folder: Path, *words: str, name: str = "run") -> Path:
    """Run the recipe in this process; the run's folder."""
    finetune.main([*words, "--folder", str(folder), "--name", name])
    return folder / name


def results(folder: Path) -> dict[str, float]:
    """What a run wrote for the scorecard."""
    return {row["metric"]: row["value"] for row in json.loads((folder / "results.json").read_text())}


def log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, without what the machine decides."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]
