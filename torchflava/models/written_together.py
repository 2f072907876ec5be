"""Files that belong together, written so that a reader never takes some of one writing and some of another for a whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchflava.files import IN_A_FOLDER


@contextmanager
def together(folder: Path, weights: str) -> Iterator[Path]:
    """A folder to write files into, which become `folder`'s when the block ends; files of other names stay.

    They are written within `folder`, out of sight, so that an error leaves what was there as it was. Then the old weights are
    removed, the other files take their places, and the new weights come last: who stops in between, even by a kill, leaves a
    folder without weights, which every reader refuses. (Without a configuration transformers would read it by its defaults.)

    Args:
        folder: made if it is not there.
        weights: the name of the file that has them.

    Raises:
        ValueError: for a folder with weights under another name, which a reader may take for these.
        OSError: if something cannot be written or put in its place.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, and a folder is written; name another place")
    others = [folder / name for name in IN_A_FOLDER if name != weights and (folder / name).exists()]
    if others and weights in IN_A_FOLDER:
        raise ValueError(
            f"{others[0]} has weights too, which would be taken for {weights}; name another folder, or remove it"
        )
    new = not folder.is_dir()
    made = folder / f".{os.getpid()}.partial"
    shutil.rmtree(made, ignore_errors=True)  # of a process that was killed and had the same number
    made.mkdir(parents=True)
    try:
        yield made
        (folder / weights).unlink(missing_ok=True)
    except BaseException:
        shutil.rmtree(folder if new else made)
        raise
    try:
        for file in sorted(made.iterdir(), key=lambda file: (file.name == weights, file.name)):
            file.replace(folder / file.name)
        made.rmdir()
    except OSError as error:
        raise OSError(f"{folder} is half written ({error}); write again, or move there what lies in {made}") from error
