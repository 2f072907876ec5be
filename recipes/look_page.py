"""Pages that need nothing beside them: look_*.html filled in, everything escaped, pictures as data.

Captions, names and keys are whatever somebody put into a file: the templates escape every one of them (jinja2, which torch
brings along, under autoescape), and the pages' policy lets no script run and nothing be fetched.

Letters: H, W sides in pixels.
"""

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_QUALITY = 85


def write_page(file: Path, template: str, told: Mapping[str, Any]) -> None:
    """Fill in `look_TEMPLATE.html` and write it, with the folders that it lies in."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_written_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    page = environment.get_template(f"look_{template}.html").render(told)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Half of a surrogate pair, which a JSON file can hold, has no UTF-8.
    file.write_text(page, encoding="utf-8", errors="backslashreplace")


def page_beside(file: Path, name: str, several: bool) -> Path:
    """The file, or one of `several` beside it, each with its name: page.html, page-food101.html."""
    return file.with_name(f"{file.stem}-{name}{file.suffix}") if several else file


def picture_uri(image: Tensor, *, most: int = 0, least: int = 0, photo: bool = True) -> str:
    """An image as a data: address.

    Args:
        image: (3, H, W) uint8.
        most: its longer side is made at most this, 0 for as it is.
        least: its sides are multiplied until the longer one is at least this, with sharp pixels.
        photo: as JPEG; otherwise as PNG, exactly.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    if most:
        picture.thumbnail((most, most), Image.Resampling.LANCZOS)
    times = -(-least // max(picture.size))
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    written = io.BytesIO()
    if photo:
        picture.save(written, "JPEG", quality=_QUALITY)
    else:
        picture.save(written, "PNG", optimize=True)
    return f"data:image/{'jpeg' if photo else 'png'};base64,{base64.b64encode(written.getvalue()).decode()}"


def percent(share: float) -> str:
    """A share in per cent, to the tenth."""
    return f"{100 * share:.1f} %"


def _written_out(value: Any) -> Any:
    """A text whose control characters, those that turn the direction of writing included, are written out."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], value) if type(value) is str else value
