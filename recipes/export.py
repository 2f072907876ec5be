"""The model of a run at one of its checkpoints, as one file: `python recipes/export.py runs/first --out first.safetensors`.

A run writes `model.safetensors` after its last step; this writes it of a run that was stopped, or of an earlier step. One process
does it, on the CPU, and the weights must fit its memory.
"""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from corpora import vocabulary_in
from kept import fetch_kept, where_checkpoints_lie
from own import Own
from presets import Config, Shares, Weights, needs_codes
from start import build, end_of

from torchflava.codebooks import load_codebook
from torchflava.files import save_tensors
from torchflava.models import FlavaForPreTraining, metadata_of
from torchflava.training import best_checkpoint, full_weights, last_checkpoint, load_checkpoint, read_state, session
from torchflava.training.places import STEP
from torchflava.transforms import load_tokenizer

_PARTS = {"own": Own, "shares": Shares, "weights": Weights}


@dataclass(frozen=True)
class Export:
    """Write the weights of a run's checkpoint as a file that `torchflava.models.from_pretrained` reads."""

    place: Annotated[str, tyro.conf.Positional]
    """A run's folder, the folder or URL that it keeps its checkpoints in, or one checkpoint there: runs/first/step-00100000."""
    out: str = ""
    """The file; model.safetensors in the run's folder, unless given."""
    best: bool = False
    """The checkpoint that `--select` chose, instead of the last."""


def main(words: Sequence[str]) -> None:
    """Write the file."""
    asked = tyro.cli(Export, args=list(words), prog="export.py")
    try:
        print(export(asked))
    except (ValueError, OSError) as error:
        sys.exit(f"export.py: {error}")


def export(asked: Export) -> str:
    """Write the file; what was written.

    Raises:
        ValueError: if there is no such checkpoint, it is damaged or of another model, or the file is there already.
        OSError: if something cannot be read or written.
    """
    run, named = _parted(asked.place)
    if named and asked.best:
        raise ValueError(f"--best and {named} are two ways to name a checkpoint; give one")
    out = Path(asked.out or ("model.safetensors" if "://" in run else Path(run) / "model.safetensors"))
    if out.exists():
        raise ValueError(f"{out} is there already; choose another file by --out")
    with session(0, "cpu"), _folder_of(run) as folder:
        config = read_config(folder / "config.json")
        where = run if named or "://" in run else where_checkpoints_lie(config, Path(run))
        checkpoint = f"{run}/{named}" if named else _found(where, best=asked.best)
        try:
            step = read_state(checkpoint)["step"]
        except FileNotFoundError as error:
            raise ValueError(
                f"{checkpoint} is no checkpoint, for it has no state.json; name one that is whole"
            ) from error
        model = model_of(config, folder).to_empty(device="cpu")
        load_checkpoint(checkpoint, model)
        save_tensors(out, full_weights(model), metadata_of(model))
    return f"{out}: the weights after step {step} of {config.steps}, from {checkpoint}"


def read_config(file: Path) -> Config:
    """The settings that a run keeps in its folder.

    Raises:
        ValueError: if they are missing, damaged, or of another version.
    """
    try:
        told: Mapping[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file.parent} is no run's folder: config.json cannot be read ({error})") from error
    if "first_spread" in told:
        raise ValueError(
            f"{file.parent} is the run of a codebook; give a pretraining run, which reads it by --codebook"
        )
    strange = told.keys() - {field.name for field in fields(Config)}
    if strange:
        raise ValueError(f"{file} has settings that this version does not know: {', '.join(sorted(strange))}")
    again = told.get("recompute", "none")  # it was yes or no once
    told = {**told, "recompute": {True: "full", False: "none"}.get(again, again)}
    return Config(**{name: _PARTS[name](**value) if name in _PARTS else value for name, value in told.items()})


def model_of(config: Config, folder: Path) -> FlavaForPreTraining:
    """A run's model without memory; how many words and codes it knows is read off what lies in the run's folder."""
    vocab, codebook = vocabulary_in(folder), folder / "codebook.safetensors"
    tokenizer = load_tokenizer(vocab) if vocab.exists() else None
    vocab_size = config.vocab_size if tokenizer is None else tokenizer.vocab_size
    num_codes = load_codebook(codebook).num_codes if needs_codes(config) else config.num_codes
    with torch.device("meta"):
        return build(config, vocab_size, num_codes, end_id=end_of(tokenizer))


@contextmanager
def _folder_of(run: str) -> Any:
    """A folder with what a run keeps beside its checkpoints, fetched if it lies elsewhere."""
    if "://" not in run:
        yield Path(run)
        return
    with tempfile.TemporaryDirectory() as fetched:
        fetch_kept(replace(Config(), checkpoints=run), Path(fetched))
        yield Path(fetched)


def _parted(place: str) -> tuple[str, str]:
    """The run's folder or URL, and the name of the checkpoint if one is named."""
    run, _, name = place.rstrip("/").rpartition("/")
    return (run or ".", name) if STEP.fullmatch(name) else (place.rstrip("/"), "")


def _found(where: Path | str, *, best: bool) -> Path | str:
    found = best_checkpoint(where) if best else last_checkpoint(where)
    if found is None:
        which = (
            "no best checkpoint: it was run without --select, or has not been measured" if best else "no checkpoint yet"
        )
        raise ValueError(f"{where} has {which}")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
