"""COCO captions to shards: `python recipes/data/coco.py --annotations captions_train2014.json --images COCO --out OUT`.

Layout, as cocodataset.org has it: `captions_*.json` with `images` (id, file_name) and `annotations` (id, image_id, caption),
and folders `train2014`, `val2017` and so on. Or Karpathy's `dataset_coco.json`: `images` with cocoid, filepath, filename,
split and `sentences` (sentid, raw); his restval belongs to what one trains on.

Each caption is a sample with its image. The image's name in `.json`, `coco/000000391895`, is what the Localized
Narratives of COCO's images have too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from building import Card, Options, Rejected, Row, build, caption_fault, settle, slices_of
from places import first_file, need_folder, read_json

_CAPTIONS = 5  # of an image, on average
_REMEDY = "unpack annotations_trainval2014.zip or annotations_trainval2017.zip, and name captions_*.json"
_KARPATHY = "unpack caption_datasets.zip, and name dataset_coco.json"


@dataclass(frozen=True)
class Config:
    """Turn COCO captions into shards."""

    images: Path
    """The folder that holds train2014, val2014 and so on, or the images themselves."""
    annotations: tuple[Path, ...] = ()
    """One or more captions_*.json."""
    karpathy: Path | None = None
    """Karpathy's dataset_coco.json, in place of the annotations."""
    splits: tuple[str, ...] = ("train", "restval")
    """Which of Karpathy's splits."""
    out: Path = Path("data/coco")
    """Where the shards and card.json go."""
    build: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    """How the shards are written."""


class Image(NamedTuple):
    """An image with its captions."""

    id: int
    file: str
    """Its name."""
    folder: str
    """Where below the images' folder it may be."""
    captions: list[tuple[int, Any]]
    """Number and text."""


Entry = Image | Rejected


class Slices:
    """The rows of each slice.

    Args:
        images: the folder of the images.
        slices: the entries of each slice.
    """

    def __init__(self, images: Path, slices: Sequence[Sequence[Entry]]) -> None:
        self.images = images
        self.slices = slices

    def __call__(self, part: int) -> Iterator[Row | Rejected]:
        """The rows of slice `part`, in the order of the images' numbers."""
        for entry in self.slices[part]:
            if isinstance(entry, Rejected):
                yield entry
                continue
            path = first_file([self.images / entry.folder, self.images], entry.file)
            for number, caption in entry.captions:
                key = f"{entry.id:012}-{number}"
                fault = caption_fault(caption)
                meta = {"image": f"coco/{entry.id:012}", "image_id": entry.id, "id": number, "file": entry.file}
                yield Rejected(key, fault) if fault else Row(key, path, caption, meta)


def read_annotations(paths: Iterable[Path]) -> list[Entry]:
    """The entries of COCO's own files, by the images' numbers, and then what is wrong with others.

    Raises:
        ValueError: if a file is missing or of another format.
    """
    images: dict[int, Image] = {}
    rejected: list[Entry] = []
    seen: set[int] = set()
    for path in paths:
        found = read_json(path, _REMEDY)
        if not isinstance(found, dict) or not {"images", "annotations"} <= found.keys():
            raise ValueError(f"{path} has no images and annotations; {_REMEDY}")
        folder = path.stem.removeprefix("captions_")
        for image in found["images"]:
            if _is_whole(image, "id", "file_name"):
                images.setdefault(image["id"], Image(image["id"], image["file_name"], folder, []))
        for entry in found["annotations"]:
            if not _is_whole(entry, "image_id") or type(entry.get("id")) is not int or entry["image_id"] not in images:
                rejected.append(Rejected(f"{path.name}/{_number(entry)}", "bad row"))
            elif entry["id"] in seen:
                rejected.append(Rejected(f"{path.name}/{entry['id']}", "duplicate"))
            else:
                seen.add(entry["id"])
                images[entry["image_id"]].captions.append((entry["id"], entry.get("caption")))
    return [*(images[number] for number in sorted(images) if images[number].captions), *rejected]


def read_karpathy(path: Path, splits: Sequence[str]) -> list[Entry]:
    """The entries of Karpathy's file, likewise.

    Raises:
        ValueError: if it is missing, of another format, or has none of the splits.
    """
    found = read_json(path, _KARPATHY)
    if not isinstance(found, dict) or "images" not in found:
        raise ValueError(f"{path} has no images; {_KARPATHY}")
    images: dict[int, Image] = {}
    rejected: list[Entry] = []
    chosen = [image for image in found["images"] if isinstance(image, dict) and image.get("split") in splits]
    for image in chosen:
        if not _is_whole(image, "cocoid", "filename") or not isinstance(image.get("sentences"), list):
            rejected.append(Rejected(f"{path.name}/{_number(image)}", "bad row"))
        elif image["cocoid"] in images:
            rejected.append(Rejected(f"{path.name}/{image['cocoid']}", "duplicate"))
        else:
            told = [(each.get("sentid", -1), each.get("raw")) for each in image["sentences"] if isinstance(each, dict)]
            images[image["cocoid"]] = Image(image["cocoid"], image["filename"], str(image.get("filepath", "")), told)
    if not chosen:
        raise ValueError(f"{path} has no image of the splits {', '.join(splits)}; it has {_splits(found['images'])}")
    return [*(images[number] for number in sorted(images)), *rejected]


def _is_whole(entry: Any, number: str, name: str | None = None) -> bool:
    """Whether an entry has a number and, if it needs one, a file's name that stays in its folder."""
    if not isinstance(entry, dict) or type(entry.get(number)) is not int:
        return False
    file = entry.get(name) if name else "x"
    return isinstance(file, str) and Path(file).name == file


def _number(entry: Any) -> Any:
    return next((entry[key] for key in ("id", "cocoid") if key in entry), None) if isinstance(entry, dict) else None


def _splits(images: list[Any]) -> str:
    return ", ".join(sorted({str(image.get("split")) for image in images if isinstance(image, dict)})) or "none"


def main(config: Config) -> Card:
    """Build the shards; the card.

    Raises:
        ValueError: if a folder or file is missing or of another format, or both or neither kind of annotations are named.
    """
    if bool(config.annotations) == bool(config.karpathy):
        raise ValueError("name either --annotations (captions_*.json) or --karpathy (dataset_coco.json)")
    images = need_folder(config.images, "give --images the folder that holds train2014, val2014 and so on")
    chosen = config.karpathy
    entries = read_karpathy(chosen, config.splits) if chosen else read_annotations(config.annotations)
    annotations = {"karpathy": chosen, "splits": config.splits} if chosen else {"annotations": config.annotations}
    settle(config.out, {"images": images, "limit": config.build.limit, **annotations})
    slices = slices_of(entries, config.build, _CAPTIONS)
    return build(
        Slices(images, slices),
        len(slices),
        config.out,
        name="coco",
        shard_size=config.build.shard_size,
        workers=config.build.workers,
        check_images=config.build.check_images,
        copies=config.build.copies,
    )


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
