"""Files that a user hands in, read safely: nothing in them is ever run.

Formats: safetensors (one file, or shards under an index), and what `torch.save` wrote, as a zip or in its older form.
The format is told by the first bytes, never by the name. A damaged file is a ValueError that names it.
"""

import errno
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from torchflava import pickled
from torchflava.pickled import View
from torchflava.stored import from_legacy, from_zip, tensors_of
from torchflava.zipped import check_zip

T = TypeVar("T")
Kind = Literal["safetensors", "zip", "legacy", "index"]

_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # opens torch's older files, as a pickle, after its protocol
_STEMS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
IN_A_FOLDER = tuple(a + b for a in _STEMS for b in ("", ".index.json"))
"""What weights are called in a folder, the ones to take first."""
_MOST_SHARED = 16
"""How often the same numbers may stand for others in torch's files, as those of tied layers do."""
_STUMBLES = (KeyError, TypeError, UnicodeDecodeError, NotImplementedError, RuntimeError, OverflowError, struct.error)
"""What else a zip, or torch's older files, raises where it is damaged."""
_TO_SAFETENSORS = (
    "if you trust the file, convert it where its own package is installed: "
    "x = torch.load(path, weights_only=False); "
    "safetensors.torch.save_file(dict(x.state_dict()), 'weights.safetensors'), or x['state_dict'] where x is a dict"
)


def load_tensors(path: str | os.PathLike[str], *, part: str | None = None) -> dict[str, Tensor]:
    """The tensors in a file or folder, by name, on the CPU.

    Args:
        path: a safetensors file, an index of its shards, a `.pt`, `.pth` or `.bin` of tensors written by torch.save
            (read by `torch.load(weights_only=True)`), or a folder as transformers writes it.
        part: for a torch file that holds several state dicts (`{"student": ..., "teacher": ...}`), which one; a file
            with a single one under any name needs no `part`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another format, or holds more than tensors.
    """
    path = _file(path)
    kind = _kind(path)
    if kind in ("index", "safetensors"):
        if part is not None:
            raise ValueError(f"{path} is one state dict, of safetensors, and has no part {part!r}; leave it out")
        return _sharded(path) if kind == "index" else _safetensors(path)
    try:
        if kind == "zip":
            check_zip(path)  # for torch unpacks whatever there is
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _of_damage(error, path) from error
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path}: its pickle names {refused[1]!r}, which is not read; {_TO_SAFETENSORS}"
            ) from error
        raise ValueError(f"{path} is damaged or is no file of tensors; fetch it again") from error
    except Exception as error:  # torch's reader raises whatever a damaged file makes it stumble over
        why = error if isinstance(error, pickled.UnreadableError) else type(error).__name__
        raise ValueError(f"{path} is damaged ({why}); fetch it again") from error
    tensors = _one_state(loaded, lambda value: _state(value, Tensor), path, part)
    if strange := [name for name, tensor in tensors.items() if not _is_held(tensor)]:
        raise ValueError(
            f"{path}: {strange[0]} is larger than what is stored of it, or no plain tensor; save a copy of it"
        )
    return _not_more(tensors, path)


def read_state(
    path: str | os.PathLike[str], allow: Collection[str] = (), *, part: str | None = None
) -> dict[str, Tensor]:
    """As `load_tensors`, and also the state dict of a whole module that torch.save pickled.

    The pickle is parsed, not run, and the module's package need not be installed.

    Args:
        path: a file or a folder.
        allow: the classes that may stand in the pickle, such as `torch.nn.modules.container.Sequential`.
        part: which of several state dicts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the pickle names anything else, or for what `load_tensors` refuses.
    """
    path = _file(path)
    kind = _kind(path)
    if kind in ("index", "safetensors"):
        return load_tensors(path, part=part)
    try:
        with path.open("rb") as file:
            root, read = from_zip(file, allow) if kind == "zip" else from_legacy(file, allow)
            return _not_more(tensors_of(_one_state(root, _views, path, part), read), path)
    except pickled.RefusedError as error:
        raise ValueError(f"{path}: {error}; {_TO_SAFETENSORS}") from error
    except OSError as error:
        raise _of_damage(error, path) from error
    except (pickled.UnreadableError, zipfile.BadZipFile, EOFError, *_STUMBLES) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error


def held_in(path: str | os.PathLike[str], allow: Collection[str] = ()) -> dict[str, bool]:
    """What lies in the dict that torch.save wrote, by name, and of each whether it is a state dict; no tensor is read.

    Nothing for a file that holds anything else, or is damaged, which is told by whoever reads its tensors.

    Args:
        path: a file or a folder.
        allow: as of `read_state`.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    path = _file(path)
    try:
        if (kind := _kind(path)) in ("index", "safetensors"):
            return {}
        with path.open("rb") as file:
            root = (from_zip if kind == "zip" else from_legacy)(file, allow)[0]
        return {str(name): _views(held) is not None for name, held in root.items()} if isinstance(root, dict) else {}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, *_STUMBLES):
        return {}


def _of_damage(error: OSError, path: Path) -> Exception:
    """A seek to where a file cut short no longer is: damage, where other errors are the disk's."""
    return ValueError(f"{path} is damaged or cut short; fetch it again") if error.errno == errno.EINVAL else error


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a safetensors file says about itself; nothing for the other formats, which say nothing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged.
    """
    path = _file(path)
    if _kind(path) != "safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all; tensors that share memory are written each by itself.

    Raises:
        OSError: if it cannot be written there.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent} to write {target.name} into; make it first")
    seen: set[int] = set()
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        copy = tensor.detach().to("cpu").contiguous()
        if copy.untyped_storage().data_ptr() in seen:
            copy = copy.clone()
        seen.add(copy.untyped_storage().data_ptr())
        whole[name] = copy
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        save_file(whole, partial, metadata=dict(metadata or {}) or None)
        partial.replace(target)
    except SafetensorError as error:
        raise OSError(f"{target} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _file(path: str | os.PathLike[str]) -> Path:
    """The file itself, or the one that stands for its folder."""
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in IN_A_FOLDER if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path} holds none of {', '.join(IN_A_FOLDER)}; name the file itself")
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give the path of one (nothing is downloaded)")
    return path


def _kind(path: Path) -> Kind:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if _LEGACY in head[:32]:
        return "legacy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    if head.lstrip()[:1] == b"{":
        return "index"
    if not head:
        raise ValueError(f"{path} is empty; fetch it again")
    if head.lstrip()[:1] == b"<":
        raise ValueError(f"{path} is a web page, not weights; fetch the file itself")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer to a file in git LFS; fetch the file itself (git lfs pull)")
    raise ValueError(
        f"{path} is neither safetensors nor a file of torch.save's (it begins with {head[:8]!r}); convert it to safetensors"
    )


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from error


def _sharded(path: Path) -> dict[str, Tensor]:
    if path.stat().st_size > 64 * 2**20:  # bytes; 100 a tensor
        raise ValueError(f"{path} is no index of shards, which is never so large; name the weights' own file")
    try:
        shards: dict[str, str] = json.loads(path.read_bytes())["weight_map"]
        names = sorted(set(shards.values()))
        strange = [name for name in names if name != Path(name).name or name in (".", "..")]
        strange += [name for name in names if not strange and _kind(_file(path.parent / name)) == "index"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no index of shards ({error!r}); it needs a weight_map") from error
    if strange:
        raise ValueError(
            f"{path} names {strange[0]!r}, an index or a file outside its folder; shards stand beside their index"
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= load_tensors(path.parent / name)
    missing = sorted(set(shards) - set(tensors))
    if missing:
        raise ValueError(f"{path}: its shards lack {', '.join(missing[:5])} ({len(missing)} in all); fetch them again")
    return tensors


def _one_state(loaded: Any, state: Callable[[Any], dict[str, T] | None], path: Path, part: str | None) -> dict[str, T]:
    """The one state dict in what a torch file held: the whole of it, or one a level below."""
    whole = state(loaded)
    if whole and part is None:
        return whole
    entries = loaded.items() if isinstance(loaded, dict) and not whole else ()
    parts = {str(key): inner for key, value in entries if (inner := state(value))}
    if part is not None and part not in parts:
        raise ValueError(f"{path} has no part {part!r}; it has {', '.join(parts) or 'no parts'}")
    if part is None and len(parts) != 1:
        told = f"{len(parts)} state dicts; choose one by part=NAME: {', '.join(parts)}" if parts else "no state dict"
        raise ValueError(f"{path} holds {told}")
    return parts[part if part is not None else next(iter(parts))]


def _not_more(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors, if they are not far more than the file that they share: each would be copied into a model."""
    size, told = path.stat().st_size, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if told > max(_MOST_SHARED * size, 2**30):
        raise ValueError(
            f"{path} has {size} bytes, and its tensors, which share them, would be {told}; save copies of them"
        )
    return tensors


def _is_held(tensor: Tensor) -> bool:
    """Whether a tensor's numbers are all there: a few bytes can say that they are to be repeated until memory ends."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _views(value: Any) -> dict[str, View] | None:
    return pickled.tensors(value) if pickled.is_module(value) else _state(value, View)


def _state(value: Any, kind: type[T]) -> dict[str, T] | None:
    """`value`, if it maps names to `kind` and to nothing else."""
    if not isinstance(value, dict) or not value:
        return None
    return dict(value) if all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items()) else None
