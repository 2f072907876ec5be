"""What there is of a run's checkpoints, and what each says of itself."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

from torchflava.training.object_store import Remote
from torchflava.training.places import STATE, Local, Place

FORMAT = 2
"""Of the folder; raised when an older reader could not read it."""

Where = TypeVar("Where", bound=Path | str)
"""A local folder, or the URL of one."""


def last_checkpoint(folder: Where) -> Where | None:
    """The whole checkpoint of the greatest step in `folder`, which may be a URL's, if there is one."""
    steps = whole(place_of(folder))
    return within(folder, steps[-1]) if steps else None


def best_checkpoint(folder: Where) -> Where | None:
    """The whole checkpoint that was saved as the best, if there is one; of a URL's folder too."""
    place = place_of(folder)
    name = f"step-{best_step(place):08d}"
    return within(folder, name) if STATE in place.sizes(name) else None


def read_state(path: Path | str) -> dict[str, Any]:
    """What the checkpoint at a path or URL says of itself: `step`, and what `state` was when it was saved.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    place, name = parts_of(path)
    try:
        state: dict[str, Any] = json.loads(place.read(f"{name}/{STATE}"))
    except ValueError as error:
        raise damaged(path, error) from error
    return state


def place_of(where: Path | str) -> Place:
    """The place at a folder or a URL; a `file://` is a folder."""
    folder = local_folder(where)
    return Remote(str(where)) if folder is None else Local(folder)


def local_folder(where: Path | str) -> Path | None:
    """The folder that a path or a `file://` URL means; None for the URL of a store.

    Raises:
        ValueError: for a `file://` of another machine (RFC 8089 lets it name one).
    """
    if isinstance(where, Path) or "://" not in where:
        return Path(where)
    scheme, _, rest = where.partition("://")
    if scheme != "file":
        return None
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ValueError(
            f"{where} is a folder of the machine {host!r}; write file:///{rest} if it is one of this machine's"
        )
    return Path("/" + unquote(path))


def parts_of(path: Path | str) -> tuple[Place, str]:
    """Where a checkpoint lies, and its name there."""
    if isinstance(path, Path):
        return place_of(path.absolute().parent), path.name
    folder, _, name = path.rstrip("/").rpartition("/")
    return place_of(folder or "."), name


def within(folder: Where, name: str) -> Where:
    """`folder/name`, as a path or a URL as `folder` is one."""
    return cast(Where, folder / name if isinstance(folder, Path) else f"{folder.rstrip('/')}/{name}")


def whole(place: Place) -> list[str]:
    """Names of the checkpoints, by step."""
    return [name for name in place.steps() if STATE in place.sizes(name)]


def best_step(place: Place) -> int:
    """The step that was saved as the best, as the newest checkpoint has it; -1 if none was."""
    steps = whole(place)
    return int(json.loads(place.read(f"{steps[-1]}/{STATE}")).get("best_step", -1)) if steps else -1


def checked_state(
    path: Path | str, config: Mapping[str, Any] | None, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What `read_state` gives, of a checkpoint whose files are all there and as long as they were.

    Args:
        path: of the checkpoint's folder, or its URL.
        config: must be the saved one's, where given.
        defaults: of settings, for those that the saved config lacks because they came later.

    Raises:
        ValueError: if it is damaged, of another format, or of another config than `config`.
    """
    place, name = parts_of(path)
    try:
        state: dict[str, Any] = json.loads(place.read(f"{name}/{STATE}"))
        if state["format"] == FORMAT:
            _check_files(state["files"], place.sizes(name))
            for number in ("step", "ranks"):
                if not isinstance(state[number], int):
                    raise TypeError(f"{number} is {state[number]!r}")
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError) as error:
        raise damaged(path, error) from error
    if state["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {state['format']}, this version reads {FORMAT}; use the version that wrote it"
        )
    if config is not None:
        told = differences(_filled(state.get("config", {}), defaults or {}), config)
        if told:
            raise ValueError(
                f"{path} belongs to another run: {told}; go on with the same settings or start a new folder"
            )
    return state


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, where settings that were read from JSON and those of now differ; empty where they do not."""
    now = json.loads(json.dumps(now))
    names = sorted(was.keys() | now.keys())
    return "; ".join(
        f"{name} was {was.get(name)!r}, is {now.get(name)!r}" for name in names if was.get(name) != now.get(name)
    )


def damaged(path: Path | str, error: BaseException) -> ValueError:
    """To raise where a checkpoint cannot be read."""
    return ValueError(f"{path} is damaged ({short(error)}); delete it to go on from the checkpoint before it")


def short(error: BaseException) -> str:
    """One line of it; of a failure on several ranks, the first rank's."""
    failures = list(getattr(error, "failures", {}).values())
    first = failures[0][0] if failures else error
    return str(first).strip().splitlines()[-1] if str(first).strip() else type(first).__name__


def _filled(saved: Any, defaults: Any) -> Any:
    """`saved`, with what it lacks of `defaults`, inside its parts too."""
    if not isinstance(saved, dict) or not isinstance(defaults, Mapping):
        return saved
    lacking = {key: value for key, value in json.loads(json.dumps(defaults)).items() if key not in saved}
    return {key: _filled(value, defaults.get(key)) for key, value in saved.items()} | lacking


def _check_files(files: Mapping[str, int], there: Mapping[str, int]) -> None:
    strange = [name for name in files if not name.endswith(".safetensors") or "/" in name or "\\" in name]
    if strange:  # from a store, they are fetched by these names
        raise ValueError(f"{', '.join(strange)} is no name of a file of tensors")
    missing = [name for name in files if name not in there]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing")
    short_ones = [name for name, size in files.items() if there[name] != size]
    if short_ones:
        raise ValueError(f"{', '.join(short_ones)} is not as long as it was")
