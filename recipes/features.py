"""Images and texts through a model, shared over ranks, with a line now and then; and features kept on disk.

Letters: N images, D width.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from evaluated import Evaluated
from evaluation_settings import Subject
from torch import Tensor

from torchflava.evaluation import Labelled, embed_over_ranks
from torchflava.files import load_tensors, save_tensors
from torchflava.tasks import VisionTask
from torchflava.training import Run

_BATCHES = 16  # of each rank between two gatherings, and between two looks at the clock
_PATIENCE = 10.0  # seconds between two lines
SPLITS = ("train", "valid", "test")
T = TypeVar("T")


Reader = Callable[[int], Tensor]
"""The image at a position."""


class Feeder:
    """Feeds a model on all ranks together; each rank calls it alike.

    Args:
        evaluated: the model.
        subject: how it is fed.
        run: the ranks.
    """

    def __init__(self, evaluated: Evaluated, subject: Subject, run: Run) -> None:
        self.evaluated, self.subject, self.run = evaluated, subject, run

    def images(
        self,
        read: Reader,
        num: int,
        verb: Callable[[Tensor], Tensor],
        *,
        what: str,
        everywhere: bool = False,
        viewed: bool = False,
    ) -> Tensor:
        """N images -> (N, D) float32 of a verb, on the CPU, in their order.

        Args:
            read: (3, H, W) uint8.
            num: N.
            verb: of the model.
            what: they are, for the lines that tell how far this is.
            everywhere: on every rank; otherwise those that do not lead get (0, D), for lack of memory.
            viewed: whether `read` gives what the model's view has been taken of already.

        Raises:
            ValueError: if a file is missing or damaged, or the verb returns something else than a row for each.
        """
        view = (lambda image: image) if viewed else self.evaluated.view
        with ThreadPoolExecutor(self.subject.threads) as pool:

            def of_own(own: Sequence[int]) -> Tensor:
                views = pool.map(lambda at: view(read(at)), own)
                batches = _batches(views, self.subject.batch_size)
                return torch.cat([self._rows(verb, torch.stack(batch), what=what) for batch in batches])

            # Part by part, so that a device holds no more than a part.
            part = _BATCHES * self.subject.batch_size * self.run.world_size
            rows, told = [], time.monotonic()
            for start in range(0, num, part):
                made = embed_over_ranks(range(start, min(start + part, num)), of_own)
                rows.append(made.cpu() if everywhere or self.run.leads else made[:0].cpu())
                if self.run.leads and time.monotonic() - told > _PATIENCE:
                    told = time.monotonic()
                    print(f"{what}: {start + len(made)} of {num} images", flush=True)
        return torch.cat(rows)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """P texts -> (P, E) float32, on the CPU, on every rank.

        Raises:
            ValueError: if the model reads no texts, or returns something else than a row for each.
        """
        embed = self.evaluated.embed_text
        if embed is None:
            raise ValueError(f"texts cannot be read: {self.evaluated.without or 'embed_text is None'}")

        def of_own(own: Sequence[str]) -> Tensor:
            batches = _batches(iter(own), self.subject.batch_size)
            return torch.cat([self._rows(embed, batch, what="texts") for batch in batches])

        return embed_over_ranks(texts, of_own).cpu()

    def matches(self, views: Tensor, texts: Sequence[str]) -> Tensor:
        """(B, 3, S, S) and a text for each -> (B,) float32 on the device: how well they go together, by the model's `match`.

        Raises:
            ValueError: if the model cannot score pairs, or returns something else than a number for each.
        """
        match = self.evaluated.match
        if match is None:
            raise ValueError(f"pairs cannot be scored: {self.evaluated.without or 'match is None'}")
        with torch.no_grad():
            scores = match(views.to(self.run.device), texts)
        if not isinstance(scores, Tensor) or scores.shape != (len(texts),):
            told = tuple(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise ValueError(f"the model's match made {told} of {len(texts)} pairs; a number for each is due")
        return scores.to(self.run.device, torch.float32)

    def fingerprint(self) -> str:
        """A number of what the model makes of two fixed pictures: another model, view, precision or device has another.

        Raises:
            ValueError: if what it makes is no row of numbers for each.
        """
        assert self.evaluated.features is not None
        rng = np.random.Generator(np.random.Philox(key=0))
        pictures = [
            torch.from_numpy(rng.integers(0, 256, (3, *sides), dtype=np.uint8)) for sides in ((97, 131), (64, 48))
        ]
        views = torch.stack([self.evaluated.view(picture) for picture in pictures])
        made = self._rows(self.evaluated.features, views, what="two pictures that try the features")
        return str(self.run.agree(sha256(made.cpu().numpy().tobytes()).hexdigest()))

    def _rows(self, verb: Callable[[Any], Any], batch: Any, *, what: str) -> Tensor:
        """What a verb makes of a batch, (B, D) float32 on the device: a user's own may keep a graph, be in half, or be wrong."""
        with torch.no_grad():
            made = verb(batch.to(self.run.device) if isinstance(batch, Tensor) else batch)
        if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != len(batch):
            told = f"{tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
            raise ValueError(
                f"{what}: the model made {told} of a batch of {len(batch)}; a tensor with a row of numbers for each is due"
            )
        return made.to(self.run.device, torch.float32)


def check_widths(images: Tensor, texts: Tensor) -> None:
    """Raise ValueError unless (N, E) images and (P, E) texts can be compared."""
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"images are embedded as {tuple(images.shape)} and texts as {tuple(texts.shape)}; a row of as many numbers is "
            "due for each"
        )


def keep_features(task: VisionTask, feeder: Feeder, folder: Path) -> Path:
    """The file with a task's features, which is made unless it is there; every rank calls it.

    Its name holds a number of the model and of the task's samples and labels, so that it is found again only for these.

    Raises:
        ValueError: if the data or the model's features cannot be used.
    """
    verb = feeder.evaluated.features
    if verb is None:
        raise ValueError(f"the model offers no features: {feeder.evaluated.without or 'features is None'}")
    splits = dict(zip(SPLITS, (*task.train_and_valid(), task.test()), strict=True))
    told = sha256(feeder.fingerprint().encode())
    for images in splits.values():
        told.update(images.fingerprint().encode())
    file = folder / f"{task.name}-{told.hexdigest()[:16]}.safetensors"
    if feeder.run.agree(file.is_file()):
        return file
    tensors = {
        name: feeder.images(images.image, len(images), verb, what=f"{task.name}, {name}")
        for name, images in splits.items()
    }
    if feeder.run.leads:
        folder.mkdir(parents=True, exist_ok=True)
        labels = {f"{name}_labels": images.labels for name, images in splits.items()}
        save_tensors(file, tensors | labels)
    return file


def load_features(file: Path) -> dict[str, Labelled]:
    """Features (N, D) and labels (N,) of each of `SPLITS`."""
    tensors = load_tensors(file)
    return {name: Labelled(tensors[name].float(), tensors[f"{name}_labels"]) for name in SPLITS}


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
