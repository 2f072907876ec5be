"""What makes a candidate sample unfit for a shard: captions, and image files, whose kind their first bytes tell."""

from pathlib import Path

from torchflava.transforms.image import CorruptSample, decode_image

MAX_CHARACTERS = 8192
"""A longer caption is rejected: it is a page that went astray."""
MAX_BYTES = 1 << 27
"""A larger image file is rejected before it is read."""


def caption_fault(caption: object) -> str | None:
    """Why a caption cannot be used; None if it can."""
    if not isinstance(caption, str):
        return "bad row"
    if not caption.strip():
        return "empty caption"
    if len(caption) > MAX_CHARACTERS:
        return "caption too long"
    try:
        caption.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates, which JSON's escapes can write
        return "not UTF-8"
    return None


def read_image(image: Path | bytes, *, check: bool) -> tuple[str, bytes] | str:
    """An image's ending, told by its first bytes, and its bytes; or why it cannot be used."""
    if isinstance(image, Path):
        try:
            if image.stat().st_size > MAX_BYTES:
                return "image too large"
            image = image.read_bytes()
        except (OSError, ValueError):  # ValueError: a name with a zero byte
            return "no image file"
    ending = image_ending(image)
    if ending is None:
        return "not an image"
    if check:
        try:
            decode_image(image)
        except CorruptSample:
            return "broken image"
    return ending, image


def image_ending(data: bytes) -> str | None:
    """`jpg`, `png` and so on, by a file's first bytes; None if they begin no image."""
    starts = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))
    for start, ending in (*starts, (b"II*\0", "tiff"), (b"MM\0*", "tiff")):
        if data.startswith(start):
            return ending
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "avif" if data[4:12] in (b"ftypavif", b"ftypavis") else None
