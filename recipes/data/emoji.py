"""Emoji as captioned images (`python recipes/data/emoji.py --out data/emoji`): shards of three vendors' drawings.

Sources, fetched by `npm pack` and `apt-get download`, none of them kept in this repository: emoji-datasource-google and
emoji-datasource-twitter (PNG, 64 px), @lobehub/fluent-emoji-3d (Microsoft's, webp, 256 px), emojibase-data (names and
keywords), Debian's wordnet-base (glosses). A run that was stopped goes on where it was; a whole folder is left as it is.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import tyro
from PIL import Image

from torchflava.data.tars import read_members, write_shards, write_whole


@dataclass(frozen=True)
class Config:
    """Build the emoji data set."""

    out: Path = Path("data/emoji")
    """Where the shards, texts.txt and card.json go."""
    skin_tones: bool = False
    """Also the emoji with skin tones (about as many again)."""
    texts: Path | None = None
    """A text file to take in place of WordNet's glosses, one text a line; for systems without apt-get."""
    shard_size: int = 1000
    """Samples in a shard."""
    packages: Path | None = None
    """Where the packages are, or are fetched to; OUT/packages by default."""


class Package(NamedTuple):
    """An npm package, pinned by its version and its tarball's sha256."""

    name: str
    version: str
    sha256: str


class Vendor(NamedTuple):
    """Who drew the emoji, and which of the package's files are the images; the pattern's group is the code points."""

    name: str
    package: Package
    members: str
    ending: str


_CODES = r"([0-9a-f]{1,6}(?:[-_][0-9a-f]{1,6})*)"
_GOOGLE, _TWITTER, _MICROSOFT, EMOJIBASE = (
    Package(*words.split())
    for words in (
        "emoji-datasource-google 16.0.0 fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "emoji-datasource-twitter 16.0.0 f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "@lobehub/fluent-emoji-3d 1.1.0 c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "emojibase-data 17.0.0 d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    )
)
VENDORS = (
    Vendor("google", _GOOGLE, rf"package/img/google/64/{_CODES}\.png", "png"),
    Vendor("twitter", _TWITTER, rf"package/img/twitter/64/{_CODES}\.png", "png"),
    Vendor("microsoft", _MICROSOFT, rf"package/assets/{_CODES}\.webp", "webp"),
)
TRAINED_STYLES = ("google", "twitter")
"""Their images make the set without captions: the third style stays unseen."""
WORDNET = "wordnet-base"
SEPARATOR = "; "
"""Between the name and the keywords of a caption; names have commas in them."""
_VARIATION, _TAG_END = "fe0f", "e007f"


class Emoji(NamedTuple):
    """What emojibase says about an emoji."""

    codepoints: str
    """Hexadecimal, joined by hyphens, as emojibase writes them."""
    name: str
    keywords: list[str]
    group: str
    subgroup: str
    tones: list[int]
    """Its skin tones, 1 light to 5 dark; empty without."""


def codepoint_key(codes: str) -> str:
    """One form of a code point sequence for all vendors: no leading zeros, variation selectors or missing end of tags."""
    parts = [part.lstrip("0") for part in re.split("[-_]", codes.lower()) if part != _VARIATION]
    if parts[-1] != _TAG_END and len(parts[-1]) == 5 and parts[-1].startswith("e00"):
        parts.append(_TAG_END)
    return "-".join(parts)


def fetch(package: Package, folder: Path) -> Path:
    """The package's tarball in `folder`, fetched unless it is there.

    Raises:
        ValueError: if npm is missing or fails, or if the tarball is not the pinned one.
    """
    name = f"{package.name.lstrip('@').replace('/', '-')}-{package.version}.tgz"
    path = _fetched(["npm", "pack", f"{package.name}@{package.version}"], name, folder)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(f"{path} has sha256 {found}, not {package.sha256}; delete it to fetch it again")
    return path


def _fetched(command: list[str], pattern: str, folder: Path) -> Path:
    """The file in `folder` that matches `pattern`; if there is none, what `command` leaves in its working directory."""
    if not list(folder.glob(pattern)):
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            _call(command, aside)
            for path in Path(aside).glob(pattern):
                os.replace(path, folder / path.name)
    if not (found := sorted(folder.glob(pattern))):
        raise ValueError(f"`{' '.join(command)}` left no {pattern}")
    return found[-1]


def _call(command: list[str], folder: str) -> None:
    if shutil.which(command[0]) is None:
        raise ValueError(f"{command[0]} is not on the PATH; install it, or see --texts and --packages")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")


def read_names(path: Path) -> dict[str, Emoji]:
    """Emojibase's English names and keywords, by `codepoint_key`."""
    found = {name: json.loads(data) for name, data in read_members(path, r"package/en/(data|messages)\.json")}
    groups = {group["order"]: group["key"] for group in found["messages"]["groups"]}
    subgroups = {group["order"]: group["key"] for group in found["messages"]["subgroups"]}
    names = {}
    for emoji in found["data"]:
        if "group" not in emoji:  # the letters that flags are spelled with
            continue
        place = groups[emoji["group"]], subgroups[emoji["subgroup"]]
        for form in [emoji, *emoji.get("skins", [])]:
            tone = form.get("tone", [])
            tones, keywords = tone if isinstance(tone, list) else [tone], emoji.get("tags", [])
            names[codepoint_key(form["hexcode"])] = Emoji(form["hexcode"], form["label"], keywords, *place, tones)
    return names


def read_glosses(packages: Path) -> Iterator[str]:
    """The glosses in Debian's package of WordNet, which is fetched unless it is in `packages`."""
    deb = _fetched(["apt-get", "download", WORDNET], f"{WORDNET}_*.deb", packages).resolve()
    with tempfile.TemporaryDirectory() as unpacked:
        _call(["dpkg-deb", "-x", str(deb), "."], unpacked)
        for part in ("noun", "verb", "adj", "adv"):
            yield from glosses((Path(unpacked) / "usr/share/wordnet" / f"data.{part}").read_text(encoding="utf-8"))


def glosses(data: str) -> Iterator[str]:
    """The senses in one of WordNet's data files (wndb(5WN)): the fourth field counts the words, in hexadecimal."""
    for line in data.splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split(" ")
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        lemmas = ", ".join(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words)
        yield f"{lemmas}: {gloss.strip()}"


class Sample(NamedTuple):
    """A captioned image."""

    vendor: str
    emoji: Emoji
    image: bytes
    ending: str

    @property
    def caption(self) -> str:
        """The name, then the keywords."""
        return SEPARATOR.join([self.emoji.name, *self.emoji.keywords])


def choose(
    images: Iterable[tuple[str, bytes]], vendor: Vendor, names: dict[str, Emoji], skin_tones: bool
) -> tuple[list[Sample], Counter[str]]:
    """The samples to keep, in the order of their code points, and how many were rejected for which reason."""
    kept: dict[str, Sample] = {}
    rejected: Counter[str] = Counter()
    for codes, image in images:
        key = codepoint_key(codes)
        emoji = names.get(key)
        if emoji is None:
            rejected["no name"] += 1
        elif key in kept:
            rejected["seen before"] += 1
        elif emoji.tones and not skin_tones:
            rejected["skin tone"] += 1
        elif fault := image_fault(image):
            rejected[fault] += 1
        else:
            kept[key] = Sample(vendor.name, emoji, image, vendor.ending)
    return [kept[key] for key in sorted(kept)], rejected


def image_fault(data: bytes) -> str | None:
    """Why an image cannot be used; None if it can."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            alpha = image.convert("RGBA").getchannel("A").getextrema()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "damaged image"
    return "blank image" if alpha == (0, 0) else None


def members_of(sample: Sample, *, captioned: bool = True) -> tuple[str, dict[str, bytes]]:
    """A sample as a shard holds it."""
    meta = sample.emoji._asdict() | {"vendor": sample.vendor}
    parts = {sample.ending: sample.image, "json": json.dumps(meta).encode()}
    if captioned:
        parts["txt"] = sample.caption.encode()
    return f"{sample.vendor}-{sample.emoji.codepoints.lower()}", parts


def write_texts(file: IO[bytes], texts: Iterable[str]) -> None:
    """One text a line, empty ones left out."""
    for text in texts:
        if line := " ".join(text.split()):
            file.write(f"{line}\n".encode())


def settle(config: Config) -> None:
    """Note what the folder is built with, so that one stopped is not gone on with under other settings.

    Raises:
        ValueError: if it was built with others.
    """
    pins = [f"{package.name}@{package.version}" for package in (EMOJIBASE, *(vendor.package for vendor in VENDORS))]
    texts = str(config.texts.resolve()) if config.texts else WORDNET
    settings = {"packages": pins, "skin_tones": config.skin_tones, "shard_size": config.shard_size, "texts": texts}
    write_whole(config.out / "settings.json", lambda file: write_texts(file, [json.dumps(settings)]))
    if (there := json.loads((config.out / "settings.json").read_bytes())) != settings:
        raise ValueError(f"{config.out} was built with {there}, not with {settings}; choose another --out")


def card_row(source: str, texts: Iterable[str], rejected: Counter[str]) -> dict[str, Any]:
    """What the card says of a source."""
    counts = [len(text.split()) for text in texts]
    average = sum(counts) / max(1, len(counts))
    return {"source": source, "samples": len(counts), "average_words": round(average, 1), "rejected": dict(rejected)}


def main(config: Config) -> list[dict[str, Any]]:
    """Build the data set; its card, a row for each source."""
    packages = config.packages or config.out / "packages"
    config.out.mkdir(parents=True, exist_ok=True)
    packages.mkdir(parents=True, exist_ok=True)
    settle(config)
    names = read_names(fetch(EMOJIBASE, packages))
    card, uncaptioned = [], []
    for vendor in VENDORS:
        images = read_members(fetch(vendor.package, packages), vendor.members)
        samples, rejected = choose(images, vendor, names, config.skin_tones)
        write_shards([members_of(sample) for sample in samples], config.out / vendor.name, config.shard_size)
        uncaptioned += samples if vendor.name in TRAINED_STYLES else []
        card.append(card_row(vendor.name, [sample.caption for sample in samples], rejected))
    without = [members_of(sample, captioned=False) for sample in uncaptioned]
    write_shards(without, config.out / "images", config.shard_size)
    card.append(card_row("images", [""] * len(without), Counter()))
    texts = config.out / "texts.txt"
    write_whole(texts, lambda file: write_texts(file, _texts(config.texts, packages)))
    card.append(card_row("texts", texts.read_text(encoding="utf-8").splitlines(), Counter()))
    write_whole(config.out / "card.json", lambda file: write_texts(file, [json.dumps(card)]))
    return card


def _texts(path: Path | None, packages: Path) -> Iterable[str]:
    return read_glosses(packages) if path is None else path.read_text(encoding="utf-8").splitlines()


def show(card: list[dict[str, Any]]) -> str:
    """The card as a table."""
    lines = [f"{'source':<12}{'samples':>9}{'average words':>15}  rejected"]
    for row in card:
        rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(row["rejected"].items())) or "none"
        lines.append(f"{row['source']:<12}{row['samples']:>9,}{row['average_words']:>15.1f}  {rejected}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(show(main(tyro.cli(Config))))
