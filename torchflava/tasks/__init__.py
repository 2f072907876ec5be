"""The paper's tasks: what each reads off a disk, how it is split and by what it is measured."""

from torchflava.tasks.captioned import Captioned, read_captioned
from torchflava.tasks.images import LabelledImages, folder_of_classes, read_image
from torchflava.tasks.own_images import own_image_task
from torchflava.tasks.own_labels import own_pairs
from torchflava.tasks.places import MissingData
from torchflava.tasks.tuning import TUNING_TASKS, score_outputs, tuning_task
from torchflava.tasks.vision import VISION_TASKS, VisionTask, vision_task

__all__ = [
    "TUNING_TASKS",
    "VISION_TASKS",
    "Captioned",
    "LabelledImages",
    "MissingData",
    "VisionTask",
    "folder_of_classes",
    "own_image_task",
    "own_pairs",
    "read_captioned",
    "read_image",
    "score_outputs",
    "tuning_task",
    "vision_task",
]
