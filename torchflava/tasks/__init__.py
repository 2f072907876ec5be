"""The paper's tasks: what each reads off a disk, how it is split and by what it is measured."""

from torchflava.tasks.captioned import Captioned, read_captioned
from torchflava.tasks.images import LabelledImages, folder_of_classes, read_image
from torchflava.tasks.places import MissingData
from torchflava.tasks.vision import VISION_TASKS, VisionTask, vision_task

__all__ = [
    "VISION_TASKS",
    "Captioned",
    "LabelledImages",
    "MissingData",
    "VisionTask",
    "folder_of_classes",
    "read_captioned",
    "read_image",
    "vision_task",
]
