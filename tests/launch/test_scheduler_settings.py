"""A scheduler's settings in `.torchxconfig`: what is misspelt there is refused as it is after `-cfg`."""

from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., int]


@pytest.mark.parametrize(
    ("scheduler", "line", "told"),
    [
        ("slurm", "partitoin = gpu", "partitoin: slurm has no such setting; did you mean partition?"),
        ("slurm", "mail_user = me", "mail_user: slurm has no such setting; did you mean mail-user?"),
        ("slurm", "xyz = None", "xyz: slurm has no such setting; it has partition, time, "),
        ("slurm", "Partition = gpu", "Partition: slurm has no such setting; did you mean partition?"),
        ("local_cwd", "partition = gpu", "partition: local_cwd has no such setting; it has log_dir, "),
        ("kubernetes", "grace = ten", "grace = ten: write a value of kind int, see `torchx runopts kubernetes` ("),
        ("local_cwd", "prepend_cwd = maybe", "prepend_cwd = maybe: write a value of kind bool, see `torchx runopts"),
        ("slurm", "comment = 50%", "comment: write %% for a % ("),
    ],
)
def test_a_wrong_line_is_one_error(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], scheduler: str, line: str, told: str
) -> None:
    (tmp_path / "config").write_text(f"[{scheduler}]\n{line}\n")
    assert (
        run("-s", scheduler, "--dryrun", "mine.py", *(["--image", "a/b:1"] if scheduler == "kubernetes" else [])) == 2
    )
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"torchx run: error: {tmp_path / 'config'}, [{scheduler}] {told}")


def test_the_value_that_is_wrong_is_named(run: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config").write_text("[kubernetes]\nnamespace = ml\nfs_group = one\ngrace = ten\n")
    assert run("-s", "kubernetes", "--dryrun", "mine.py", "--image", "a/b:1") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "[kubernetes] fs_group = one: " in error


def test_each_file_is_looked_at(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / ".torchxconfig").write_text("[slurm]\npartition = gpu\n")
    (tmp_path / "home" / ".torchxconfig").write_text("[slurm]\nqso = long\n")
    monkeypatch.delenv("TORCHXCONFIG")
    monkeypatch.setattr("torchx.runner.config.DEFAULT_CONFIG_DIRS", [str(tmp_path / "home"), str(tmp_path)])
    assert run("-s", "slurm", "--dryrun", "mine.py") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/home/.torchxconfig, [slurm] qso: slurm has no such setting; did you mean qos?" in error


def test_other_schedulers_sections_are_not_looked_at(
    run: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[DEFAULT]\ngrace = ten\n[kubernetes]\nfs_group = one\npartitoin = gpu\n[slurm]\npartition = gpu\n"
    (tmp_path / "config").write_text(text)
    assert run("-s", "slurm", "--dryrun", "mine.py") == 0
    assert "#SBATCH --partition=gpu" in capsys.readouterr().out


def test_the_list_reads_the_configuration_too(
    torchx: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text("[kubernetes]\ngrace = ten\n")
    assert torchx("list", "-s", "kubernetes") == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"torchx list: error: {tmp_path / 'config'}, [kubernetes] grace = ten: ")
