"""Zero-shot classification of tasks or of a folder of classes (Radford et al. 2021, §3.1.4; paper §4.2).

Letters: C classes, P prompts a class.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from evaluation_settings import ZeroShot
from features import Feeder, check_widths
from look_confusion import write_confusion
from look_page import page_beside
from probing import chosen_tasks, class_words, print_sizes
from results import Measured

from torchflava.evaluation import accuracy, class_embeddings, mean_per_class, top_k_accuracy
from torchflava.tasks import LabelledImages, VisionTask, folder_of_classes
from torchflava.tasks.spec import TEMPLATE, spaced

Prompts = list[list[str]]
"""P prompts for each of C classes."""
Outcome = tuple[list[Measured], dict[str, Any]]
"""Rows of results, and the settings that they were measured with."""
_FIVE = 5


def classified(config: ZeroShot, feeder: Feeder) -> Iterator[Outcome]:
    """One outcome for each task, or one for the folder.

    Raises:
        ValueError: if names, templates and classes do not fit, or files are damaged.
        ImportError: if ImageNet's names are asked for and open_clip_torch is not installed.
    """
    if config.images:
        images = folder_of_classes(Path(config.images))
        names = _lines(config.names) or [spaced(name) for name in images.classes]
        prompts = prompts_of(names, _lines(config.templates) or [TEMPLATE], images.classes)
        shown = _Page(config, names)
        yield _outcome(Path(config.images).resolve().name, images, prompts, feeder=feeder, page=shown)
        return
    for task in chosen_tasks(config.task, Path(config.root), say=feeder.run.leads, split="test"):
        images = task.test()
        try:
            prompts = _prompts_of_task(task, images, config)
        except ValueError as error:
            if config.task != ("all",):
                raise
            if feeder.run.leads:
                print(f"left out, {error}", flush=True)
            continue
        whole = print_sizes(task, None, len(images)) if feeder.run.leads else False
        shown = _Page(config, _lines(config.names) or class_words(task, images))
        measured, settings = _outcome(task.name, images, prompts, feeder=feeder, page=shown, metric=task.metric)
        yield measured, settings | {"whole": whole}


def prompts_of(names: Sequence[str], templates: Sequence[str], classes: Sequence[str]) -> Prompts:
    """Each name in each template.

    Raises:
        ValueError: if there is not a name for each class, or a template has no place for it.
    """
    if len(names) != len(classes):
        raise ValueError(f"{len(names)} names for {len(classes)} classes; give one a line, in the order of the classes")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"the template {template!r} has {template.count('{}')} places {{}} for the class; give it one"
            )
    return [[template.replace("{}", name) for template in templates] for name in names]


def imagenet_prompts(images: LabelledImages) -> Prompts:
    """CLIP's 80 prompts for each of its 1,000 names, as open_clip_torch has them.

    Raises:
        ImportError: if open_clip_torch is not installed.
        ValueError: unless all 1,000 synsets have their folder, by whose order the names go.
    """
    try:
        from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
    except ImportError as error:
        raise ImportError(
            f"ImageNet's names and templates are read from open_clip_torch ({error}): pip install 'torchflava[eval]', or give "
            "--names and --templates"
        ) from error
    if len(images.classes) != len(IMAGENET_CLASSNAMES):
        raise ValueError(
            f"imagenet has folders of {len(images.classes)} synsets and names of {len(IMAGENET_CLASSNAMES)}; the names go by the "
            "order of all 1,000 folders, so that an empty one has to be there too"
        )
    return [[template(name) for template in OPENAI_IMAGENET_TEMPLATES] for name in IMAGENET_CLASSNAMES]


def _prompts_of_task(task: VisionTask, images: LabelledImages, config: ZeroShot) -> Prompts:
    if task.name == "imagenet" and not config.names and not config.templates:
        return imagenet_prompts(images)
    names = _lines(config.names) or task.class_names(images)
    return prompts_of(names, _lines(config.templates) or task.templates, images.classes)


def _outcome(
    name: str, images: LabelledImages, prompts: Prompts, *, feeder: Feeder, page: "_Page", metric: str = "accuracy"
) -> Outcome:
    """What was measured; on the ranks that do not lead nothing."""
    embed = feeder.evaluated.embed_image
    if embed is None:
        raise ValueError(f"images cannot be embedded: {feeder.evaluated.without or 'embed_image is None'}")
    classes = class_embeddings(feeder.texts, prompts)
    embedded = feeder.images(images.image, len(images), embed, what=name)
    check_widths(embedded, classes)
    settings = {
        "protocol": "zero-shot",
        "num_classes": len(prompts),
        "num_prompts": len(prompts[0]),
        "num_test": len(images),
    }
    if not feeder.run.leads:
        return [], settings
    predicted = _nearest(embedded, classes)
    page.write(name, predicted, images.labels)
    judge = accuracy if metric == "accuracy" else mean_per_class
    measured = [Measured(name, f"zero_shot_{metric}", judge(predicted, images.labels))]
    if len(prompts) > _FIVE:
        five = top_k_accuracy(embedded, classes, images.labels, k=_FIVE)
        measured.append(Measured(name, f"zero_shot_accuracy@{_FIVE}", five))
    return measured, settings


class _Page(NamedTuple):
    """Which classes are taken for which, if `--page` asks for it."""

    config: ZeroShot
    names: Sequence[str]

    def write(self, task: str, predicted: torch.Tensor, labels: torch.Tensor) -> None:
        config = self.config
        if config.page:
            page = page_beside(Path(config.page), task, config.task == ("all",) or len(config.task) > 1)
            title = f"{task}, zero-shot by {config.subject.shown}"
            write_confusion(page, predicted, labels, classes=self.names, title=title)


def _nearest(images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """(Q, E), (C, E) of length 1 -> (Q,): the nearest class; of equally near ones the first."""
    if not torch.isfinite(images).all():
        raise ValueError("embeddings of images hold numbers that are not finite; look at the model that made them")
    return torch.cat([(part @ classes.T).argmax(1) for part in images.split(4096)])


def _lines(file: str) -> list[str]:
    if not file:
        return []
    try:
        text = Path(file).read_text(encoding="utf-8-sig")  # an editor may begin it with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}); save it as UTF-8") from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{file} is empty; write one a line")
    return found
