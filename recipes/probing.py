"""Which tasks are probed, and one probe with what it prints and writes."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from evaluation_settings import Probe
from features import load_features
from look_confusion import write_confusion
from look_page import page_beside
from results import Measured, write_results

import torchflava.evaluation as evaluation
from torchflava.tasks import VISION_TASKS, LabelledImages, VisionTask, own_image_task, vision_task


def chosen_tasks(names: Sequence[str], root: Path, *, say: bool, split: str | None = None) -> list[VisionTask]:
    """The tasks of these names; of "all" those whose data are there, and a line for each that is not.

    Ends the program where a task that is named has no data, or none has.
    """
    if tuple(names) != ("all",):
        try:
            tasks = [vision_task(name, root) for name in names]
        except ValueError as error:
            sys.exit(str(error))
        if lacks := [missing for task in tasks if (missing := task.missing(split))]:
            sys.exit(lacks[0])
        return tasks
    found = {name: vision_task(name, root) for name in VISION_TASKS}
    lacks = {name: missing for name, task in found.items() if (missing := task.missing(split))}
    if say:
        print("".join(f"left out, {missing}\n" for missing in lacks.values()), end="", flush=True)
    if len(lacks) == len(found):
        sys.exit(f"{root} holds the data of none of the {len(found)} tasks; docs/tasks.md says where they come from")
    return [task for name, task in found.items() if name not in lacks]


def own_task(config: Probe) -> VisionTask:
    """The images of one's own. Ends the program where they cannot be used."""
    valid, images = (Path(place) if place else None for place in (config.valid, config.images))
    (named,) = config.task
    name = Path(config.test).resolve().parent.name if named == "all" else named
    try:
        return own_image_task(name, train=Path(config.train), test=Path(config.test), valid=valid, images=images)
    except ValueError as error:
        sys.exit(f"linear_probe.py: {error}")


def probe(task: VisionTask, file: Path, config: Probe, device: torch.device) -> None:
    """Probe the features in a file, print a line for each λ and the test's, and write the result."""
    splits = load_features(file)
    sizes = {name: len(split.labels) for name, split in splits.items()}
    whole = print_sizes(task, sizes["train"] + sizes["valid"], sizes["test"])
    found = evaluation.linear_probe(
        splits["train"],
        splits["valid"],
        splits["test"],
        num_classes=1 + max(int(split.labels.max()) for split in splits.values()),
        backend=config.backend,
        max_iter=config.max_iter,
        metric=evaluation.accuracy if task.metric == "accuracy" else evaluation.mean_per_class,
        device="cpu" if config.backend == "sklearn" else device,
    )
    _print(task, found, config)
    settings = {
        "protocol": "linear probe",
        "weights": config.subject.model,
        "image_size": config.subject.image_size,
        "lambda": found.lambda_,
        "converged": found.converged,
        "backend": config.backend,
        "max_iter": config.max_iter,
        "num_train": sizes["train"],
        "num_valid": sizes["valid"],
        "num_test": sizes["test"],
        "whole": whole,
        **({"train": config.train, "valid": config.valid, "test": config.test} if config.train else {}),
    }
    measured = [Measured(task.name, task.metric, found.value)]
    if config.train:  # of one's own both metrics are told
        each = evaluation.mean_per_class(found.predictions, splits["test"].labels)
        measured.append(Measured(task.name, "mean_per_class", each))
    write_results(
        config.subject.place, measured, model=config.subject.shown, made_by="recipes/linear_probe.py", settings=settings
    )
    if config.confusion:
        _show_confusion(task, found.predictions, splits["test"].labels, config=config)


def _print(task: VisionTask, found: evaluation.ProbeResult, config: Probe) -> None:
    for penalty, value in found.readings.items():
        print(f"{task.name}: λ {penalty:.3e}, {task.metric} {value:.4f} on the validation split")
    ended = "" if found.converged else f", not converged after {config.max_iter} iterations"
    print(f"{task.name}: {task.metric} {found.value:.4f} on the test split, λ {found.lambda_:.3e}{ended}", flush=True)


def _show_confusion(task: VisionTask, predicted: torch.Tensor, labels: torch.Tensor, *, config: Probe) -> None:
    page = page_beside(Path(config.confusion), task.name, config.task == ("all",) or len(config.task) > 1)
    title = f"{task.name}, linear probe of {config.subject.shown}"
    write_confusion(page, predicted, labels, classes=class_words(task, task.test()), title=title)


def class_words(task: VisionTask, images: LabelledImages) -> Sequence[str]:
    """What a person calls a task's classes; the names that the data have where nothing says more."""
    if task.name == "imagenet" and importlib.util.find_spec("open_clip"):
        from open_clip import IMAGENET_CLASSNAMES

        if len(IMAGENET_CLASSNAMES) == len(images.classes):
            return tuple(IMAGENET_CLASSNAMES)
    try:
        return task.class_names(images)
    except ValueError:
        return images.classes


def print_sizes(task: VisionTask, num_train: int | None, num_test: int) -> bool:
    """Say so where data are not whole, and whether they are; archives of other years differ by an image or a few."""
    due = task.sizes
    pairs = [(num_test, due.num_test)] + ([] if num_train is None else [(num_train, due.num_train)])
    whole = all(abs(num - wanted) <= wanted / 100 for num, wanted in pairs)
    if not whole:
        learnt = (
            "" if num_train is None else f"{num_train} images to learn from (the whole data have {due.num_train}) and "
        )
        print(f"{task.name}: {learnt}{num_test} to test on (of {due.num_test}); the number compares with no paper's")
    return whole
