"""A folder that holds what the pages speak of as the reader's own, in small: a run, photos, captions, shards, results."""

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from torchflava.data import ScenePairs
from torchflava.data.tars import write_shards
from torchflava.models import flava_for_pretraining, flava_model, save_pretrained
from torchflava.transforms import WordPiece

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from results import Measured, write_results

CLASSES = ("cat", "dog", "boat")
WORDS = ("a", "photo", "of", "the", *CLASSES, "on", "beach", "red", "circle", "blue", "square", "and", ".")


def small_files(folder: Path) -> dict[str, Any]:
    """Make them all; no names."""
    a_run(folder / "runs/first")
    for name in ("my_run", "my_other_run"):
        write_results(folder / "runs" / name, [Measured("cifar10", "accuracy", 0.5)], model=name, made_by="tests")
    scenes = ScenePairs("train", 48)
    pictures = [scenes[at] for at in range(24)]
    (folder / "photos").mkdir()
    for at, pair in enumerate(pictures):
        _save(pair.image, folder / "photos" / f"{at}.png")
    _save(pictures[0].image, folder / "photo.jpg")
    rows = "".join(f"{at}.png\t{pair.caption}\n" for at, pair in enumerate(pictures))
    (folder / "captions.tsv").write_text("image\tcaption\n" + rows)
    labels(folder, pictures)
    samples = [
        (f"{at:06}", {"png": (folder / "photos" / f"{at}.png").read_bytes(), "txt": pair.caption.encode()})
        for at, pair in enumerate(pictures)
    ]
    for name in ("coco", "sbu"):
        (folder / "data" / name).mkdir(parents=True)
        write_shards(samples, folder / "data" / name / name, 12)
    return {}


def a_run(folder: Path) -> None:
    """The folder of a run, with a model that learnt nothing."""
    folder.mkdir(parents=True)
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    tokenizer.save(folder / "vocab.txt")
    torch.manual_seed(0)
    flava = flava_model("tiny", image_size=32, patch_size=8, vocab_size=tokenizer.vocab_size)
    save_pretrained(flava_for_pretraining(flava, num_codes=16), folder)


def labels(folder: Path, pictures: list[Any]) -> None:
    """Photos with labels, as folders of classes and as tables; names of classes and templates."""
    for split in ("shelf/train", "shelf/test", "photos"):
        for number, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for at in range(number, len(pictures), 3):
                _save(pictures[at].image, folder / split / name / f"{at}.png")
    rows = [f"{at}.png\t{CLASSES[at % 3]}\n" for at in range(len(pictures))]
    for name, part in (("train", rows[:12]), ("valid", rows[12:18]), ("test", rows[18:])):
        (folder / f"{name}.tsv").write_text("image\tlabel\n" + "".join(part))
    (folder / "names.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "templates.txt").write_text("a photo of the {}\n{} on the beach\n")


def _save(image: Tensor, file: Path) -> None:
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
