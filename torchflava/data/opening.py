"""Sources by where they lie: a folder of shards or of images, a captions file, a text file, URLs, a data set of the hub.

`data/coco` is a folder of tars, or of images with a .txt beside each; `data/cc/*.tar` and `data/cc/{00000..01241}.tar` are tars,
`s3://bucket/cc/{00000..01241}.tar` too; `photos/captions.csv` (or .tsv, .jsonl, .json) names images below its own folder;
`data/news.txt` has a text a line; `hub:USER/NAME?split=train&caption=text` is a data set of the Hugging Face hub, or one saved
on disk.
"""

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from torchflava.data.folders import FolderImages, FolderPairs
from torchflava.data.hub import HubImages, HubPairs, HubTexts
from torchflava.data.lines import TextLines
from torchflava.data.remote import Ranged
from torchflava.data.samples import ImageSample, PairSource, Source, TextSample
from torchflava.data.shards import ShardImages, ShardPairs, ShardTexts
from torchflava.data.storage import Storage

_HUB = "hub:"
_CAPTIONS = (".csv", ".tsv", ".jsonl", ".json")
_NUMBERED = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 1 << 22


class _Place(NamedTuple):
    """Where samples lie, by what kind of place it is; the others are empty."""

    given: str
    shards: list[str]
    folder: str = ""
    file: str = ""
    hub: str | None = None

    @property
    def remote(self) -> bool:
        return bool(self.shards) and "://" in self.shards[0]


def open_pairs(place: str, name: str = "", *, storage: Storage | None = None) -> PairSource:
    """The captioned images at a place.

    Args:
        place: as this module's head lists them.
        name: enters the key of every sample's randomness; the place's own name (`coco`) unless given.
        storage: how URLs are read, a `DiskCache` or `Ranged` of torchflava.data.remote; `Ranged` unless given.

    Raises:
        ValueError: for a place that is not there, holds nothing, or holds no pairs.
    """
    found, name = _find(place), name or name_of(place)
    if found.shards:
        return ShardPairs(found.shards, name, storage=_storage(found, storage))
    if found.folder:
        return FolderPairs(found.folder, name=name)
    if found.hub is not None:
        dataset, image, caption = _dataset(found, "image", "caption")
        return HubPairs(dataset, image, caption, name=name)
    if found.file.endswith(_CAPTIONS):
        return FolderPairs(Path(found.file).parent, found.file, name)
    raise ValueError(f"{place} holds no pairs; give shards, a folder of images, or a captions file ({_listed()})")


def open_images(place: str, name: str = "", *, storage: Storage | None = None) -> Source[ImageSample]:
    """The images at a place, captioned or not; otherwise as `open_pairs`.

    Raises:
        ValueError: for a place that is not there, or holds no images.
    """
    found, name = _find(place), name or name_of(place)
    if found.shards:
        return ShardImages(found.shards, name, storage=_storage(found, storage))
    if found.folder:
        return FolderImages(found.folder, name)
    if found.hub is not None:
        dataset, image = _dataset(found, "image")
        return HubImages(dataset, image, name)
    raise ValueError(f"{place} holds no images; give shards, or a folder of images")


def open_texts(place: str, name: str = "", *, storage: Storage | None = None) -> Source[TextSample]:
    """The texts at a place, of shards those beside images too; otherwise as `open_pairs`.

    Raises:
        ValueError: for a place that is not there, or holds no texts.
    """
    found, name = _find(place), name or name_of(place)
    if found.shards:
        return ShardTexts(found.shards, name, storage=_storage(found, storage))
    if found.hub is not None:
        dataset, text = _dataset(found, "text")
        return HubTexts(dataset, text, name)
    if found.file.endswith(".txt"):
        return TextLines(found.file, name)
    raise ValueError(f"{place} holds no texts; give shards, or a .txt file with a text a line")


def name_of(place: str) -> str:
    """What a place is called for short: its folder, or its file without the ending."""
    if place.startswith(_HUB):
        return place[len(_HUB) :].partition("?")[0].rstrip("/").rpartition("/")[2]
    parts = [part for part in re.split(r"/+", place) if part and part != "."]
    last = parts[-1] if parts else place
    many = any(sign in last for sign in "*?[{") or last.endswith(".tar")
    if many and len(parts) > 1 and not parts[-2].endswith(":"):
        return parts[-2]
    return last.partition(".")[0] or last


def shards_at(place: str) -> list[str]:
    """The tars that a place names, in the order of their names; none if it is another kind of place.

    Raises:
        ValueError: for a place that is not there.
    """
    return _find(place).shards


def _find(place: str) -> _Place:
    if place.startswith(_HUB):
        return _Place(place, [], hub=place[len(_HUB) :])
    if "://" in place:
        return _Place(place, _urls(place))
    if os.path.isdir(place):
        tars = sorted(glob.glob(f"{glob.escape(place)}/*.tar"))
        return _Place(place, tars) if tars else _Place(place, [], folder=place)
    if os.path.isfile(place):
        return _Place(place, [place]) if place.endswith(".tar") else _Place(place, [], file=place)
    named = _numbered(place)
    found = sorted({path for pattern in named for path in glob.glob(pattern, recursive=True)})
    if not found or (len(named) > 1 and len(found) < len(named)):
        missing = next((path for path in named if not glob.glob(path)), place)
        raise ValueError(f"there is no {missing}; give a folder, a file, or a pattern such as data/cc/*.tar")
    if wrong := [path for path in found if not path.endswith(".tar")]:
        raise ValueError(f"{place} names {wrong[0]}; a pattern is for .tar files, give a folder or a file otherwise")
    return _Place(place, found)


def _urls(place: str) -> list[str]:
    named = _numbered(place)
    if not any(sign in named[0] for sign in "*?["):
        if "." not in place.rpartition("/")[2]:
            raise ValueError(f"{place} names no tar; if it is a folder, name the tars in it: {place.rstrip('/')}/*.tar")
        return named
    from fsspec.core import url_to_fs  # slow to import, and few read from afar

    system, path = url_to_fs(place)
    found = sorted(system.unstrip_protocol(one) for one in system.glob(path))
    if not found:
        raise ValueError(f"{place} names no file; web servers cannot list theirs, name them as {{00000..00099}}.tar")
    return found


def _numbered(pattern: str) -> list[str]:
    """`{00000..00002}` written out."""
    match = _NUMBERED.search(pattern)
    if match is None:
        return [pattern]
    first, last = match[1], match[2]
    if not 0 <= int(last) - int(first) < _MOST_SHARDS:
        raise ValueError(f"{match[0]} in {pattern} must count up, to {_MOST_SHARDS} shards at most")
    before, after = pattern[: match.start()], pattern[match.end() :]
    ends = _numbered(after)
    return [f"{before}{i:0{len(first)}}{end}" for i in range(int(first), int(last) + 1) for end in ends]


def _storage(found: _Place, storage: Storage | None) -> Storage | None:
    if not found.remote:
        return None
    return Ranged() if storage is None else storage


def _dataset(found: _Place, *columns: str) -> list[Any]:
    """A map-style data set of the hub, and the columns in it that stand for these."""
    place, _, asked = (found.hub or "").partition("?")
    told = dict(parse_qsl(asked, strict_parsing=bool(asked)))
    known = {"split", "config", *columns}
    if not place or set(told) - known:
        raise ValueError(f"{found.given} must be hub:NAME?KEY=VALUE&..., with keys of {', '.join(sorted(known))}")
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{found.given} needs the package datasets: pip install 'torchflava[hub]'") from error
    split = told.get("split", "train")
    saved = os.path.isfile(f"{place}/dataset_info.json") or os.path.isfile(f"{place}/dataset_dict.json")
    if saved:
        dataset = datasets.load_from_disk(place)
        splits = list(dataset) if isinstance(dataset, datasets.DatasetDict) else None
        if "config" in told or (splits is None and "split" in told):
            lacks = "configs" if "config" in told else "splits"
            raise ValueError(f"{found.given} is saved on disk without {lacks}; leave that key out")
        if splits is not None and split not in splits:
            raise ValueError(f"{found.given} has no split {split}; there are {', '.join(splits)}")
        dataset = dataset if splits is None else dataset[split]
    else:
        load: Callable[..., Any] = datasets.load_dataset
        dataset = load(place, told.get("config"), split=split)
    return [dataset, *(told.get(column, column) for column in columns)]


def _listed() -> str:
    return ", ".join(_CAPTIONS)
