"""The paper's 22 image tasks by name (paper §4.2 and table 4; CLIP's table 9 has their sizes and metrics).

What each reads, where it comes from and how it is split is told in docs/tasks.md.
"""

from pathlib import Path
from typing import Literal

from torchflava.tasks.images import LabelledImages
from torchflava.tasks.places import MissingData, check_there, need
from torchflava.tasks.spec import Metric, Sizes, Spec
from torchflava.tasks.table import TABLE

VISION_TASKS = tuple(TABLE)
"""Their names, the paper's 22 first, in its order."""
Split = Literal["train", "test"]


class VisionTask:
    """One of the 22 tasks, over the data below `root`; nothing is read before it is asked for.

    Args:
        name: in `VISION_TASKS`.
        spec: how it is read.
        root: of all tasks' data.
    """

    def __init__(self, name: str, spec: Spec, root: Path) -> None:
        self.name, self.root = name, root
        self._spec = spec

    @property
    def metric(self) -> Metric:
        """The task's metric, CLIP's: accuracy, or the mean of the classes' accuracies."""
        return self._spec.metric

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts for zero-shot classification, with {} for the class."""
        return self._spec.templates

    @property
    def sizes(self) -> Sizes:
        """Of the whole data: classes, images to learn from (validation included), images to test on."""
        return self._spec.sizes

    def missing(self, split: Split | None = None) -> str | None:
        """Which file, or package, is missing for a split, or for any; None if all are there."""
        try:
            self._check(split)
        except (MissingData, ImportError) as error:
            return str(error)
        return None

    def train_and_valid(self) -> tuple[LabelledImages, LabelledImages]:
        """What is learnt from, and what λ is chosen on: the split that is given, else a fifth of each class, by key.

        Raises:
            MissingData: naming what is missing, where it comes from and where to put it.
            ImportError: if a package that reads it is not installed.
            ValueError: if it is damaged.
        """
        self._check("train")
        spec = self._spec
        train = self._read(spec.train)
        return (train, self._read(spec.valid)) if spec.valid else spec.hold_out(train, self.name)

    def test(self) -> LabelledImages:
        """What is looked at once.

        Raises:
            MissingData: naming what is missing, where it comes from and where to put it.
            ImportError: if a package that reads it is not installed.
            ValueError: if it is damaged.
        """
        self._check("test")
        return self._read(self._spec.test)

    def class_names(self, images: LabelledImages) -> tuple[str, ...]:
        """What the classes of a split are called in a prompt.

        Raises:
            ValueError: for a task whose data do not say it.
        """
        if self._spec.unnamed:
            raise ValueError(f"{self.name} {self._spec.unnamed}; give their names by --names FILE, one a line")
        return tuple(self._spec.word(name) for name in images.classes)

    def _read(self, split: str) -> LabelledImages:
        try:
            images = self._spec.read(self.root, split)
        except Exception as error:  # readers raise whatever they like: AssertionError, json's, scipy's MatReadError ...
            if isinstance(error, ValueError) and str(self.root) in str(error):
                raise  # it names the file
            what = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{self.name}: the {split} split below {self.root} cannot be read ({what}); unpack its archives again"
            ) from error
        if not len(images):
            raise ValueError(f"{self.name}: the {split} split below {self.root} is empty; unpack its archives again")
        return images

    def _check(self, split: Split | None) -> None:
        needed = [one for one in self._spec.needed if split is None or one.split in (split, "all")]
        check_there(self.name, self.root, needed)
        if self._spec.package:
            need(self._spec.package, self.name)


def vision_task(name: str, root: Path | str) -> VisionTask:
    """A task over the data below `root`.

    Raises:
        ValueError: if no task has this name.
    """
    if name not in TABLE:
        raise ValueError(f"no task is called {name!r}; there are {', '.join(TABLE)}")
    return VisionTask(name, TABLE[name], Path(root))
