"""Tasks over an image and a text in files of JSON lines: SNLI-VE (Xie et al. 2019) and Hateful Memes (Kiela et al. 2020)."""

import csv
from collections.abc import Sequence
from pathlib import Path

from torchflava.tasks.examples import Example, TuningTask, check_images, class_number
from torchflava.tasks.places import Needed, check_there
from torchflava.tasks.rows import cell, json_rows

_ENTAILMENT = ("entailment", "neutral", "contradiction")
_MEMES = ("not hateful", "hateful")
_SNLI_VE = "github.com/necla-ml/SNLI-VE, where its page tells the link of {}"
_FLICKR = "flickr30k-images.tar.gz of shannon.cs.illinois.edu/DenotationGraph, on request"
_HATEFUL = "hateful_memes.zip of hatefulmemeschallenge.com, unpacked"


def snli_ve_task(root: Path) -> TuningTask:
    """Whether a picture entails a sentence: `snli_ve/snli_ve_{train,dev,test}.jsonl` and `flickr30k/flickr30k-images/`.

    The text is `sentence2`, the hypothesis; `sentence1`, the picture's caption, is not looked at.

    Raises:
        MissingData: naming the file that is missing, where it comes from and where to put it.
        ValueError: naming the row that is not as it should be.
    """
    splits, folders = ("train", "dev", "test"), ("flickr30k/flickr30k-images", "snli_ve/flickr30k-images")
    files = [Needed(f"snli_ve/snli_ve_{s}.jsonl", _SNLI_VE.format(f"snli_ve_{s}.jsonl")) for s in splits]
    check_there("snli_ve", root, [*files, Needed("|".join(folders), _FLICKR)])
    images = next(root / name for name in folders if (root / name).is_dir())

    def of(split: str) -> list[Example]:
        found = []
        for row in json_rows(root / "snli_ve" / f"snli_ve_{split}.jsonl"):
            image = images / f"{row.cells.get('Flickr30K_ID')}.jpg"  # a name, which some copies have as a number
            target = class_number(cell(row, "gold_label"), _ENTAILMENT, row.key)
            found.append(Example(row.key, cell(row, "sentence2"), None, image, target))
        check_images(found)
        return found

    train, dev, test = map(of, splits)
    measured = {"dev": dev, "test": test}
    return TuningTask("snli_ve", "pair", "class", _ENTAILMENT, ("accuracy",), train, measured, "test", {})


def hateful_memes_task(root: Path) -> TuningTask:
    """Whether a meme is hateful: `hateful_memes/{train,dev_seen,dev_unseen,test_seen,test_unseen}.jsonl` and `img/`.

    Test splits without labels are asked for, not measured; those of the second phase (`_unseen`) may be missing.

    Raises:
        MissingData: naming the file that is missing, where it comes from and where to put it.
        ValueError: naming the row that is not as it should be.
    """
    needed = [Needed(f"hateful_memes/{name}", _HATEFUL) for name in ("train.jsonl", "dev_seen.jsonl", "img")]
    check_there("hateful_memes", root, needed)
    folder = root / "hateful_memes"
    splits = ("train", "dev_seen", "dev_unseen", "test_seen", "test_unseen")
    found = {name: _memes(folder, name) for name in splits if (folder / f"{name}.jsonl").is_file()}
    train = found.pop("train")
    asked = {name: rows for name, rows in found.items() if any(row.target is None for row in rows)}
    for one in (*train, *(row for name in ("dev_seen", "dev_unseen") for row in asked.get(name, ()))):
        if one.target is None:
            raise ValueError(f"{folder}: meme {one.key} has no label; unpack hateful_memes.zip again")
    measured = {name: rows for name, rows in found.items() if name not in asked}
    metrics = ("auroc", "accuracy")
    return TuningTask("hateful_memes", "pair", "class", _MEMES, metrics, train, measured, "test_seen", asked)


def _memes(folder: Path, split: str) -> list[Example]:
    found = []
    for row in json_rows(folder / f"{split}.jsonl"):
        told = row.cells.get("label")
        target = None if told is None else class_number(str(told), ("0", "1"), row.key)
        if not isinstance(number := row.cells.get("id"), int | str):
            raise ValueError(f"{row.key} has no id; unpack hateful_memes.zip again")
        found.append(Example(str(number), cell(row, "text"), None, folder / cell(row, "img"), target))
    check_images(found, f"{folder / split}.jsonl: meme ")
    return found


def write_memes(file: Path, asked: Sequence[Example], probabilities: Sequence[float]) -> None:
    """What the challenge takes: id, the probability of being hateful, and the label that follows from it, a line each."""
    with file.open("w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["id", "proba", "label"])
        for one, probability in zip(asked, probabilities, strict=True):
            writer.writerow([one.key, f"{probability:.6f}", int(probability >= 0.5)])
