"""A scheduler's settings, after `-cfg` and in `.torchxconfig`: TorchX 0.7 submits a job without those that it does not know."""

import configparser
import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torchx.runner.config import find_configs, load
from torchx.schedulers import get_scheduler_factories
from torchx.specs import get_type_name

from torchflava.launch.ddp import LaunchError


def check_typed(scheduler: str, typed: str) -> None:
    """Refuse what stands after `-cfg` and is no setting of `scheduler`, or has a value of another kind.

    Raises:
        LaunchError: (a ValueError) that names the key and the nearest right one.
    """
    if not typed:
        return
    options = get_scheduler_factories()[scheduler]("").run_opts()
    for key in re.findall(r"(?:^|[,;])([\w-]+)=", typed):
        _check_known(f"-cfg {key}=", key, [name for name, _ in options], scheduler)
    try:
        options.cfg_from_str(typed)
    except ValueError as wrong:
        kinds = f"the values as `torchx runopts {scheduler}` tells them"
        raise LaunchError(f"-cfg {typed}: write KEY=VALUE,KEY=VALUE, {kinds} ({wrong})") from wrong


def check_configured(scheduler: str) -> None:
    """Refuse the same in the section of `scheduler` of each `.torchxconfig` that TorchX reads.

    Raises:
        LaunchError: (a ValueError) that names the file, the key and the nearest right one.
    """
    for file in find_configs():
        config = configparser.ConfigParser()
        config.optionxform = str  # type: ignore[assignment,method-assign]  # `grace` and `Grace` are two, as to TorchX
        config.read(file)
        if config.has_section(scheduler):
            _check_section(file, config, scheduler)


def _check_section(file: str, config: configparser.ConfigParser, scheduler: str) -> None:
    options = get_scheduler_factories()[scheduler]("").run_opts()
    known: dict[str, Any] = dict(options)
    keys = [key for key in config[scheduler] if key not in config.defaults()]
    for key in keys:
        _check_known(f"{file}, [{scheduler}] {key}", key, known, scheduler)
    read: dict[str, Any] = {}
    try:
        with Path(file).open() as text:
            load(scheduler, text, read)
    except configparser.InterpolationError as wrong:
        raise LaunchError(f"{file}, [{scheduler}] {wrong.option}: write %% for a % ({wrong.message})") from wrong
    except (ValueError, IndexError) as wrong:  # the latter of a value that is to be KEY:VALUE
        key = next(
            key for key in config[scheduler] if key in known and key not in read
        )  # TorchX reads them in this order
        kind = f"a value of kind {get_type_name(known[key].opt_type)}, see `torchx runopts {scheduler}`"
        raise LaunchError(f"{file}, [{scheduler}] {key} = {config[scheduler][key]}: write {kind} ({wrong})") from wrong


def _check_known(where: str, key: str, known: Collection[str], scheduler: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        raise LaunchError(f"{where}: {scheduler} has no such setting; {remedy}")
