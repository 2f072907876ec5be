"""Visual Genome to shards: `python recipes/data/visual_genome.py --regions region_descriptions.json --images VG --out OUT`.

Layout, as homes.cs.washington.edu/~ranjay/visualgenome has it: `region_descriptions.json`, an array of images (id) with
`regions` (region_id, image_id, phrase, x, y, width, height), and folders VG_100K and VG_100K_2 with `ID.jpg`.

Each region's phrase is a sample with the whole image, which is how the paper comes to 5.4 million pairs. An image has 50 regions
and is stored once a shard: its other samples have hard links to it. With `--copies`, for other readers of such shards, 15 GB of
images become about 750 GB.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from building import Card, Options, Rejected, Row, build, caption_fault, settle, slices_of
from places import Entries, Place, elements_of, first_file, need_folder

_FOLDERS = ("VG_100K", "VG_100K_2", "")
_REGIONS = 50  # of an image, on average
_REMEDY = "unpack region_descriptions.json.zip, and give --regions its file"


@dataclass(frozen=True)
class Config:
    """Turn Visual Genome's region descriptions into shards."""

    regions: Path
    """region_descriptions.json."""
    images: Path
    """The folder that holds VG_100K and VG_100K_2, or the images themselves."""
    out: Path = Path("data/visual_genome")
    """Where the shards and card.json go."""
    build: Annotated[Options, tyro.conf.arg(name="")] = field(default_factory=Options)
    """How the shards are written."""


class Slices:
    """The rows of each slice.

    Args:
        images: the folder of the images.
        entries: the annotations of each image.
        slices: which of the entries are in each slice; those negative name an image that was there before, as -1 - entry.
    """

    def __init__(self, images: Path, entries: Entries, slices: Sequence[Sequence[int]]) -> None:
        self.images = images
        self.entries = entries
        self.slices = slices

    def __call__(self, part: int) -> Iterator[Row | Rejected]:
        """The rows of slice `part`, in the order of the file."""
        for entry in self.slices[part]:
            if entry < 0:
                yield Rejected(self.entries.key(-1 - entry), "duplicate")
            else:
                yield from self._rows(entry)

    def _rows(self, entry: int) -> Iterator[Row | Rejected]:
        try:
            found = json.loads(self.entries[entry])
        except UnicodeDecodeError:
            yield Rejected(self.entries.key(entry), "not UTF-8")
            return
        number = image_number(found)
        if number is None or not isinstance(found.get("regions"), list):
            yield Rejected(self.entries.key(entry), "bad row")
            return
        path = first_file([self.images / folder for folder in _FOLDERS], f"{number}.jpg")
        for region in found["regions"]:
            yield _row(number, path, region)


def _row(image: int, path: Path, region: Any) -> Row | Rejected:
    if not isinstance(region, dict) or type(region.get("region_id")) is not int:
        return Rejected(str(image), "bad row")
    key = f"{image}-{region['region_id']}"
    if fault := caption_fault(region.get("phrase")):
        return Rejected(key, fault)
    box = {side: region.get(side) for side in ("x", "y", "width", "height")}
    meta = {"image": f"visual_genome/{image}", "image_id": image, "region_id": region["region_id"], **box}
    return Row(key, path, region["phrase"], meta)


def image_number(entry: Any) -> int | None:
    """An image's number: its `id`, or `image_id` as in other versions; None without."""
    found = entry.get("id", entry.get("image_id")) if isinstance(entry, dict) else None
    return found if type(found) is int else None


def main(config: Config) -> Card:
    """Build the shards; the card.

    Raises:
        ValueError: if a folder or file is missing or of another format.
    """
    images = need_folder(config.images, "give --images the folder that holds VG_100K and VG_100K_2")
    places: list[Place] = []
    numbers: list[int] = []
    seen: set[int | None] = set()
    for offset, size, element in elements_of(config.regions, _REMEDY):
        number = image_number(element)
        numbers.append(-1 - len(places) if number in seen else len(places))
        places.append(Place(0, offset, size))
        seen |= {number} - {None}
        if len(places) == config.build.limit:
            break
    settle(config.out, {"regions": config.regions, "images": images, "limit": config.build.limit})
    slices = slices_of(numbers, config.build, _REGIONS)
    return build(
        Slices(images, Entries([config.regions], places), slices),
        len(slices),
        config.out,
        name="visual_genome",
        shard_size=config.build.shard_size,
        workers=config.build.workers,
        check_images=config.build.check_images,
        copies=config.build.copies,
    )


if __name__ == "__main__":
    print(main(tyro.cli(Config)))
