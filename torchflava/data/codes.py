"""The files that keep the codes of a shard set's images: a dVAE costs more than the image encoder (paper §3.2).

`FOLDER/codes-NAME/crops-C/`, beside the shards, has a file for each of them, with the codes of its images in the order of the
index. `FOLDER/codes-NAME/codes.json`, written last, says of which codebook, crops and shards they are, and holds a hash of each
file's codes. Letters: R images of a shard, C crops of each, N patches.
"""

import hashlib
import json
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from torchflava.data.columns import Column, write_columns
from torchflava.data.index import Index
from torchflava.data.order import key, keyed_rng

REMEDY = "run recipes/data/codes.py on these shards again"
UNREADABLE = 0xFFFF
"""Stands in the files where an image could not be decoded; codes lie below."""

HEAD = 1 << 16
"""Bytes at the start of a file that say what is in it."""

_FORMAT = "torchflava codes 2"


class CodesOf(NamedTuple):
    """What fixes the codes of an image: the codebook, and how the crops are cut that it is shown."""

    codebook: str
    """Its fingerprint, as torchflava.codebooks tells it."""
    num_codes: int
    grid: tuple[int, int]
    views: dict[str, Any]
    """As `TrainViews.told` has it."""

    @property
    def folder(self) -> str:
        """The name of the folder beside the shards: other codebooks and crops have other folders."""
        return f"codes-{key(self.as_json()):016x}"

    @property
    def num_patches(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    def as_json(self) -> str:
        """The same for the same."""
        return json.dumps(self._asdict(), sort_keys=True)


class ShardMark(NamedTuple):
    """Tells a shard from others, and from what it was."""

    table: str
    """Of its length and its index: other samples, or the same at other places, have another."""
    modified: int
    """When, in nanoseconds, as its index has it; counts on the local disk alone."""
    contents: str
    """A hash of its images: two of the same length have the same index, as bitmaps often do."""


class Kept(NamedTuple):
    """A file of codes."""

    images: int
    """R."""
    unreadable: int
    """Of them, those that could not be decoded."""
    num_bytes: int
    first: int
    """The byte at which the codes begin."""
    codes: str
    """A hash of them."""
    shard: ShardMark


class KeptList(NamedTuple):
    """What `codes.json` says of a folder of codes."""

    crops: int
    """C."""
    shards: dict[str, Kept]
    """By the shard's name."""

    def as_json(self, of: CodesOf) -> bytes:
        """The file, for `read_list`."""
        told = {"format": _FORMAT, "of": of.as_json(), "crops": self.crops, "shards": self.shards}
        return json.dumps(told).encode()


def crop_rng(name: str, crop: int) -> Generator:
    """The generator that cuts crop number `crop` of the image with this name, the same in every run."""
    return keyed_rng("crop", name, crop)


def shard_mark(index: Index, contents: str = "") -> ShardMark:
    """Tells one shard from others by its index, and by the hash of its images where that is known."""
    told = [index.columns[name].tobytes() for name in ("num_bytes", "groups", "members", "key_ends", "keys")]
    return ShardMark(hashed(b"".join(told)), int(index.columns["modified"][0]), contents)


def hashed(data: bytes | memoryview) -> str:
    """Eight bytes of BLAKE2b, in hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def codes_path(shard: str, of: CodesOf, crops: int) -> str:
    """Where the codes of so many crops of a shard's images lie."""
    folder, _, name = shard.rpartition("/")
    return f"{folder or '.'}/{of.folder}/crops-{crops}/{name}.safetensors"


def list_path(folder: str, of: CodesOf) -> str:
    """Where a folder's `codes.json` lies."""
    return f"{folder or '.'}/{of.folder}/codes.json"


def refuse_too_many(of: CodesOf) -> None:
    """Make sure that a codebook's codes can be kept.

    Raises:
        ValueError: if it has too many.
    """
    if of.num_codes > UNREADABLE:
        raise ValueError(f"a codebook of {of.num_codes} codes cannot be kept; at most {UNREADABLE} fit into 16 bits")


def write_codes(file: IO[bytes], codes: NDArray[np.int64], of: CodesOf, *, mark: ShardMark) -> None:
    """Write the codes of one shard, (R, C, N); -1 all over for an image that cannot be decoded.

    Raises:
        ValueError: for codes of another shape, or outside the codebook's.
    """
    refuse_too_many(of)
    if codes.ndim != 3 or codes.shape[2] != of.num_patches:
        raise ValueError(f"codes have shape (R, C, {of.num_patches}), got {codes.shape}")
    if codes.size and not -1 <= int(codes.min()) <= int(codes.max()) < of.num_codes:
        raise ValueError(f"codes go from 0 to {of.num_codes - 1}, got {int(codes.min())} to {int(codes.max())}")
    kept = np.where(codes < 0, UNREADABLE, codes).astype("<u2")
    told = {"of": of.as_json(), "shard": json.dumps(mark), "codes": hashed(kept.tobytes())}
    told["unreadable"] = str(int((codes < 0).all((1, 2)).sum()))
    write_columns(file, {"codes": Column("U16", kept.shape, [kept])}, told)


def kept_in(head: bytes, num_bytes: int, of: CodesOf, *, crops: int) -> Kept | None:
    """What `codes.json` is to say of a file, by its first `HEAD` bytes; None if it is cut short or of other codes."""
    try:
        first = 8 + int.from_bytes(head[:8], "little")
        header = json.loads(head[8:first])
        metadata, codes = header["__metadata__"], header["codes"]
        images, *shape = (int(length) for length in codes["shape"])
        whole = codes["dtype"] == "U16" and first + 2 * images * crops * of.num_patches == num_bytes
        if not whole or shape != [crops, of.num_patches] or metadata["of"] != of.as_json():
            return None
        mark = _mark(json.loads(metadata["shard"]))
        return Kept(images, int(metadata["unreadable"]), num_bytes, first, str(metadata["codes"]), mark)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def read_list(text: bytes, path: str, of: CodesOf) -> KeptList:
    """What `codes.json` holds.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        told = json.loads(text)
        if told["format"] != _FORMAT or told["of"] != of.as_json():
            raise ValueError("it is of other codes")
        shards = {}
        for name, (images, unreadable, num_bytes, first, codes, mark) in told["shards"].items():
            shards[name] = Kept(int(images), int(unreadable), int(num_bytes), int(first), str(codes), _mark(mark))
        if (crops := int(told["crops"])) < 1:
            raise ValueError(f"it is of {crops} crops")
        return KeptList(crops, shards)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete its folder, and {REMEDY}") from error


def _mark(told: Any) -> ShardMark:
    table, modified, contents = told
    return ShardMark(str(table), int(modified), str(contents))
