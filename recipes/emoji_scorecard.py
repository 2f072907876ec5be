"""A model of emoji scored by tasks of its own data: `python recipes/emoji_scorecard.py --data data/emoji --model runs/emoji`.

From the shards of recipes/data/emoji.py it lays out data as a user's would lie, and sends the model through recipes/zero_shot.py,
linear_probe.py and finetune.py: zero-shot classes, retrieval, probes, entailment, matching. Beside it stand the same model with
weights as they are drawn, bare pixels, and guessing. The same command again goes on where it was (docs/emoji_scorecard.md).
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro
from child import run
from emoji_layouts import LEVELS, lay_out
from emoji_pairs import ENTAILMENT, MATCHING, lay_out_pairs
from emoji_table import Columns, table
from evaluation_settings import Subject, kind_of

_DRAWN = "untrained"


@dataclass(frozen=True)
class EmojiScorecard:
    """Score a model of emoji by zero-shot classes, retrieval, linear probes, entailment and matching."""

    model: str
    """The run's folder, or a folder or file of weights with its vocabulary beside it."""
    data: Path = Path("data/emoji")
    """The folder that recipes/data/emoji.py wrote."""
    out: Path = Path("runs/emoji_scorecard")
    """Where everything goes: data/, models/, a folder for each evaluation, and emoji_scorecard.md."""
    name: str = ""
    """What the tables call the model; the name of its folder or file by default."""
    steps: int = 400
    """Of each fine-tuning."""
    batch_size: int = 128
    """Of fine-tuning."""
    lr: float = 5e-4
    """Of fine-tuning."""
    max_iter: int = 300
    """Iterations of L-BFGS at most, for each fit of a probe."""
    rerank: int = 10
    """Of retrieval by name, how many of the nearest the matching head puts in order; 0 leaves that out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 2
    """That decode images."""
    only_table: bool = False
    """Run nothing; write the table of what is there."""


class Job(NamedTuple):
    """A call of a recipe."""

    name: str
    """Of its folder below --out."""
    recipe: str
    words: list[str]


def main(words: Sequence[str]) -> None:
    """Make what is missing, then the table."""
    asked = tyro.cli(EmojiScorecard, args=list(words), prog="emoji_scorecard.py")
    complaint = _complaint(asked)
    if complaint:
        sys.exit(f"emoji_scorecard.py: {complaint}")
    if not asked.only_table:
        try:
            _prepare(asked)
        except ValueError as error:
            sys.exit(f"emoji_scorecard.py: {error}")
        for job in jobs(asked):
            if not (asked.out / job.name / "done").exists():
                print(f"== {job.name}", flush=True)
                code = run([sys.executable, str(Path(__file__).with_name(f"{job.recipe}.py")), *job.words])
                if code:
                    sys.exit(code)  # as the recipe said; the same command goes on with it
                (asked.out / job.name / "done").touch()
    text = table(asked.out, columns(asked), _head(asked))
    (asked.out / "emoji_scorecard.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nIn {asked.out}: emoji_scorecard.md; recipes/scorecard.py reads the same results.")


def columns(asked: EmojiScorecard) -> Columns:
    """What results call the model and what stands beside it."""
    shown = Subject(asked.model, name=asked.name).shown
    return Columns(shown, f"{shown} {_DRAWN}", "pixels")


def jobs(asked: EmojiScorecard) -> Iterator[Job]:
    """All evaluations, the quick ones first."""
    data, own = asked.out / "data", columns(asked)
    trained, drawn = (str(asked.out / "models" / which) for which in ("trained", _DRAWN))
    images = ["--images", str(data / "images")]
    for task in ("emoji_names", *LEVELS.values()):
        classes = data / "classes"
        words = ["--images", str(classes / task), "--names", str(classes / f"{task}.names.txt")]
        words += ["--templates", str(classes / "templates.txt")]
        yield _evaluation(asked, f"zero_shot-{task}", "zero_shot", [trained, own.trained, *words])
    for task in ("emoji_names", "emoji_captions", "emoji_keywords"):
        words = ["--retrieval", str(data / "captions" / f"{task}.jsonl"), *images]
        words += ["--rerank", str(asked.rerank)] if asked.rerank and task == "emoji_names" else []
        yield _evaluation(asked, f"retrieval-{task}", "zero_shot", [trained, own.trained, *words])
    for task in (f"{ENTAILMENT}_new", f"{MATCHING}_any", f"{MATCHING}_near"):
        words = ["--pairs", str(data / "pairs" / f"{task}.jsonl"), *images]
        yield _evaluation(asked, f"pairs-{task}", "zero_shot", [trained, own.trained, *words])
    seers = {"trained": (trained, own.trained), _DRAWN: (drawn, own.drawn), "pixels": ("pixels:small", own.pixels)}
    for task in (f"{task}{part}" for part in ("", "_new") for task in LEVELS.values()):
        for which, seer in seers.items():
            words = [*images, "--task", task, "--max-iter", str(asked.max_iter)]
            for split in ("train", "valid", "test"):
                words += [f"--{split}", str(data / "labelled" / task / f"{split}.jsonl")]
            yield _evaluation(asked, f"probe-{task}-{which}", "linear_probe", [*seer, *words])
    for task, dev, test in ((ENTAILMENT, "seen", "new"), (MATCHING, "any", "near")):
        for which in ("trained", _DRAWN):
            files = {"train": "train", "dev": dev, "test": test}
            words = [*images, "--model", seers[which][0], "--label", seers[which][1], "--called", task]
            for split, part in files.items():
                words += [f"--{split}", str(data / "pairs" / f"{task}_{part}.jsonl")]
            yield _tuning(asked, f"tuned-{task}-{which}", words)


def _evaluation(asked: EmojiScorecard, name: str, recipe: str, words: Sequence[str]) -> Job:
    """A call of zero_shot.py or linear_probe.py; `words` begin with the model and what results call it."""
    model, shown, *rest = words
    told = ["--model", model, "--name", shown, "--out", str(asked.out / name)]
    told += ["--device", asked.device, "--threads", str(asked.threads), "--batch-size", "256"]
    return Job(name, recipe, [*told, *rest])


def _tuning(asked: EmojiScorecard, name: str, words: Sequence[str]) -> Job:
    """A call of finetune.py; of the last weights, so that nothing is chosen on what is measured."""
    steps = str(asked.steps)
    told = ["--task", "own", "--folder", str(asked.out), "--name", name, "--select", "", "--measure-every", steps]
    told += ["--steps", steps, "--batch-size", str(asked.batch_size), "--lr", str(asked.lr), "--hidden", "256"]
    told += ["--save-every", "100", "--device", asked.device, "--threads", str(asked.threads), "--measure-batch", "256"]
    return Job(name, "finetune", [*told, *words])


def _prepare(asked: EmojiScorecard) -> None:
    """Data and models, once.

    Raises:
        ValueError: if shards or weights cannot be used, or --out was made with others.
    """
    kept, now = asked.out / "settings.json", _settings(asked)
    if kept.exists():
        was = json.loads(kept.read_text())
        if told := "; ".join(
            f"{name} was {was.get(name)}, is {now[name]}" for name in now if was.get(name) != now[name]
        ):
            raise ValueError(f"{asked.out} was made with other settings: {told}; give those, or another --out")
        return
    if asked.out.exists() and any(asked.out.glob("*/done")):
        raise ValueError(f"{asked.out} holds results and no settings.json; give another --out")
    shutil.rmtree(asked.out / "data", ignore_errors=True)
    lay_out_pairs(lay_out(asked.data, asked.out / "data"))
    _keep_models(asked)
    kept.write_text(json.dumps(now, indent=1))  # last: now all is there


def _keep_models(asked: EmojiScorecard) -> None:
    """The weights as they are now, and the same model with weights as they are drawn, with their vocabulary."""
    from evaluated import loaded_model, tokenizer_of

    from torchflava.models import save_pretrained
    from torchflava.training import initialise
    from torchflava.transforms import save_tokenizer

    subject = Subject(asked.model)
    model, tokenizer = loaded_model(subject), tokenizer_of(subject)
    if tokenizer is None:
        raise ValueError(f"--model {asked.model} has no vocabulary beside it; put its vocab.txt there")
    for which in ("trained", _DRAWN):
        folder = asked.out / "models" / which
        folder.mkdir(parents=True, exist_ok=True)
        if which == _DRAWN:
            initialise(model, seed=0)
        save_pretrained(model, folder)
        save_tokenizer(tokenizer, folder)


def _settings(asked: EmojiScorecard) -> dict[str, Any]:
    """What numbers depend on."""
    place = Path(asked.model)
    file = place / "model.safetensors" if place.is_dir() else place
    if file.is_file():
        with file.open("rb") as weights:
            told = f"{file.name}, sha256 {hashlib.file_digest(weights, 'sha256').hexdigest()[:16]}"
    else:
        from kept import where_checkpoints_lie

        from torchflava.training import best_checkpoint, last_checkpoint

        where = where_checkpoints_lie(_config(place), place)
        told = str(best_checkpoint(where) or last_checkpoint(where))
    names = ("steps", "batch_size", "lr", "max_iter", "rerank")
    return {
        "model": str(place.resolve()),
        "weights": told,
        "data": str(asked.data.resolve()),
        "name": columns(asked).trained,
        **{name: getattr(asked, name) for name in names},
    }


def _head(asked: EmojiScorecard) -> str:
    """Which model, how far trained, and how it was fine-tuned."""
    kept = asked.out / "settings.json"
    settings = json.loads(kept.read_text()) if kept.exists() else _settings(asked)
    told = f"{settings['name']}: {settings['weights']}"
    if kind_of(Path(asked.model)) == "pretraining":
        config = _config(Path(asked.model))
        told += f", of a run of {config.steps} steps by `--preset {config.preset}`"
    tuned = f"{settings['steps']} steps of {settings['batch_size']} at {settings['lr']:g}"
    return f"{told}; fine-tuned for {tuned}; probes by at most {settings['max_iter']} iterations."


def _config(folder: Path) -> Any:
    from export import read_config

    return read_config(folder / "config.json")


def _complaint(asked: EmojiScorecard) -> str:
    for name in ("steps", "batch_size", "max_iter", "threads"):
        if getattr(asked, name) < 1:
            return f"--{name.replace('_', '-')} {getattr(asked, name)} must be 1 or more"
    if asked.rerank and asked.rerank < 10:
        return f"--rerank {asked.rerank} must be 10 or more, or 0"
    if not Path(asked.model).exists():
        return f"--model {asked.model} is not there"
    if asked.only_table and not any(asked.out.glob("*/results.json")):
        return f"--only-table: {asked.out} holds no results; run without it first"
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
