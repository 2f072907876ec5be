"""The members of a tar by its headers alone: ustar and pax (POSIX.1-2001), and GNU tar's long names and great numbers.

Everything is checked against the file's length, so that a tar cut at any byte is refused.
"""

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

BLOCK = 512
"""Bytes; headers and contents begin at its multiples."""

Kind: TypeAlias = Literal["file", "folder", "hard link", "link or device", "sparse file"]

_ZEROS = bytes(BLOCK)
_MOST_WORDS = 1 << 20  # bytes that a long name or the pax words of one member may have
_FILES, _FOLDER, _SPARSE = (b"0", b"\0", b"7"), b"5", b"S"
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # whatever their size says
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class DamagedTarError(ValueError):
    """A tar that is cut short, broken, compressed or none at all."""


class Member(NamedTuple):
    """One member of a tar."""

    name: str
    """As written, with surrogates where it is not UTF-8."""
    kind: Kind
    offset: int
    """Where its content begins, in bytes."""
    size: int
    """Of its content, in bytes."""
    check: int
    """CRC-32 of the header block that stands before the content."""
    target: str = ""
    """Of a hard link: the name of the member whose content it shares."""


def read_headers(file: BinaryIO, num_bytes: int) -> Iterator[Member]:
    """The members of the tar in `file`, which has `num_bytes` bytes.

    Raises:
        DamagedTarError: if it is damaged or compressed.
    """
    at = 0
    words: dict[str, str] = {}
    while (header := _block(file, at, num_bytes)) != _ZEROS:
        kind, size, content = header[156:157], _checked_size(header, at), at + BLOCK
        if kind in (b"x", b"X", b"g", b"L", b"K"):
            at = _end(content, size, num_bytes, "long name or pax header")
            words |= _words(kind, _content(file, content, size), content)
            continue
        if "size" in words:
            size = _decimal(words["size"], at)
        if kind == _SPARSE:
            content = _after_sparse_map(file, header, content, num_bytes)
        name = words.get("path", _name(header))
        told = _kind(kind, name, words)
        if kind in _WITHOUT_CONTENT or told == "folder":
            size = 0
        at = _end(content, size, num_bytes, repr(name))
        target = words.get("linkpath", _until_nul(header[157:257])) if told == "hard link" else ""
        yield Member(name, told, content, size, zlib.crc32(header), target)
        words = {}
    if words:
        raise DamagedTarError(f"a long name without its member at byte {at}")
    _nothing_follows(file, at)


def _block(file: BinaryIO, at: int, num_bytes: int) -> bytes:
    file.seek(at)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise DamagedTarError(f"no header and no end-of-archive mark at byte {at}: it is cut short at byte {num_bytes}")
    return block


def _checked_size(header: bytes, at: int) -> int:
    """The size that a header tells, once its checksum is seen to be right."""
    rest, told = header[:148] + b" " * 8 + header[156:], _octal(header[148:156])
    if told != sum(rest) and told != sum(byte - 256 * (byte > 127) for byte in rest):  # old tars summed signed bytes
        packed = [name for start, name in _COMPRESSED.items() if at == 0 and header.startswith(start)]
        what = f"it is compressed with {packed[0]}" if packed else f"no header and no end-of-archive mark at byte {at}"
        raise DamagedTarError(what)
    field = header[124:136]
    size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
    if size is None:
        raise DamagedTarError(f"no size in the header at byte {at}")
    return size


def _octal(field: bytes) -> int | None:
    digits = field.split(b"\0", 1)[0].strip()
    return int(digits or b"0", 8) if all(digit in b"01234567" for digit in digits) else None


def _decimal(digits: str, at: int) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise DamagedTarError(f"a size of {digits[:20]!r} before byte {at}")
    return int(digits)


def _end(content: int, size: int, num_bytes: int, what: str) -> int:
    """Where the next header is due."""
    if content + size > num_bytes:
        raise DamagedTarError(f"it is cut short at byte {num_bytes}, {what} reaches to byte {content + size}")
    return content + size + -size % BLOCK


def _content(file: BinaryIO, at: int, size: int) -> bytes:
    if size > _MOST_WORDS:
        raise DamagedTarError(f"a name or pax header of {size} bytes at byte {at}")
    file.seek(at)
    return file.read(size)


def _words(kind: bytes, content: bytes, at: int) -> dict[str, str]:
    """What a header says about the member after it: `path`, `linkpath`, `size`, and whatever marks a sparse file."""
    if kind in (b"L", b"K"):
        return {"path" if kind == b"L" else "linkpath": _until_nul(content)}
    words: dict[str, str] = {}
    rest = content
    while rest.strip(b"\0"):
        length, _, _ = rest.partition(b" ")
        end = int(length) if length.isdigit() and len(length) < 8 else 0
        record, rest = rest[len(length) + 1 : end], rest[end:]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or end > len(content):
            raise DamagedTarError(f"a pax header that cannot be read at byte {at}")
        words[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
    kept = {
        key: value
        for key, value in words.items()
        if key in ("path", "linkpath", "size") or key.startswith("GNU.sparse")
    }
    if kind == b"g" and kept:
        raise DamagedTarError(f"a global header that renames or resizes every member at byte {at}")
    return kept


def _after_sparse_map(file: BinaryIO, header: bytes, content: int, num_bytes: int) -> int:
    """Where the content of a GNU sparse file begins: its map may go on in further blocks."""
    more = header[482]
    while more:
        more = _block(file, content, num_bytes)[504]
        content += BLOCK
    return content


def _name(header: bytes) -> str:
    name = _until_nul(header[:100])
    if header[257:263] == b"ustar\0":  # GNU's header keeps times where this prefix stands
        prefix = _until_nul(header[345:500])
        name = f"{prefix}/{name}" if prefix else name
    return name


def _until_nul(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode(errors="surrogateescape")


def _kind(kind: bytes, name: str, words: dict[str, str]) -> Kind:
    if kind == _FOLDER or (kind == b"\0" and name.endswith("/")):
        return "folder"
    if kind == _SPARSE or any(key.startswith("GNU.sparse") for key in words):
        return "sparse file"
    return "file" if kind in _FILES else "hard link" if kind == b"1" else "link or device"


def _nothing_follows(file: BinaryIO, at: int) -> None:
    """Only zeros may follow the end mark; tars joined by `cat` would otherwise lose all but the first in silence."""
    file.seek(at)
    while piece := file.read(1 << 20):
        if piece.strip(b"\0"):
            raise DamagedTarError(
                f"something stands after the end-of-archive mark at byte {at}, as where tars were joined"
            )
