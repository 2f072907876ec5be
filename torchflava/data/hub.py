"""Samples of Hugging Face datasets by position, exact on resuming (huggingface/datasets, map-style `datasets.Dataset`).

`datasets` is optional (`pip install 'torchflava[hub]'`) and imported only when a source is made.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchflava.data.folders import check_index, read_file, shown
from torchflava.data.samples import ImageSample, PairSample, TextSample
from torchflava.transforms.image import CorruptSample

_LARGEST = 1 << 28  # bytes of an image that is fetched


class HubImages:
    """The images of a column, undecoded; labels and captions beside them are left alone.

    Args:
        dataset: a `datasets.Dataset`, one split; shuffled, filtered or selected as you like, but without a transform.
        image: a column of `datasets.Image`, or of the bytes of image files.
        name: enters the key of every sample's randomness.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if it is no such dataset, or the column is not there or of another kind.
    """

    resume: Literal["exact"] = "exact"
    """The same index, the same sample: a run goes on exactly where it stopped."""

    def __init__(self, dataset: Any, image: str = "image", name: str = "images") -> None:
        self.name, self._image = name, image
        self._rows = undecoded(_map_style(dataset, (image,)), image)
        if not len(self):
            raise ValueError(f"{name}: the dataset has no row")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ImageSample:
        """The sample at `index`: the image file's bytes.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if there is no image, or it lies elsewhere and cannot be read.
        """
        check_index(index, len(self), self.name)
        key = f"{self.name}/{index}"
        return ImageSample(image_bytes(self._rows[index][self._image], key), key)


class HubTexts:
    """The texts of a column; those that are null or blank are left out, which `num_rejected` counts.

    Args:
        dataset: as for `HubImages`.
        text: a column of strings, or of lists of them: each is a sample.
        name: enters the key of every sample's randomness.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if it is no such dataset, the column is not there or of another kind, or no text is left.
    """

    resume: Literal["exact"] = "exact"
    """The same index, the same sample: a run goes on exactly where it stopped."""

    def __init__(self, dataset: Any, text: str = "text", name: str = "texts") -> None:
        self.name, self._text = name, text
        self._rows = _map_style(dataset, (text,))
        self._places, self.num_rejected = _places(self._rows, text, name)

    def __len__(self) -> int:
        return len(self._places.rows)

    def __getitem__(self, index: int) -> TextSample:
        """The text at `index`, stripped.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if it is not UTF-8.
        """
        check_index(index, len(self), self.name)
        return TextSample(_text_at(self._rows, self._text, self._places, index), self._places.key(self.name, index))


class HubPairs:
    """Captioned images; captions that are null or blank are left out, which `num_rejected` counts.

    Args:
        dataset: as for `HubImages`.
        image: a column of `datasets.Image`, or of the bytes of image files.
        caption: a column of strings, or of lists of them: each caption makes a sample.
        name: enters the key of every sample's randomness.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if it is no such dataset, a column is not there or of another kind, or no caption is left.
    """

    resume: Literal["exact"] = "exact"
    """The same index, the same sample: a run goes on exactly where it stopped."""

    def __init__(self, dataset: Any, image: str = "image", caption: str = "caption", *, name: str = "pairs") -> None:
        self.name, self._image, self._caption = name, image, caption
        rows = _map_style(dataset, (image, caption))
        self._images = undecoded(rows.select_columns([image]), image)
        self._captions = rows.select_columns([caption])
        self._places, self.num_rejected = _places(self._captions, caption, name)

    def __len__(self) -> int:
        return len(self._places.rows)

    def __getitem__(self, index: int) -> PairSample:
        """The sample at `index`: the image file's bytes and its caption, stripped.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if there is no image, or it lies elsewhere and cannot be read, or the caption is not UTF-8.
        """
        caption = self.caption(index)
        key = self._places.key(self.name, index)
        return PairSample(image_bytes(self._images[int(self._places.rows[index])][self._image], key), caption, key)

    def caption(self, index: int) -> str:
        """The caption at `index`, without reading its image.

        Raises:
            CorruptSample: if it is not UTF-8.
        """
        check_index(index, len(self), self.name)
        return _text_at(self._captions, self._caption, self._places, index)


class _Places(NamedTuple):
    """Where the texts of a column are."""

    rows: NDArray[np.int64]
    numbers: NDArray[np.int32] | None
    """Into the lists of the column, if it holds lists."""

    def key(self, name: str, index: int) -> str:
        return f"{name}/{self.rows[index]}" + ("" if self.numbers is None else f"/{self.numbers[index]}")


def _map_style(dataset: Any, columns: Sequence[str]) -> Any:
    """The dataset with these columns alone and its plain format, once it is known to be one."""
    from datasets import Dataset

    check_split(dataset)
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"a {type(dataset).__name__} has no positions, which an exact source needs; load it without streaming, or take "
            "torchflava.data.hub_streams"
        )
    if dataset.format["type"] == "custom":
        raise ValueError("the dataset's transform would be left out; apply it with dataset.map(...) and reset_format()")
    check_columns(dataset.column_names, columns)
    return dataset.with_format(None).select_columns(list(columns))


def check_split(dataset: Any) -> None:
    """Raises ValueError for a dict of splits, which is what `load_dataset` returns unless a split is named."""
    if isinstance(dataset, Mapping):
        raise ValueError(f"a dataset of {len(dataset)} splits was given; pass one of them: {', '.join(dataset)}")


def check_columns(there: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ValueError for a column that is not there."""
    for column in wanted:
        if column not in there:
            raise ValueError(f"the dataset has no column {column!r}; its columns are {', '.join(there)}")


def undecoded(dataset: Any, column: str) -> Any:
    """The dataset with the images of a column as the files they came as.

    Raises:
        ValueError: if they are neither images nor bytes.
    """
    from datasets import Image

    feature = dataset.features[column]
    if isinstance(feature, Image):
        return dataset.cast_column(column, Image(decode=False))
    if getattr(feature, "dtype", None) not in ("binary", "large_binary"):
        raise ValueError(
            f"column {column!r} holds {feature}, no images; if these are files, "
            f"dataset.cast_column({column!r}, datasets.Image()) makes them images"
        )
    return dataset


def holds_lists(dataset: Any, column: str) -> bool:
    """Whether a column holds lists of strings instead of strings.

    Raises:
        ValueError: if it holds neither.
    """
    feature = dataset.features[column]
    inner = getattr(feature, "feature", None)  # of a List or a LargeList
    if getattr(feature if inner is None else inner, "dtype", None) not in ("string", "large_string"):
        raise ValueError(f"column {column!r} holds {feature}; strings or lists of strings are due")
    return inner is not None


def image_bytes(value: Any, key: str) -> bytes:
    """The bytes of an undecoded image: as it stands, {"bytes", "path"} of a local file, or of a place that fsspec knows.

    Raises:
        CorruptSample: if there are none.
    """
    value = value if isinstance(value, Mapping) else {"bytes": value}
    data, path = value.get("bytes"), value.get("path")
    if isinstance(data, bytes):
        return data
    if not isinstance(path, str):
        raise CorruptSample(f"{key} has no image")
    return _fetched(path) if "://" in path else read_file(path)


def _fetched(path: str) -> bytes:
    from fsspec import open as open_anywhere

    try:
        with open_anywhere(path, "rb") as file:
            data: bytes = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a protocol that fsspec does not know
        raise CorruptSample(f"{shown(path)} cannot be read ({error})") from error
    if len(data) > _LARGEST:
        raise CorruptSample(f"{shown(path)} has more than {_LARGEST} bytes")
    return data


def _places(dataset: Any, column: str, name: str) -> tuple[_Places, int]:
    """Where the texts of a column are, and how many are null or blank or lists without any; 10,000 rows at a time."""
    listed = holds_lists(dataset, column)
    rows, numbers, num_empty, start = [], [], 0, 0
    for table in dataset.with_format("arrow").iter(10_000):
        at, number, empty = _of_lists(table.column(0)) if listed else _of_strings(table.column(0))
        rows.append(at + start)
        numbers.append(number)
        num_empty += empty
        start += len(table)
    places = _Places(
        np.concatenate([np.empty(0, np.int64), *rows]), np.concatenate(numbers) if listed and rows else None
    )
    if not len(places.rows):
        raise ValueError(f"{name}: none of {start} rows has a text in column {column!r}")
    return places, num_empty


def _of_strings(column: Any) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """A column of strings -> rows with a text, the number 0 for each, and how many have none."""
    import pyarrow.compute as pc

    filled = pc.greater(pc.binary_length(pc.ascii_trim_whitespace(column)), 0)
    rows = np.flatnonzero(pc.fill_null(filled, False).to_numpy()).astype(np.int64)
    return rows, np.zeros(len(rows), np.int32), len(column) - len(rows)


def _of_lists(column: Any) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """A column of lists -> the row and the number in its list of each text, and how many are blank or rows without."""
    import pyarrow.compute as pc

    parents = pc.list_parent_indices(column).to_numpy().astype(np.int64)
    filled, _, num_empty = _of_strings(pc.list_flatten(column))
    numbers = np.arange(len(parents)) - np.searchsorted(parents, parents)
    num_without = len(column) - len(np.unique(parents))
    return parents[filled], numbers[filled].astype(np.int32), num_empty + num_without


def _text_at(dataset: Any, column: str, places: _Places, index: int) -> str:
    row = int(places.rows[index])
    try:
        found = dataset[row][column]
    except UnicodeDecodeError as error:
        raise CorruptSample(f"row {row} of column {column!r} is not UTF-8 ({error})") from error
    text: str = (found if places.numbers is None else found[int(places.numbers[index])]).strip()
    if not text:
        raise CorruptSample(f"row {row} of column {column!r} is blank")
    return text
