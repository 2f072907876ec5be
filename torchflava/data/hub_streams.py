"""Samples of Hugging Face datasets that are streamed: resumed approximately (huggingface/datasets, `datasets.IterableDataset`).

A stream has no positions, so it is no `Source` and no part of a `Mixture`: it is iterated. For training that resumes exactly,
write it to shards once, or load the dataset without streaming. What resuming keeps: datasets counts the rows that it has read
of each of its shards, so that nothing is lost or repeated without a shuffle buffer. What it loses: the buffer of
`dataset.shuffle(buffer_size=...)` is filled anew, so that in that epoch up to as many rows as it holds are missing and others
come twice; and the further texts of the row that was read last, where rows hold lists. The state is a rank's own and holds
for the same number of ranks.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar

from torchflava.data.hub import check_columns, check_split, holds_lists, image_bytes, undecoded
from torchflava.data.samples import ImageSample, PairSample, TextSample
from torchflava.distributed import rank, world_size
from torchflava.transforms.image import CorruptSample

log = logging.getLogger(__name__)

T = TypeVar("T", ImageSample, TextSample, PairSample)
_MOST_BAD = 1000
"""Rows without a sample, one after the other, after which the stream is given up."""


class _ApproximateStream(Generic[T]):
    """This rank's samples, epoch after epoch, without end."""

    resume: Literal["approximate"] = "approximate"
    """After `load_state_dict` it goes on where it stopped, but for what lay in a shuffle buffer."""

    def __init__(self, dataset: Any, image: str | None, text: str | None, name: str) -> None:
        self.name, self.num_skipped = name, 0
        self._epoch, self._number = 0, 0
        self._rows = _of_this_rank(_streamed(dataset, image, text), name)
        self._position: Any = None
        self._running: Iterator[T] | None = None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next sample; after an error, such as the network's, the one after it.

        Raises:
            ValueError: if 1,000 rows in a row, or an epoch's, have no sample.
        """
        if self._running is None:
            self._running = self._run()
        try:
            return next(self._running)
        except Exception:
            self.load_state_dict(self.state_dict())
            raise

    def state_dict(self) -> dict[str, Any]:
        """The place in this rank's stream, of numbers, strings, lists and dicts."""
        position = self._position if self._running is None else self._rows.state_dict()
        counts = {"epoch": self._epoch, "number": self._number, "num_skipped": self.num_skipped}
        return {**counts, "rank": rank(), "world_size": world_size(), "position": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: if it is of another rank or number of ranks.
        """
        if (state["rank"], state["world_size"]) != (rank(), world_size()):
            raise ValueError(
                f"{self.name}: the state is that of rank {state['rank']} of {state['world_size']}, this is rank {rank()} of "
                f"{world_size()}; a stream resumes on as many ranks as it was saved on, each with its own state"
            )
        self._epoch, self._number, self.num_skipped = state["epoch"], state["number"], state["num_skipped"]
        self._position, self._running = state["position"], None

    def __getstate__(self) -> dict[str, Any]:
        position = self.state_dict()["position"]
        return {**vars(self), "_running": None, "_position": position}

    def _run(self) -> Iterator[T]:
        if self._position is not None:
            self._rows.load_state_dict(self._position)
        whole = self._position is None
        while True:
            self._rows.set_epoch(self._epoch)
            any_sample = False
            for sample in self._of_epoch():
                any_sample = True
                yield sample
            if whole and not any_sample:
                raise ValueError(
                    f"{self.name}: an epoch of rank {rank()} has no sample; use fewer ranks or other columns"
                )
            self._epoch, self._number, whole = self._epoch + 1, 0, True

    def _of_epoch(self) -> Iterator[T]:
        num_bad = 0
        for row in self._rows:
            key = f"{self.name}/{self._epoch}/{self._number}"
            self._number += 1
            try:
                samples = self._samples(row, key)
            except CorruptSample as error:
                log.warning("%s is passed over: %s", key, error)
                samples = []
            num_bad = 0 if samples else num_bad + 1
            self.num_skipped += not samples
            if num_bad == _MOST_BAD:
                raise ValueError(
                    f"{self.name}: {num_bad} rows in a row have no sample, the last {key}; check the columns"
                )
            yield from samples

    def _samples(self, row: Mapping[str, Any], key: str) -> list[T]:
        raise NotImplementedError


class ApproximateHubImages(_ApproximateStream[ImageSample]):
    """Images of a stream; rows without one are passed over, and `num_skipped` counts them.

    Args:
        dataset: a `datasets.IterableDataset` of one split, not yet split by rank; shuffled (with a seed that is the same on
            all ranks), filtered or mapped as you like. Where its shards cannot be dealt out evenly to the ranks, as when
            there are more ranks, every rank reads all rows and keeps one in as many as there are ranks.
        image: a column of `datasets.Image`, or of the bytes of image files.
        name: names the samples in logs.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if it is no such dataset, or a column is not there or of another kind.
    """

    def __init__(self, dataset: Any, image: str = "image", name: str = "images") -> None:
        self._image = image
        super().__init__(dataset, image, None, name)

    def _samples(self, row: Mapping[str, Any], key: str) -> list[ImageSample]:
        return [ImageSample(image_bytes(row[self._image], key), key)]


class ApproximateHubTexts(_ApproximateStream[TextSample]):
    """Texts of a stream, stripped; `text` holds strings, or lists of them; otherwise as `ApproximateHubImages`."""

    def __init__(self, dataset: Any, text: str = "text", name: str = "texts") -> None:
        self._text = text
        super().__init__(dataset, None, text, name)

    def _samples(self, row: Mapping[str, Any], key: str) -> list[TextSample]:
        return [TextSample(text, key) for text in _texts(row[self._text], key)]


class ApproximateHubPairs(_ApproximateStream[PairSample]):
    """Captioned images of a stream; each caption of a list makes a sample; otherwise as `ApproximateHubImages`."""

    def __init__(self, dataset: Any, image: str = "image", caption: str = "caption", *, name: str = "pairs") -> None:
        self._image, self._caption = image, caption
        super().__init__(dataset, image, caption, name)

    def _samples(self, row: Mapping[str, Any], key: str) -> list[PairSample]:
        captions = _texts(row[self._caption], key)
        image = image_bytes(row[self._image], key)
        return [PairSample(image, caption, key) for caption in captions]


def _texts(value: Any, key: str) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    texts = [text.strip() for text in listed if isinstance(text, str) and text.strip()]
    if not texts:
        raise CorruptSample(f"{key} has no text")
    return texts


def _streamed(dataset: Any, image: str | None, text: str | None) -> Any:
    """The dataset with these columns alone, its images undecoded."""
    from datasets import IterableDataset

    check_split(dataset)
    if not isinstance(dataset, IterableDataset):
        raise ValueError(f"a {type(dataset).__name__} is no stream; torchflava.data.hub reads datasets with positions")
    if dataset.features is None:
        raise ValueError("the stream does not know its columns; cast it: dataset.cast(datasets.Features(...))")
    columns = [column for column in (image, text) if column is not None]
    check_columns(list(dataset.features), columns)
    if text is not None:
        holds_lists(dataset, text)
    dataset = dataset.with_format(None).select_columns(columns)
    return dataset if image is None else undecoded(dataset, image)


def _of_this_rank(dataset: Any, name: str) -> Any:
    from datasets.distributed import split_dataset_by_node

    if world_size() == 1:
        return dataset
    if dataset.num_shards % world_size():
        log.warning(
            "%s: %d shards cannot be dealt out evenly to %d ranks; every rank reads all rows and keeps one in %d",
            name,
            dataset.num_shards,
            world_size(),
            world_size(),
        )
    return split_dataset_by_node(dataset, rank(), world_size())
