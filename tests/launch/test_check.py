"""A recipe looks at its own words before a job is made of them, with the files only where the job will see this machine's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from torchflava.launch.check import check

ROOT = Path(__file__).parents[2]
PRETRAIN, CODES = (str(ROOT / "recipes" / name) for name in ("pretrain.py", "data/codes.py"))


def ended(script: str, words: list[str], *, here: bool, ranks: tuple[int, ...] = (1,)) -> int | None:
    """The code that the check ends the program with; None where it lets it go on."""
    try:
        check(script, words, here=here, ranks=ranks)
    except SystemExit as end:
        return int(end.code or 0)
    return None


@pytest.mark.parametrize(
    ("script", "words", "here", "code", "said"),
    [
        (PRETRAIN, ["--preset", "tiny", "--steps", "3"], True, None, ""),
        (PRETRAIN, ["--stepz", "3"], False, 2, "--steps"),
        (PRETRAIN, ["--mask-rate", "1.5"], False, 2, "--mask-rate 1.5 must be at least 0 and below 1"),
        (PRETRAIN, ["--vocab", "/nowhere/vocab.txt"], True, 2, "/nowhere/vocab.txt is not there"),
        (PRETRAIN, ["--vocab", "/nowhere/vocab.txt"], False, None, ""),
        (PRETRAIN, ["--corpus", "emoji", "--data", "/nowhere"], False, None, ""),
        (PRETRAIN, ["--resume", "/nowhere"], False, None, ""),
        (PRETRAIN, ["--help"], False, 0, "--patch-mask-rate"),
        (CODES, ["data", "--codebook", "/nowhere/codebook"], False, None, ""),
        (CODES, ["data", "--codebook", "/nowhere/codebook"], True, 2, "/nowhere/codebook is not there"),
        (CODES, ["data", "--codebook", "c", "--crops", "0"], False, 2, "--crops 0 must be 1 or more"),
    ],
)
def test_words_are_looked_at(
    script: str, words: list[str], here: bool, code: int | None, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended(script, words, here=here) == code
    out, err = capfd.readouterr()
    assert said in " ".join((out + err).split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("size", "ranks", "said"),
    [
        ("8160", (16, 24), ""),
        ("8192", (16, 32), ""),
        ("8192", (16, 24), "8192 is no multiple of 24 ranks, and the job may have 16 or 24, .* 8160 or 8208 suits all"),
        ("8192", (16, 24, 32), "no multiple of 24 ranks, and the job may have 16, 24 or 32, .* 8160 or 8256 suits all"),
        ("7", (2, 3, 4), "7 is no multiple of 2, 3 or 4 ranks, .*; --batch-size 12 suits all"),
        ("8", (3,), "--batch-size 8 is no multiple of 3, the number of ranks, .*; --batch-size 6 or 9 is"),
    ],
)
def test_a_batch_that_the_ranks_cannot_share_is_refused(
    size: str, ranks: tuple[int, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = ended(PRETRAIN, ["--preset", "tiny", "--batch-size", size], here=False, ranks=ranks)
    out, err = capfd.readouterr()
    assert code == (2 if said else None)
    assert re.search(said, " ".join((out + err).split()))


def test_a_check_gets_what_it_asks_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "own.py"
    for asked in ("here", "ranks, here"):
        script.write_text(f"def check(words, *, {asked}):\n    raise SystemExit(str(({asked})))\n")
        assert ended(str(script), [], here=True, ranks=(4, 6)) == 2
    assert capfd.readouterr().err.splitlines() == ["True", "([4, 6], True)"]


def test_a_script_without_a_check_is_not_run(tmp_path: Path) -> None:
    script, trace = tmp_path / "own.py", tmp_path / "trace"
    for text in (
        f"open({str(trace)!r}, 'w')",
        "def check(",
        "class A:\n    def check(self): pass",
        "def check(x): 1 / 0",
    ):
        script.write_text(text)
        assert ended(str(script), ["--anything"], here=True) is None
    assert ended(str(tmp_path / "in-the-image-only.py"), [], here=False) is None
    assert not trace.exists()


def test_a_check_that_has_an_error_of_its_own_shows_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "own.py"
    script.write_text("def check(words, *, here):\n    raise KeyError(words[0])\n")
    assert ended(str(script), ["a word"], here=True) == 2
    assert "KeyError: 'a word'" in capfd.readouterr().err


def test_a_machine_that_lacks_a_package_leaves_it_to_the_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "own.py"
    script.write_text("def check(words, *, here):\n    import not_there\n")
    assert ended(str(script), ["--anything"], here=True) is None
    assert "looked at by the job alone: No module named 'not_there'" in capfd.readouterr().err


def test_nothing_is_launched_after_a_wrong_word() -> None:
    torchx = str(Path(sys.executable).parent / "torchx")
    for scheduler in ("local_cwd", "slurm"):
        line = [torchx, "run", "-s", scheduler, "--dryrun", "recipes/pretrain.py", "--", "--stepz", "3"]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2
        assert "--steps" in done.stdout + done.stderr
        assert "torchflava.launch.torchrun" not in done.stdout


def test_fine_tuning_has_its_ranks_share_each_batch_of_a_search(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--task", "sst2", "--model", "runs/first", "--batch-size", "32"]
    finetune = PRETRAIN.replace("pretrain", "finetune")
    assert ended(finetune, words, here=False, ranks=(2, 4)) is None
    assert ended(finetune, words, here=False, ranks=(3,)) == 2
    assert "--batch-size 32 is no multiple of 3, the number of ranks" in capfd.readouterr().err
    searched = ["--search", "--search-batch", "16", "24"]
    assert ended(finetune, [*words, *searched], here=False, ranks=(8,)) is None
    assert ended(finetune, [*words, *searched], here=False, ranks=(16,)) == 2
    assert "--batch-size 24 is no multiple of 16" in capfd.readouterr().err
