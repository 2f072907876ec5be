"""What is trained on, as one HTML page: of shards (`python recipes/data/browse.py data/coco --out page.html`), of a mixture
(`browse.py --preset emoji --out page.html`, with any flags of recipes/pretrain.py), or of a run (`browse.py --run runs/...`).

The page needs no network and no other file. The same data and settings give the same bytes.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """Show what is trained on as one HTML page, which opens from disk.

    Of what: folders of tars, tars, or .txt files with a text a line; or the flags of recipes/pretrain.py, such as
    `--preset emoji --data data/emoji`; or `--run` and a run's folder.
    """

    out: Path
    """The page; one that is there is written anew."""
    run: Path | None = None
    """A run's folder: its settings, its vocabulary and its codebook, hence what that run saw."""
    num: int = 24
    """Samples shown of each kind, in the order of training."""
    measure: int = 2_000
    """Samples of each kind over which lengths, sizes and rejects are counted."""
    first_step: int = 0
    """The step of the run from which on samples are shown."""
    vocab: Path | None = None
    """A vocab.txt or tokenizer.json, for shards or a mixture; without one, it is learnt: of shards, from the captions that are
    measured."""


def main(words: Sequence[str]) -> Path:
    """Write the page that the command line `words` asks for; where it is.

    Raises:
        ValueError: for a setting that cannot be, or data that cannot be opened, with the remedy.
        OSError: if the page cannot be written.
    """
    config, rest = tyro.cli(Config, args=list(words), prog="browse.py", return_unknown_args=True)
    _check(config, rest)
    # The recipes are no package: what pretrain.py finds beside itself (presets, corpora) stands one folder above this file.
    recipes = str(Path(__file__).resolve().parents[1])
    if recipes not in sys.path:
        sys.path.insert(0, recipes)
    from browse_measures import measure
    from browse_page import render
    from browse_plan import plan_of_flags, plan_of_paths, plan_of_run
    from browse_rejects import rejects_of
    from browse_samples import samples_of
    from browse_sources import parts

    if config.run is not None:
        plan = plan_of_run(config.run)
    elif rest[0].startswith("-"):
        plan = plan_of_flags(rest if config.vocab is None else [*rest, "--vocab", str(config.vocab)])
    else:
        plan = plan_of_paths(rest, config.vocab, num=config.num, measured=config.measure)
    if plan.steps and config.first_step >= plan.steps:
        raise ValueError(f"--first-step {config.first_step} must be below the {plan.steps} steps of the run")
    measured = {
        name: measure(kind, plan.tokenizer, config.measure, seed=plan.mixture.seed)
        for name, kind in plan.mixture.kinds.items()
    }
    sources = [source for kind in plan.mixture.kinds.values() for source, _ in parts(kind.source)]
    shown = samples_of(plan, config.num, config.first_step)
    page = render(plan, shown, measured, rejects=rejects_of(sources), first_step=config.first_step)
    _write(config.out, page)
    return config.out


def _check(config: Config, rest: Sequence[str]) -> None:
    """Complain of what cannot be, or would be ignored."""
    for name, least in (("num", 1), ("measure", 1), ("first_step", 0)):
        if getattr(config, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(config, name)} must be {least} or more")
    if config.out.is_dir():
        raise ValueError(f"--out {config.out} is a folder; name a file, such as {config.out / 'page.html'}")
    if config.run is not None and rest:
        raise ValueError(f"--run {config.run} says all that {' '.join(rest)} would; give one of the two")
    if config.run is None and not rest:
        raise ValueError("nothing to show: give folders of .tar files, a run's folder by --run, or --preset NAME")
    of_shards = config.run is None and not rest[0].startswith("-")
    flag = next((word for word in rest if word.startswith("-")), None)
    if of_shards and flag:
        raise ValueError(f"{flag} is no flag for shards; give either folders or flags of pretrain.py")
    if of_shards and config.first_step:
        raise ValueError(f"--first-step {config.first_step} is a run's; shards alone have no steps")
    if config.run is not None and config.vocab is not None:
        raise ValueError(f"--vocab {config.vocab} is for shards and mixtures; a run has a vocabulary of its own")


def _write(path: Path, page: str) -> None:
    """Write the page, whole or not at all. What UTF-8 cannot hold (half characters of a .json) is escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(page.encode(errors="backslashreplace"))
    os.replace(aside, path)


if __name__ == "__main__":
    try:
        written = main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"browse.py: {error}")
    print(f"{written} ({written.stat().st_size / 1e6:.1f} MB)")
