"""Localized Narratives to shards: `python recipes/data/localized_narratives.py --annotations *.jsonl --coco COCO --out OUT`.

Layout, as google.github.io/localized-narratives has it: JSON lines with dataset_id, image_id, annotator_id and caption
(`*_captions.jsonl`; the files with traces have the same fields and more, and take longer to read), and the images of Open
Images, COCO 2017, Flickr30k and ADE20K by their own names.

Narratives are cut into sentences, a sample each: 849 thousand narratives have 36.5 words on average, and the paper counts
1.9 million pairs of 13.8 words. The image's name in `.json` is the same for all sentences, and for COCO's the same as in
recipes/data/coco.py.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from building import Card, Options, Rejected, Row, build, caption_fault, settle, slices_of
from places import Entries, Place, first_file, lines_of, need_file, need_folder

_SENTENCES = 3  # of a narrative, on average
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_STARTS = {"mscoco": "coco", "open": "open_images", "flick": "flickr30k", "ade20k": "ade20k"}
_ADE20K = {"train": "training", "validation": "validation"}


@dataclass(frozen=True)
class Config:
    """Turn Localized Narratives into shards."""

    annotations: tuple[Path, ...]
    """One or more of the .jsonl files, of any of the four subsets."""
    open_images: Path | None = None
    """The folder that holds Open Images' train, validation and test, or the images themselves."""
    coco: Path | None = None
    """The folder that holds COCO's train2017 and val2017, or the images themselves."""
    flickr30k: Path | None = None
    """The folder of Flickr30k's images (flickr30k-images)."""
    ade20k: Path | None = None
    """ADEChallengeData2016/images, which holds training and validation, or the images themselves."""
    sentences: bool = True
    """Cut narratives into sentences; without, a narrative is one caption."""
    out: Path = Path("data/localized_narratives")
    """Where the shards and card.json go."""
    build: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    """How the shards are written."""


class Narrative(NamedTuple):
    """What a line says, without the traces."""

    subset: str
    """coco, open_images, flickr30k or ade20k."""
    split: str
    """The folder that its image may be in."""
    image: str
    """The image's number or name, without its ending."""
    annotator: int
    caption: Any

    @property
    def key(self) -> str:
        """Of the narrative."""
        return f"{self.subset}-{self.image}-{self.annotator}"


def narrative(line: bytes) -> Narrative | str:
    """What a line says, or why it cannot be used."""
    try:
        entry = json.loads(line)
    except UnicodeDecodeError:
        return "not UTF-8"
    except (ValueError, RecursionError):
        return "bad row"
    if not isinstance(entry, dict):
        return "bad row"
    dataset, image, annotator = (entry.get(field) for field in ("dataset_id", "image_id", "annotator_id"))
    if not isinstance(dataset, str) or not isinstance(image, str | int) or not isinstance(annotator, int):
        return "bad row"
    subset = next((name for start, name in _STARTS.items() if dataset.lower().startswith(start)), None)
    split = dataset.rpartition("_")[2]
    image = str(image)
    if subset == "coco":
        if not (image.isascii() and image.isdigit()):
            return "bad row"
        image = f"{int(image):012}"
    if subset is None or Path(image).name != image or Path(split).name != split:
        return "bad row"
    return Narrative(
        subset, _ADE20K.get(split, split) if subset == "ade20k" else split, image, annotator, entry.get("caption")
    )


class Slices:
    """The rows of each slice.

    Args:
        folders: where each subset's images are.
        entries: the lines.
        slices: which of the lines are in each slice; those negative were there before, as -1 - entry.
        sentences: cut narratives.
    """

    def __init__(
        self, folders: Mapping[str, Path], entries: Entries, slices: Sequence[Sequence[int]], *, sentences: bool
    ) -> None:
        self.folders = folders
        self.entries = entries
        self.slices = slices
        self.sentences = sentences

    def __call__(self, part: int) -> Iterator[Row | Rejected]:
        """The rows of slice `part`, in the order of the files."""
        for entry in self.slices[part]:
            told = narrative(self.entries[entry if entry >= 0 else -1 - entry])
            if isinstance(told, str):
                yield Rejected(self.entries.key(entry), told)
            elif entry < 0:
                yield Rejected(told.key, "duplicate")
            elif fault := caption_fault(told.caption):
                yield Rejected(told.key, fault)
            else:
                yield from self._rows(told)

    def _rows(self, told: Narrative) -> Iterator[Row]:
        folder = self.folders[told.subset]
        path = first_file([folder / told.split, folder], f"{told.image}.jpg")
        meta = {"image": f"{told.subset}/{told.image}", "annotator_id": told.annotator, "split": told.split}
        captions = sentences(told.caption) if self.sentences else [told.caption]
        for number, caption in enumerate(captions):
            yield Row(f"{told.key}-{number}", path, caption, {**meta, "sentence": number})


def sentences(text: str) -> list[str]:
    """A narrative's sentences, which end in a full stop, an exclamation or a question mark before a blank."""
    return [part for part in _SENTENCE_END.split(text.strip()) if any(letter.isalnum() for letter in part)]


def plan(paths: Sequence[Path], limit: int | None) -> tuple[list[Place], list[int], dict[str, Path]]:
    """Where the lines are; their numbers, negative as `Slices` says; and the subsets, each with a file that has it."""
    places: list[Place] = []
    numbers: list[int] = []
    subsets: dict[str, Path] = {}
    seen: set[tuple[str, str]] = set()
    for file, path in enumerate(paths):
        for offset, line in lines_of(need_file(path, "give --annotations the .jsonl files")):
            if len(places) == limit:
                return places, numbers, subsets
            told = narrative(line)
            known = isinstance(told, Narrative) and (told.split, told.key) in seen
            numbers.append(-1 - len(places) if known else len(places))
            places.append(Place(file, offset, len(line)))
            if isinstance(told, Narrative):
                subsets.setdefault(told.subset, path)
                seen.add((told.split, told.key))
    return places, numbers, subsets


def main(config: Config) -> Card:
    """Build the shards; the card.

    Raises:
        ValueError: if a folder or file is missing, or the files hold no narratives.
    """
    given = {name: getattr(config, name) for name in _STARTS.values()}
    places, numbers, subsets = plan(config.annotations, config.build.limit)
    if not subsets:
        raise ValueError(
            f"none of {[str(path) for path in config.annotations]} has a line of Localized Narratives; name .jsonl"
        )
    folders: dict[str, Path] = {}
    for name, path in subsets.items():
        flag = f"--{name.replace('_', '-')}"
        if given[name] is None:
            raise ValueError(f"{path} tells of images of {name}; give {flag} their folder, or leave the file out")
        folders[name] = need_folder(given[name], f"give {flag} the folder of its images")
    settings = {"annotations": config.annotations, "sentences": config.sentences, "limit": config.build.limit}
    settle(config.out, settings | folders)
    slices = slices_of(numbers, config.build, _SENTENCES)
    return build(
        Slices(folders, Entries(config.annotations, places), slices, sentences=config.sentences),
        len(slices),
        config.out,
        name="localized_narratives",
        shard_size=config.build.shard_size,
        workers=config.build.workers,
        check_images=config.build.check_images,
        copies=config.build.copies,
    )


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
