"""Pages of retrieval and of confusions on small made data, written for the tests of their structure and of their looks."""

from pathlib import Path

import torch
from look_confusion import write_confusion
from look_retrieval import write_retrieval
from made_tasks import picture

from torchflava.tasks import Captioned

SCRIPT = "<script>document.title = 'broken'</script><img src=x>"
NUM = 11


def captioned(folder: Path) -> Captioned:
    """Eleven images of two captions each, one of them hostile."""
    files = [folder / "images" / f"{number:02}<i>.png" for number in range(NUM)]
    for number, file in enumerate(files):
        picture(file, number, side=30)
    texts = [f"caption {at} of {number}" for number in range(NUM) for at in "ab"]
    texts[0] = SCRIPT
    return Captioned("made & drawn", "", files, texts, torch.arange(NUM).repeat_interleave(2))


def embedded() -> tuple[torch.Tensor, torch.Tensor]:
    """(11, 5) and (22, 5): texts near their images, so that some are found and some are not."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(NUM, 5, generator=generator)
    return images, images.repeat_interleave(2, 0) + 1.3 * torch.randn(2 * NUM, 5, generator=generator)


def retrieval_page(folder: Path, *, num: int = 40, wrong_first: bool = False) -> Path:
    """The page's file."""
    images, texts = embedded()
    file = folder / "pages" / "retrieval.html"
    write_retrieval(
        file, captioned(folder), images, texts=texts, num=num, wrong_first=wrong_first, model="a <b>model</b>"
    )
    return file


def guesses(num_classes: int, of_each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) predicted and (N,) true classes; a third of the samples is taken for any class."""
    generator = torch.Generator().manual_seed(num_classes)
    labels = torch.arange(num_classes).repeat_interleave(of_each)
    other = torch.randint(0, num_classes, labels.shape, generator=generator)
    return torch.where(torch.rand(labels.shape, generator=generator) < 0.67, labels, other), labels


def confusion_page(folder: Path, num_classes: int, of_each: int = 9) -> Path:
    """The page's file; class 0 has a hostile name."""
    file = folder / f"confusion{num_classes}.html"
    predicted, labels = guesses(num_classes, of_each)
    classes = [SCRIPT, *(f"class {number}" for number in range(1, num_classes))]
    write_confusion(file, predicted, labels, classes=classes, title="made & guessed")
    return file
