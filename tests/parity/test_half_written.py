"""Folders for others whose writing stops between any two files: read as the old one, as the new one, or not at all."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import VOCAB_SIZE, clip_pretraining, one_width
from torch import nn

from torchflava.convert import main as convert
from torchflava.models import clip_to_open_clip, from_pretrained, save_pretrained, to_transformers
from torchflava.transforms import WordPiece
from torchflava.transforms.tokenizer import tokenizer_beside

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
Read = Callable[[Path], tuple[float, str]]


def words(letter: str) -> WordPiece:
    return WordPiece.from_tokens([*SPECIAL, *(f"{letter}{i}" for i in range(VOCAB_SIZE - len(SPECIAL)))])


def sign(model: nn.Module) -> float:
    """One number of a model's text embedding, by which it is known."""
    state = model.state_dict()
    return float(
        next(state[name].flatten()[0] for name in sorted(state) if "word" in name or "token_embedding" in name)
    )


def by_transformers(kind: str) -> Read:
    def read(folder: Path) -> tuple[float, str]:
        model = getattr(transformers, kind).from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        return sign(model), tokenizer.convert_ids_to_tokens(len(SPECIAL))

    return read


def by_us(folder: Path) -> tuple[float, str]:
    model, tokenizer = from_pretrained(folder), tokenizer_beside(folder)
    return sign(model), "" if tokenizer is None else tokenizer.tokens[len(SPECIAL)]


def stopping(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Before the first file of the folder is taken away or put there, before the second, and so on until all are."""
    for most in range(99):
        done = 0

        def counted(was: Callable[..., object], place: Callable[..., Path]) -> Callable[..., object]:
            def call(*args: object, **options: object) -> object:
                nonlocal done
                if place(*args).parent == folder:
                    if done == most:  # noqa: B023  # called before `most` goes on
                        raise OSError("the disk is gone")
                    done += 1
                return was(*args, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", counted(Path.replace, lambda _, to: Path(to)))
            patch.setattr(Path, "unlink", counted(Path.unlink, lambda self: self))
            yield
        if done < most:
            return


def of_flava(folder: Path, seed: int) -> None:
    to_transformers(one_width(seed), folder, tokenizer=words("ab"[seed]))


def of_clip(folder: Path, seed: int) -> None:
    to_transformers(clip_pretraining(seed), folder, tokenizer=words("ab"[seed]))


def of_open_clip(folder: Path, seed: int) -> None:
    clip_to_open_clip(clip_pretraining(seed), folder, end_id=3)


def of_convert(folder: Path, seed: int) -> None:
    source = folder.with_name(f"source-{seed}")
    source.mkdir(exist_ok=True)
    save_pretrained(one_width(seed), source)
    words("ab"[seed]).save(source / "tokenizer.json")
    try:
        convert([str(source), str(folder), "--to", "torchflava", "--overwrite"])
    except SystemExit as stopped:
        raise OSError(str(stopped)) from stopped


@pytest.mark.parametrize(
    ("write", "readers"),
    [
        pytest.param(of_flava, [by_transformers("FlavaForPreTraining"), by_us], marks=pytest.mark.slow),
        pytest.param(of_clip, [by_transformers("CLIPModel"), by_us], marks=pytest.mark.slow),
        pytest.param(of_convert, [by_us], marks=pytest.mark.slow),
        (of_open_clip, [by_us]),
    ],
)
def test_a_folder_is_the_old_one_or_the_new_one_or_refused(
    write: Callable[[Path, int], None],
    readers: list[Read],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, folder, new = (tmp_path / name for name in ("old", "folder", "new"))
    write(old, 0)
    (old / "mine.txt").write_text("mine")
    write(new, 1)
    wholes = [{read(each) for each in (old, new)} for read in readers]
    assert all(len(whole) == 2 for whole in wholes)
    told: list[str] = []
    refused = 0
    for _ in stopping(monkeypatch, folder):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(old, folder)
        try:
            write(folder, 1)
        except OSError as error:
            told.append(str(error))
        for read, whole in zip(readers, wholes, strict=True):
            try:
                found = read(folder)
            except OSError:
                refused += 1
            else:
                assert found in whole
    assert len(told) == 1 + len(list(new.iterdir())), "one file taken away, and each put in its place"
    assert "half written" not in told[0]
    assert all("folder is half written (the disk is gone); write again, or move" in line for line in told[1:])
    assert refused == len(told[1:]) * len(readers)
    assert [read(folder) for read in readers] == [read(new) for read in readers]
    assert {file.name for file in folder.iterdir()} == {file.name for file in new.iterdir()} | {"mine.txt"}
    capsys.readouterr()


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model.safetensors.index.json", "model.safetensors"])
def test_no_other_weights_may_lie_there(other: str, tmp_path: Path) -> None:
    """Readers take them where those that are written are gone for a moment; transformers' and ours before open_clip's."""
    (tmp_path / other).write_bytes(b"older")
    with pytest.raises(ValueError, match=rf"{other} has weights too, which would be taken for open_clip_model"):
        of_open_clip(tmp_path, 0)
    if other != "model.safetensors":
        with pytest.raises(ValueError, match=rf"{other} has weights too, which would be taken for model\.safetensors"):
            of_flava(tmp_path, 0)
    assert [file.name for file in tmp_path.iterdir()] == [other]
    with pytest.raises(NotADirectoryError, match="is a file, and a folder is written; name another place"):
        of_flava(tmp_path / other, 0)


def test_an_error_before_all_is_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    of_flava(tmp_path / "old", 0)
    before = {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()}
    monkeypatch.setattr(WordPiece, "save", fail)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="no space left"):
            to_transformers(one_width(1), tmp_path / name, tokenizer=words("b"))
    assert {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()} == before
    assert not (tmp_path / "new").exists()
