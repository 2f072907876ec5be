"""An object store with fsspec's interface, in a local folder, for all processes: whole objects or none, no folders, no renaming,
no appending, listings that are remembered until they are given up; and failures when they are asked for.

`bucket://` + the path of a folder called `bucket` + a name. What is put there is a file of that name; what was asked stands in
`asked` beside the bucket, one line each.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem


class Bucket(AbstractFileSystem):
    """Registered by `register`."""

    protocol = "bucket"
    fault: Callable[[str, str], None] = staticmethod(lambda verb, path: None)
    """Called before each request with its verb and path, and as `half` in the middle of what is sent; may raise."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.listings: dict[str, list[dict[str, Any]]] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return path.removeprefix("bucket://").rstrip("/")

    def _asked(self, verb: str, path: str) -> None:
        with open(self._beside(path, "asked"), "a") as file:
            file.write(f"{verb} {path.partition('/bucket/')[2]}\n")
        type(self).fault(verb, path)

    def _beside(self, path: str, name: str) -> Path:
        before, bucket, _ = path.partition("/bucket")
        if not bucket or not Path(before, "bucket").is_dir():
            raise FileNotFoundError(f"there is no bucket at {path}")
        return Path(before, name)

    def ls(self, path: str, detail: bool = True, **more: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if path not in self.listings:
            self._asked("ls", path)
            self.listings[path] = [self._entry(found) for found in sorted(Path(path).glob("*")) if _there(found)]
        if not self.listings[path]:
            raise FileNotFoundError(path)
        return self.listings[path] if detail else [entry["name"] for entry in self.listings[path]]

    def _entry(self, path: Path) -> dict[str, Any]:
        is_file = path.is_file()
        return {
            "name": str(path),
            "size": path.stat().st_size if is_file else 0,
            "type": "file" if is_file else "directory",
        }

    def info(self, path: str, **more: Any) -> dict[str, Any]:
        found = Path(self._strip_protocol(path))
        if not _there(found):
            raise FileNotFoundError(path)
        return self._entry(found)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listings.clear()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        path = self._strip_protocol(path)
        self._asked("cat", path)
        return Path(path).read_bytes()[start:end]

    def get_file(self, rpath: str, lpath: str, *args: Any, **more: Any) -> None:
        self._asked("get", rpath)
        shutil.copyfile(rpath, lpath)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        self._send(self._strip_protocol(path), value)

    def put_file(self, lpath: str, rpath: str, *args: Any, **more: Any) -> None:
        self._send(rpath, Path(lpath).read_bytes())

    def _send(self, path: str, data: bytes) -> None:
        self._asked("put", path)
        part = self._beside(path, f"sent-{uuid.uuid4().hex}")
        part.write_bytes(data[: len(data) // 2])
        slow = self._beside(path, "slow")
        for line in slow.read_text().splitlines() if slow.exists() else ():  # a part of a name, and seconds
            name, seconds = line.split()
            time.sleep(float(seconds) if name in path else 0)
        type(self).fault("half", path)
        part.write_bytes(data)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, path)

    def rm_file(self, path: str) -> None:
        path = self._strip_protocol(path)
        self._asked("rm", path)
        os.unlink(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        path = self._strip_protocol(path)
        for found in sorted(Path(path).rglob("*")) if recursive else [Path(path)]:
            if found.is_file():
                self.rm_file(str(found))

    def _cannot(self, *args: Any, **more: Any) -> Any:
        raise NotImplementedError("an object store has no such request")

    mv = cp_file = copy = rename = mkdir = makedirs = mkdirs = _open = open = _cannot


def _there(path: Path) -> bool:
    """A folder is there as long as something is in it."""
    return path.is_file() or any(found.is_file() for found in path.rglob("*"))


def register() -> None:
    """Let fsspec know `bucket://`, in this process."""
    fsspec.register_implementation("bucket", Bucket, clobber=True)


def made(folder: Path, name: str = "run") -> str:
    """A new bucket in `folder`; the URL of a folder in it."""
    (folder / "bucket").mkdir(parents=True)
    return f"bucket://{folder}/bucket/{name}"


def asked(folder: Path, *verbs: str) -> list[str]:
    """What the bucket in `folder` was asked, in this order; of `verbs` alone, if any are given."""
    lines = (folder / "asked").read_text().splitlines()
    return [line for line in lines if not verbs or line.split()[0] in verbs]
