"""Tasks whose images lie in one file: CIFAR's pickles, STL-10's binaries, FER-2013's table and PCam's HDF5.

torchvision unpickles CIFAR's, and compares checksums of whole files each time that CIFAR, STL-10 (2.8 GB, the unlabelled part
too) or FER-2013 is opened. Here pickles are read as data, and shapes are compared. All take the root of the tasks' data and a
split. Letters: N images, S side.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchflava import pickled
from torchflava.tasks.images import LabelledImages, numbered

_ARRAY = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")
_CIFAR_SIDE, _STL_SIDE, _FER_SIDE = 32, 96, 48
_FACES = ("angry", "disgusted", "afraid", "happy", "sad", "surprised", "neutral")


def cifar10(root: Path, split: str) -> LabelledImages:
    """train and test: six pickles of 10,000 images."""
    folder = root / "cifar-10-batches-py"
    names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    batches = [_unpickled(folder / name) for name in names]
    pixels = torch.cat([_cifar_pixels(batch, folder) for batch in batches])
    labels = [label for batch in batches for label in batch["labels"]]
    classes = _unpickled(folder / "batches.meta")["label_names"]
    return LabelledImages(pixels, labels, classes, keys=numbered(split, len(labels)))


def cifar100(root: Path, split: str) -> LabelledImages:
    """train and test: a pickle each; the 100 fine classes."""
    folder = root / "cifar-100-python"
    batch = _unpickled(folder / split)
    pixels, labels = _cifar_pixels(batch, folder), batch["fine_labels"]
    classes = _unpickled(folder / "meta")["fine_label_names"]
    return LabelledImages(pixels, labels, classes, keys=numbered(split, len(labels)))


def stl10(root: Path, split: str) -> LabelledImages:
    """train, the first of ten folds of 1,000 (CLIP's table has 1,000), and test."""
    folder = root / "stl10_binary"
    pixels = np.fromfile(folder / f"{split}_X.bin", np.uint8)
    labels = np.fromfile(folder / f"{split}_y.bin", np.uint8).astype(np.int64) - 1
    if pixels.size != labels.size * 3 * _STL_SIDE**2:
        raise ValueError(f"{folder}/{split}_X.bin and {split}_y.bin do not fit; unpack stl10_binary.tar.gz again")
    # Columns lie one after the other there.
    images = torch.from_numpy(pixels.reshape(-1, 3, _STL_SIDE, _STL_SIDE).swapaxes(2, 3))
    names = (folder / "class_names.txt").read_text().split()
    whole = LabelledImages(images, torch.from_numpy(labels), names, keys=numbered(split, len(labels)))
    if split == "test":
        return whole
    return whole.take(int(at) for at in (folder / "fold_indices.txt").read_text().splitlines()[0].split())


def fer2013(root: Path, split: str) -> LabelledImages:
    """Training, PublicTest and PrivateTest, as the column Usage has it; fer2013.csv or icml_face_data.csv."""
    folder = root / "fer2013"
    path = next(path for name in ("fer2013.csv", "icml_face_data.csv") if (path := folder / name).exists())
    faces, labels, keys = [], [], []
    with path.open(newline="") as file:
        for at, row in enumerate(csv.DictReader(file, skipinitialspace=True)):
            if row["Usage"] == split:
                faces.append(np.array(row["pixels"].split(), np.uint8))
                labels.append(int(row["emotion"]))
                keys.append(f"row {at}")
    pixels = torch.from_numpy(np.stack(faces).reshape(-1, _FER_SIDE, _FER_SIDE))
    return LabelledImages(pixels, labels, _FACES, keys=keys)


def pcam(root: Path, split: str) -> LabelledImages:
    """train, valid and test: patches of lymph nodes with or without a tumour in the middle; h5py reads them one by one."""
    import h5py

    stem = f"camelyonpatch_level_2_split_{split}"
    with h5py.File(root / "pcam" / f"{stem}_y.h5") as file:
        labels = torch.from_numpy(file["y"][()].reshape(-1).astype(np.int64))
    patches = _Patches(root / "pcam" / f"{stem}_x.h5")
    return LabelledImages(patches, labels, ("healthy tissue", "a tumour"), keys=numbered(split, len(labels)))


class _Patches(Sequence[Tensor]):
    """(N, S, S, 3) uint8 in an HDF5 file, opened for each patch: a file that is open can be shared by no process."""

    def __init__(self, path: Path) -> None:
        import h5py

        self._path = path
        with h5py.File(path) as file:
            self._len = len(file["x"])

    def __len__(self) -> int:
        return self._len

    def __getitem__(self, index: Any) -> Any:
        import h5py

        with h5py.File(self._path) as file:
            return torch.from_numpy(file["x"][index]).permute(2, 0, 1).contiguous()


def _cifar_pixels(batch: dict[str, Any], folder: Path) -> Tensor:
    """(N, 3072) as Python 2's numpy pickled it -> (N, 3, 32, 32)."""
    match batch["data"]:
        case pickled.Husk(state=(_, (int(num), 3072), pickled.Husk(args=("u1", *_)), False, str(data))):
            flat = np.frombuffer(data.encode("latin-1"), np.uint8).copy()
            return torch.from_numpy(flat).reshape(num, 3, _CIFAR_SIDE, _CIFAR_SIDE)
    raise ValueError(f"{folder} holds no rows of 3,072 bytes; unpack the archive's Python version again")


def _unpickled(path: Path) -> dict[str, Any]:
    """A dict of lists and an array, read as data: nothing that the pickle names is called."""
    try:
        found = pickled.parse(path.read_bytes(), _ARRAY).root
    except pickled.UnreadableError as error:
        raise ValueError(f"{path}: {error}; unpack the archive's Python version again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no dict; unpack the archive's Python version again")
    return found
