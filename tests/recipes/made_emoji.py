"""A small set of emoji as recipes/data/emoji.py writes it: three vendors, each with its own shade of the same colours."""

import colorsys
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from torchflava.data.tars import write_shards

HUES = ("red", "orange", "yellow", "lime", "green", "teal", "blue", "navy", "purple", "pink")
SHAPES = ("disc", "box", "bar", "ring", "cross", "dot")
_BRIGHT = {"google": 1.0, "twitter": 0.85, "microsoft": 0.7}
PERSONS = {"woman": "1F469", "man": "1F468", "person": "1F9D1"}


def metas() -> list[dict[str, Any]]:
    """A shape in each colour; three kin, of one with skin tones too."""
    found = []
    for a, hue in enumerate(HUES):
        for b, shape in enumerate(SHAPES):
            codes = f"1F{0x300 + 16 * a + b:03X}"
            words = [hue, shape, *(["warm"] if a < 4 else []), *([f"only {hue} {shape}"] if b < 3 else [])]
            found.append(_meta(codes, f"{hue} {shape}", words, f"{hue}-shapes", f"shape-{shape}"))
    for person, code in PERSONS.items():
        found.append(_meta(f"{code}-200D-1F527", f"{person} mechanic", ["tool", person], "red-shapes", "shape-disc"))
    found.append(
        _meta(
            "1F469-1F3FB-200D-1F527", "woman mechanic: light skin tone", ["tool"], "red-shapes", "shape-disc", tones=[1]
        )
    )
    return found


def _meta(
    codes: str, name: str, keywords: list[str], group: str, subgroup: str, *, tones: list[int] | None = None
) -> dict[str, Any]:
    told = {"codepoints": codes, "name": name, "keywords": keywords, "group": group, "subgroup": subgroup}
    return told | {"tones": tones or []}


def make_emoji(folder: Path) -> Path:
    """Shards of all vendors; google drew one that the others did not."""
    folder.mkdir(parents=True, exist_ok=True)
    for vendor in _BRIGHT:
        extra = [_meta("1FFFF", "lone star", ["star"], "lone", "lone")] if vendor == "google" else []
        ending = "webp" if vendor == "microsoft" else "png"
        samples = []
        for number, meta in enumerate([*metas(), *extra]):
            caption = "; ".join([meta["name"], *meta["keywords"]])
            members = {ending: _drawn(number, vendor, ending), "json": json.dumps(meta | {"vendor": vendor}).encode()}
            samples.append((f"{vendor}-{meta['codepoints'].lower()}", members | {"txt": caption.encode()}))
        write_shards(samples, folder / vendor, 50)
    return folder


def drawings() -> list[tuple[int, bytes]]:
    """Each vendor's file of each emoji without tones, with its number among them."""
    untoned = [number for number, meta in enumerate(metas()) if not meta["tones"]]
    return [
        (at, _drawn(number, vendor, "webp" if vendor == "microsoft" else "png"))
        for vendor in _BRIGHT
        for at, number in enumerate(untoned)
    ]


def _drawn(number: int, vendor: str, ending: str) -> bytes:
    hue, shape = divmod(number, len(SHAPES))
    colour = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(hue / (len(HUES) + 2), 1, _BRIGHT[vendor]))
    image = Image.new("RGBA", (24, 24))
    draw, box = ImageDraw.Draw(image), (3, 3, 21, 21)
    if shape in (0, 3, 5):
        inner = (8, 8, 16, 16) if shape == 5 else box
        draw.ellipse(inner, fill=None if shape == 3 else colour, outline=colour, width=3)
    else:
        draw.rectangle(box if shape == 1 else (3, 9, 21, 15), fill=colour)
        if shape == 4:
            draw.rectangle((9, 3, 15, 21), fill=colour)
    file = io.BytesIO()
    image.save(file, ending.upper())
    return file.getvalue()
