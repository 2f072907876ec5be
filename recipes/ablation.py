"""The paper's comparison of what FLAVA is made of (table 4), at a laptop's size: `python recipes/ablation.py --data data/emoji`.

Each row is a run of recipes/pretrain.py under its preset, all with the same model, vocabulary, codebook, samples and steps. What
`flava` starts from is pretrained here too, by `mim_only` and `text_stage1`. The same command again goes on where it was.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

import matplotlib
import tyro
from child import run
from corpora import open_corpus, save_corpus
from own import Own
from plot import Curve, curves, draw, log_of
from presets import Config, as_json, needs_codes, parse, presets, shaping

from torchflava.training import differences

matplotlib.use("Agg")

STAGE_ONE = ("mim_only", "text_stage1")
"""Of the image and of the text encoder."""
ROWS = ("flava_c", "flava_mm", "flava_no_init", "flava")
"""Columns 3 to 6 of table 4."""
_DRAWN = ("--init-image=", "--init-text=")
"""For a run whose first weights are drawn."""


@dataclass(frozen=True)
class Ablation:
    """Compare the contrastive loss alone, all multimodal losses, all losses, and all losses after stage one."""

    folder: Path = Path("runs/ablation")
    """Of the runs, the table `ablation.md` and the figure `ablation.png`."""
    corpus: Literal["emoji", "scenes"] = "emoji"
    data: str = "data/emoji"
    """The folder that recipes/data/emoji.py wrote; scenes need none."""
    rows: tuple[str, ...] = ROWS
    """Presets to compare."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each row is run once with each; stage one once, with the first."""
    model: str = "mini"
    steps: int = 900
    """Of every run, stage one's too."""
    batch_size: int = 128
    measure_every: int = 300
    """Steps between two points of the curves of what is measured."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 is the faster one where processors have instructions for it (AVX-512 BF16, AMX)."""
    procs: int = 1
    """Processes of a run."""
    only_table: bool = False
    """Run nothing; write table and figure of the runs that are complete."""


class Job(NamedTuple):
    """A run to be made."""

    row: str
    seed: int
    first: tuple[str, ...]
    """The words that say where its first weights come from."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}-{self.seed}"


def main(words: Sequence[str]) -> None:
    """Make what runs are missing, then table and figure."""
    asked = tyro.cli(Ablation, args=list(words), prog="ablation.py")
    complaint = _complaint(asked) or made_otherwise(asked)
    if complaint:
        sys.exit(f"ablation.py: {complaint}")
    for job in () if asked.only_table else jobs(asked):
        if not _is_complete(asked.folder / job.name):
            _learn_basis(asked)
            print(f"== {job.name}", flush=True)
            code = run(command(asked, job))
            if code:
                sys.exit(code)  # as the run said; the same command goes on with it
    runs = {row: [asked.folder / f"{row}-{seed}" for seed in asked.seeds] for row in asked.rows}
    complete = {row: [folder for folder in folders if _is_complete(folder)] for row, folders in runs.items()}
    finished = {row: folders for row, folders in complete.items() if folders}
    if not finished:
        sys.exit(f"ablation.py: no run in {asked.folder} is complete")
    text = table(finished)
    (asked.folder / "ablation.md").write_text(text)
    figure = draw({row: mean_curves(folders) for row, folders in finished.items()}, smooth=3)
    figure.savefig(asked.folder / "ablation.png", dpi=90)
    print(f"\n{text}\nIn {asked.folder}: ablation.md, ablation.png.")


def jobs(asked: Ablation) -> Iterator[Job]:
    """All runs, each after what it starts from; one seed of all rows before the next."""
    first = _DRAWN
    if any(presets()[row]().init_image for row in asked.rows):
        image, text = (Job(row, asked.seeds[0], _DRAWN) for row in STAGE_ONE)
        first = ("--init-image", str(asked.folder / image.name), "--init-text", str(asked.folder / text.name))
        yield from (image, text)
    for seed in asked.seeds:
        for row in asked.rows:
            yield Job(row, seed, first if presets()[row]().init_image else _DRAWN)


def command(asked: Ablation, job: Job) -> list[str]:
    """The command that makes a run, or goes on with it."""
    script, words = str(Path(__file__).with_name("pretrain.py")), words_of(asked, job)
    if asked.procs == 1:
        return [sys.executable, script, *words]
    torchrun = ["-m", "torchflava.launch.torchrun", "--standalone", "--nproc-per-node", str(asked.procs)]
    return [sys.executable, *torchrun, script, *words]


def words_of(asked: Ablation, job: Job) -> list[str]:
    """A run's settings: the preset, and what must be smaller than the paper's."""
    preset, basis = presets()[job.row](), asked.folder / "basis"
    settings = _settings(asked)
    words = ["--preset", job.row, "--corpus", asked.corpus, "--data", asked.data, "--pairs", "--images", "--texts"]
    for name in ("model", "image_size", "patch_size", "code_size", "num_codes", "vocab_size", "max_length"):
        words += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    words += ["--text-length", "0", "--vocab", str(basis / "vocab.txt")]
    words += ["--codebook", str(basis / "codebook.safetensors") if needs_codes(preset) else ""]
    warmup = asked.steps * preset.warmup_steps // preset.steps
    words += ["--steps", str(asked.steps), "--warmup-steps", str(warmup), "--batch-size", str(asked.batch_size)]
    words += ["--precision", asked.precision, "--measure-every", str(asked.measure_every), "--threads", "1"]
    words += ["--log-every", "10", "--save-every", str(max(1, asked.steps // 9)), "--seed", str(job.seed)]
    words += [*job.first, "--folder", str(asked.folder), "--name", job.name]
    return words


def made_otherwise(asked: Ablation) -> str:
    """What lies in the folder of the runs asked for, but was made with other settings; empty if nothing."""
    kept = asked.folder / "basis" / "settings.json"
    made = [(kept.parent, _read(kept), _of_basis(asked))] if kept.exists() else []
    for job in jobs(asked):
        result = asked.folder / job.name / "result.json"
        if result.exists():
            made.append(
                (result.parent, _read(result).get("config", {}), shaping(parse(words_of(asked, job), places=False)))
            )
    for folder, was, now in made:
        told = differences(was, now)
        if told:
            return f"{folder} was made with other settings: {told}; give those, or another --folder"
    return ""


def table(finished: Mapping[str, Sequence[Path]]) -> str:
    """Each reading of each row, mean and standard deviation over the seeds, in Markdown."""
    found = {row: [_readings(folder) for folder in folders] for row, folders in finished.items()}
    chance: dict[str, float] = {}
    for runs in found.values():
        chance = {name: reading["chance"] for run in runs for name, reading in run.items()} | chance
    lines = ["| | " + " | ".join(f"`{row}`" for row in found) + " | chance |", "|---|" + "---:|" * (len(found) + 1)]
    for name, guess in chance.items():
        values = [[run[name]["value"] for run in runs if name in run] for runs in found.values()]
        lines.append(f"| {name} | " + " | ".join(map(_told, values)) + f" | {guess:.3f} |")
    seeds = " and ".join(sorted({str(len(folders)) for folders in finished.values()}))
    return "\n".join(lines) + f"\n\nMean ± standard deviation over {seeds} seeds.\n"


def mean_curves(folders: Sequence[Path]) -> dict[str, Curve]:
    """Each loss and reading of the runs' logs that moves, averaged over the runs at the steps that all have."""
    logs = [curves(log_of(folder)) for folder in folders]
    found = {}
    for name in logs[0]:
        if all(name in log for log in logs):
            at = [dict(zip(log[name].steps, log[name].values, strict=True)) for log in logs]
            steps = [step for step in logs[0][name].steps if all(step in one for one in at)]
            found[name] = Curve(steps, [mean(one[step] for one in at) for step in steps])
    moving = {name for name, curve in found.items() if len({*curve.values}) > 1 and not name.startswith("step/")}
    return {name: curve for name, curve in found.items() if name in moving}


def _settings(asked: Ablation) -> Config:
    """Where sizes come from that are not the paper's."""
    return replace(presets()[asked.corpus](), data=asked.data, model=asked.model, own=Own())


def _learn_basis(asked: Ablation) -> None:
    """The vocabulary and the codebook of all runs, learnt once."""
    basis = asked.folder / "basis"
    if not (basis / "settings.json").exists():
        basis.mkdir(parents=True, exist_ok=True)
        save_corpus(open_corpus(_settings(asked)), basis)
        (basis / "settings.json").write_text(json.dumps(_of_basis(asked), indent=1))  # last: now it is whole


def _of_basis(asked: Ablation) -> dict[str, Any]:
    """What vocabulary and codebook depend on."""
    names = ("corpus", "image_size", "patch_size", "code_size", "num_codes", "vocab_size", "seed")
    settings = as_json(_settings(asked))
    data = {"data": str(Path(asked.data).resolve())} if asked.corpus == "emoji" else {}
    return {name: settings[name] for name in names} | data


def _is_complete(folder: Path) -> bool:
    return (folder / "result.json").exists()


def _readings(folder: Path) -> dict[str, dict[str, float]]:
    readings: dict[str, dict[str, float]] = _read(folder / "result.json")["readings"]
    return readings


def _read(file: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(file.read_text())
    return told


def _told(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _complaint(asked: Ablation) -> str:
    unknown = [row for row in asked.rows if row not in presets()]
    if unknown or not asked.rows:
        return f"--rows {' '.join(unknown)} are no presets; there are {', '.join(presets())}"
    for row in asked.rows:
        config = presets()[row]()
        if config.init_image and config.image_encoder != presets()[STAGE_ONE[0]]().image_encoder:
            return f"--rows {row} begins with a {config.image_encoder} image encoder, and stage one here makes none; leave it out"
    if not asked.seeds or len(set(asked.seeds)) < len(asked.seeds):
        return f"--seeds {' '.join(map(str, asked.seeds))} must be one or more different numbers"
    if asked.steps < 15 or asked.procs < 1:
        return (
            f"--steps {asked.steps} must be 15 or more, for a warm-up to be left, and --procs {asked.procs} 1 or more"
        )
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
