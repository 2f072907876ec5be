"""The files that keep the codes of a shard set's images: a dVAE costs more than the image encoder (paper §3.2).

`FOLDER/codes-NAME/`, beside the shards, has a file for each of them, with the codes of its images in the order of the index, and
`codes.json`, written last, which says of which codebook, crops and shards they are. Letters: R images of a shard, C crops of
each, N patches.
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

_FORMAT = "torchflava codes 1"


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


class Kept(NamedTuple):
    """A file of codes."""

    images: int
    """R."""
    unreadable: int
    """Of them, those that could not be decoded."""
    num_bytes: int
    first: int
    """The byte at which the codes begin."""
    mark: str
    """Tells the index of its shard from others."""


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


def shard_mark(index: Index) -> str:
    """Tells the index of one shard from that of any other: of other samples, or the same at other places."""
    told = [index.columns[name].tobytes() for name in ("groups", "members", "key_ends", "keys")]
    return hashlib.blake2b(b"".join(told), digest_size=8).hexdigest()


def codes_path(shard: str, of: CodesOf) -> str:
    """Where the codes of a shard lie."""
    folder, _, name = shard.rpartition("/")
    return f"{folder or '.'}/{of.folder}/{name}.safetensors"


def list_path(folder: str, of: CodesOf) -> str:
    """Where a folder's `codes.json` lies."""
    return f"{folder or '.'}/{of.folder}/codes.json"


def write_codes(file: IO[bytes], codes: NDArray[np.int64], of: CodesOf, *, mark: str) -> None:
    """Write the codes of one shard, (R, C, N); -1 all over for an image that cannot be decoded.

    Raises:
        ValueError: for codes of another shape, or outside the codebook's.
    """
    if of.num_codes > UNREADABLE:
        raise ValueError(f"a codebook of {of.num_codes} codes cannot be kept; at most {UNREADABLE} fit into 16 bits")
    if codes.ndim != 3 or codes.shape[2] != of.num_patches:
        raise ValueError(f"codes have shape (R, C, {of.num_patches}), got {codes.shape}")
    if codes.size and not -1 <= int(codes.min()) <= int(codes.max()) < of.num_codes:
        raise ValueError(f"codes go from 0 to {of.num_codes - 1}, got {int(codes.min())} to {int(codes.max())}")
    kept = np.where(codes < 0, UNREADABLE, codes).astype("<u2")
    told = {"of": of.as_json(), "shard": mark, "unreadable": str(int((codes < 0).all((1, 2)).sum()))}
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
        return Kept(images, int(metadata["unreadable"]), num_bytes, first, str(metadata["shard"]))
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
        for name, (images, unreadable, num_bytes, first, mark) in told["shards"].items():
            shards[name] = Kept(int(images), int(unreadable), int(num_bytes), int(first), str(mark))
        return KeptList(int(told["crops"]), shards)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete its folder, and {REMEDY}") from error
