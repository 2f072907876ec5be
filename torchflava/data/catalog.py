"""The samples of a list of shards by number: which shard, and where in it, from the indexes that stand beside the shards.

Shards without an index, or changed since it was made, are scanned instead. Letters: S shards.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchflava.data.index import INDEX_NAME, REMEDY, Index, join, map_index, open_index, scan, scan_file
from torchflava.data.sorting import Endings
from torchflava.data.storage import Storage

log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """A shard in an index."""

    table: Index
    shard: int


class Place(NamedTuple):
    """A sample's."""

    shard: int
    """Into the paths."""
    listed: Listed
    """The same shard in its index."""
    row: int
    """Of the sample, in that index."""


class Catalog:
    """The samples of some of the three groups (image alone, both, caption alone), shard by shard.

    Args:
        shards: where each of the paths is indexed.
        groups: from which to which.
    """

    def __init__(self, shards: Sequence[Listed], groups: slice) -> None:
        self._indexes = list({id(index): index for index, _ in shards}.values())
        number = {id(index): i for i, index in enumerate(self._indexes)}
        self._of = np.array([number[id(index)] for index, _ in shards], np.int64)
        self._shard = np.array([shard for _, shard in shards], np.int64)
        counts = np.zeros((len(shards), 3), np.int64)
        neither = np.zeros(len(shards), np.int64)
        for i, table in enumerate(self._indexes):
            here, of = self._of == i, self._shard[self._of == i]
            counts[here] = table.columns["groups"][of]
            so_far = np.concatenate([[0], np.cumsum(table.columns["reasons"] == 0)])
            neither[here] = so_far[table.starts.passed[of + 1]] - so_far[table.starts.passed[of]]
        self._skip: NDArray[np.int64] = counts[:, : groups.start].sum(1)
        taken = counts[:, groups].sum(1)
        self.starts: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), np.cumsum(taken)])
        """(S + 1,): the first sample of each shard, and their number."""
        self.num_incomplete = int(counts.sum() - taken.sum() + neither.sum())
        """Samples that lack something."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __call__(self, number: int) -> Place:
        """Where sample `number` lies."""
        at = int(self.starts.searchsorted(number, "right")) - 1  # np.searchsorted costs three times as much
        index, shard = self._indexes[self._of[at]], int(self._shard[at])
        first = index.starts.rows[shard] + self._skip[at]
        return Place(at, Listed(index, shard), int(first + number - self.starts[at]))

    def row_of(self, number: int) -> tuple[int, int]:
        """The shard of sample `number`, and its place among the samples of that shard that the index lists."""
        at = int(self.starts.searchsorted(number, "right")) - 1
        return at, int(self._skip[at] + number - self.starts[at])

    def part(self, shard: int) -> Index:
        """The index of one of the shards."""
        return self._indexes[self._of[shard]].part(int(self._shard[shard]))

    def modified(self, shard: int) -> int:
        """When one of the shards was last written, in nanoseconds, as its index has it."""
        return int(self._indexes[self._of[shard]].columns["modified"][self._shard[shard]])

    def num_bytes(self, shard: int) -> int:
        """How long the file of a shard is."""
        return int(self._indexes[self._of[shard]].columns["num_bytes"][self._shard[shard]])

    def num_images(self, shard: int) -> int:
        """The samples of a shard that have an image, with a caption or without: the first that the index lists."""
        table = self._indexes[self._of[shard]]
        return int(table.columns["groups"][self._shard[shard]][:2].sum())


def look_up(paths: Sequence[str], endings: Endings, storage: Storage, *, remote: bool) -> list[Listed]:
    """Where each shard is indexed: in the index of its folder, or in one that is made here.

    Raises:
        ValueError: if a shard is missing or damaged, or an index is damaged.
    """
    folders = {path.rpartition("/")[0] if "/" in path else "." for path in paths}
    beside: dict[str, Listed] = {}
    for folder in sorted(folders):
        index = _index_of(f"{folder}/{INDEX_NAME}", storage, remote)
        if index is not None and index.endings == endings:
            beside |= {f"{folder}/{name}": Listed(index, shard) for shard, name in enumerate(index.names)}
    found = [beside.get(path if "/" in path else f"./{path}") for path in paths]
    unfit = [i for i, listed in enumerate(found) if listed is not None and not (remote or _fits(listed, paths[i]))]
    if unfit:
        told = f"{len(unfit)} of {len(paths)} shards, such as {paths[unfit[0]]}"
        log.warning("%s, have changed since they were indexed and are scanned; %s", told, REMEDY)
    to_scan = sorted({*unfit, *(i for i, listed in enumerate(found) if listed is None)})
    if to_scan and remote:
        told = f"{len(to_scan)} of {len(paths)} shards, such as {paths[to_scan[0]]}"
        log.warning("%s, have no index beside them and are fetched whole to be scanned; %s", told, REMEDY)
    if to_scan:
        made = join([_scanned(paths[i], endings, storage, remote) for i in to_scan])
        for shard, i in enumerate(to_scan):
            found[i] = Listed(made, shard)
    return [listed for listed in found if listed is not None]


def _index_of(path: str, storage: Storage, remote: bool) -> Index | None:
    try:
        if not remote:
            return open_index(path)
        return _open_remote((storage, path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"index {path} cannot be read ({error}); mend that or delete it") from error


def _open_remote(of: tuple[Storage, str]) -> Index:
    storage, path = of
    with storage.open_whole(path) as file:
        return map_index(file, path, (_open_remote, of))


def _fits(listed: Listed, path: str) -> bool:
    try:
        listed.table.refuse_changed(listed.shard, path)
    except ValueError:
        return False
    return True


def _scanned(path: str, endings: Endings, storage: Storage, remote: bool) -> Index:
    if not remote:
        return scan(path, endings)
    try:
        with storage.open_whole(path) as file:
            return scan_file(file, path, endings)
    except OSError as error:
        raise ValueError(f"shard {path} cannot be read ({type(error).__name__}: {error}); check its address") from error
