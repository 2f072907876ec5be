"""A page that browse.py wrote, read by the standard library's parser; and small shards to write one of."""

import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

VOID = {"meta", "br", "img", "input"}


@dataclass
class Element:
    """A tag, what is in it, and the text in all of that."""

    tag: str
    attributes: dict[str, str]
    parts: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """With runs of blanks as one."""
        return " ".join("".join(p if isinstance(p, str) else f"{p.text} " for p in self.parts).split())

    def all(self, tag: str, **attributes: str) -> list["Element"]:
        """Those below with this tag, whose attributes hold these words; `class` is written `of`."""
        found = []
        for part in self.parts:
            if isinstance(part, Element):
                told = {"class" if name == "of" else name: value for name, value in attributes.items()}
                if part.tag == tag and all(v in part.attributes.get(n, "").split(" ") for n, v in told.items()):
                    found.append(part)
                found += part.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> "Element":
        (found,) = self.all(tag, **attributes)
        return found

    def under(self, heading: str) -> "Element":
        """The innermost section whose heading begins with some words."""
        fit = [s for s in self.all("section") if any(h.text.startswith(heading) for h in _headings(s))]
        return fit[-1]


def _headings(section: Element) -> list[Element]:
    return [part for part in section.parts if isinstance(part, Element) and part.tag in ("h2", "h3")]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].parts.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].parts.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        opened = self.open.pop()
        assert opened.tag == tag, f"</{tag}> closes <{opened.tag}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def read_page(path: Path) -> Element:
    """The page, whose every tag is closed where it should be."""
    parser = _Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    (root,) = parser.open
    return root


def hidden(figure: Element, side: int) -> set[int]:
    """The patches that a sample's mask covers."""
    (mask,) = figure.all("svg", of="mask")
    path = mask.one("path").attributes["d"]
    squares = re.findall(r"M(\d+) (\d+)h1v1h-1z", path)
    assert "".join(f"M{x} {y}h1v1h-1z" for x, y in squares) == path
    return {int(y) * side + int(x) for x, y in squares}


def image_file(seed: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    """A picture of coloured blocks, enough of them to fit a codebook to."""
    rng, file = np.random.default_rng(seed), io.BytesIO()
    blocks = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    blocks.resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


def sample(key: str, seed: int, caption: str | bytes | None, **parts: Any) -> tuple[str, dict[str, bytes]]:
    """As `write_shards` takes it; an `image` of None leaves the image out."""
    image = parts.pop("image", image_file(seed))
    told = {} if image is None else {"jpg": image}
    if caption is not None:
        told["txt"] = caption.encode() if isinstance(caption, str) else caption
    return key, told | parts
