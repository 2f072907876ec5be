"""The tasks that a model is fine-tuned on, by name (paper §4.2 and tables 4 and 5), and what its outputs are worth."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from torchflava.evaluation import (
    accuracy,
    accuracy_and_f1,
    auroc,
    f1,
    matthews,
    mean_per_class,
    pearson,
    spearman,
)
from torchflava.tasks.examples import Example, TuningTask, check_images
from torchflava.tasks.glue import GLUE, glue_task
from torchflava.tasks.images import LabelledImages
from torchflava.tasks.pairs import hateful_memes_task, snli_ve_task
from torchflava.tasks.vision import vision_task
from torchflava.tasks.vqa import vqa_task

TUNING_TASKS = (*GLUE, "vqav2", "snli_ve", "hateful_memes", "rendered_sst2")
"""The names of all but one's own."""
_SIZES = {
    "cola": (8551, 1043), "sst2": (67349, 872), "mrpc": (3668, 408), "qqp": (363846, 40430), "stsb": (5749, 1500),
    "mnli": (392702, 9815), "qnli": (104743, 5463), "rte": (2490, 277), "vqav2": (443757, 214354),
    "snli_ve": (529527, 17901), "hateful_memes": (8500, 1000), "rendered_sst2": (6920, 1821),
}  # fmt: skip
"""Examples to learn from, and of the split that is reported (Wang et al. 2019, table 1; the data sets' own pages)."""


def tuning_task(name: str, root: Path | str, *, with_val: bool = False) -> TuningTask:
    """A task with its examples read, below `root`: GLUE in `glue/`, the others as docs/finetuning.md has it.

    Args:
        name: in `TUNING_TASKS`.
        root: of the data.
        with_val: of vqav2, learn from val too, but for 1,000 of its images.

    Raises:
        MissingData: naming the file that is missing, where it comes from and where to put it.
        ImportError: if a package that reads it is not installed.
        ValueError: for an unknown name, `with_val` of another task than vqav2, and naming the row that is not as it should be.
    """
    root = Path(root)
    if with_val and name != "vqav2":
        raise ValueError(f"{name} is learnt from its training split alone; with_val is for vqav2")
    if name in GLUE:
        return glue_task(name, root / "glue")
    makers: dict[str, Callable[[Path], TuningTask]] = {
        "vqav2": lambda place: vqa_task(place, with_val=with_val),
        "snli_ve": snli_ve_task,
        "hateful_memes": hateful_memes_task,
        "rendered_sst2": rendered_sst2_task,
    }
    if name not in makers:
        raise ValueError(f"no task to fine-tune on is called {name!r}; there are {', '.join(TUNING_TASKS)}")
    return makers[name](root)


def is_whole(task: TuningTask) -> bool:
    """Whether a task has all its data, within a hundredth; one's own is taken to have."""
    if task.name not in _SIZES:
        return True
    there = len(task.train), len(task.measured.get(task.reported, ()))
    return all(abs(num - due) <= due / 100 for num, due in zip(there, _SIZES[task.name], strict=True))


def rendered_sst2_task(root: Path) -> TuningTask:
    """Sentences as pictures, negative or positive: the image task `sst`, whose encoder learns here."""
    task = vision_task("sst", root)
    (train, valid), test = task.train_and_valid(), task.test()
    splits = [_of_images(images, root) for images in (train, valid, test)]
    for split in splits:
        check_images(split)
    measured = {"dev": splits[1], "test": splits[2]}
    return TuningTask("rendered_sst2", "image", "class", train.classes, ("accuracy",), splits[0], measured, "test", {})


def score_outputs(task: TuningTask, split: Sequence[Example], outputs: Tensor) -> dict[str, float]:
    """What a model's outputs for a split are worth, by metric.

    Args:
        task: whose metrics are due.
        split: N examples with targets.
        outputs: as `reduce_outputs` makes them: of classes (N, C) logits, else (N,).
    """
    if task.kind == "answers":
        worth = [dict(_answers(one)).get(int(chosen), 0.0) for one, chosen in zip(split, outputs.tolist(), strict=True)]
        return {"vqa_accuracy": sum(worth) / len(worth)}
    if task.kind == "score":
        targets = torch.tensor([one.target for one in split], dtype=torch.float64)
        return {"pearson": pearson(outputs, targets), "spearman": spearman(outputs, targets)}
    labels = torch.tensor([one.target for one in split])
    if "auroc" in task.metrics:
        return {
            "auroc": auroc(outputs[:, 1] - outputs[:, 0], labels),
            "accuracy": accuracy(outputs.argmax(1), labels),
        }
    of_labels: dict[str, Callable[[Tensor, Tensor], float]] = {
        "accuracy": accuracy,
        "accuracy_and_f1": accuracy_and_f1,
        "f1": f1,
        "matthews": matthews,
        "mean_per_class": mean_per_class,
    }
    return {metric: of_labels[metric](outputs.argmax(1), labels) for metric in task.metrics}


def reduce_outputs(task: TuningTask, logits: Tensor) -> Tensor:
    """(B, C) logits -> what metrics need of them: of classes all, of a score (B,), of answers (B,) the best one's number."""
    if task.kind == "class":
        return logits.float()
    return logits[:, 0].float() if task.kind == "score" else logits.argmax(1)


def _answers(example: Example) -> tuple[tuple[int, float], ...]:
    assert isinstance(example.target, tuple), "a task of answers has them as targets"
    return example.target


def _of_images(images: LabelledImages, root: Path) -> list[Example]:
    return [
        Example(key, None, None, root / key, label)
        for key, label in zip(images.keys, images.labels.tolist(), strict=True)
    ]
