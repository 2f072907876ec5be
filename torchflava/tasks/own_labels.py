"""Your own labelled texts, images or pairs, from a file of JSON lines or tab-separated lines."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torchflava.tasks.examples import Example, Reads, TuningTask, check_images, class_number
from torchflava.tasks.rows import Row, cell, json_rows, tsv_rows

_BELONGS = ("0", "1")
_COLUMNS = ("image", "text", "text_b", "label")


def own_task(train: Path, dev: Path, test: Path | None = None, *, images: Path | None = None) -> TuningTask:
    """A task of rows with `label` and `image`, `text` or both, or `text` and `text_b`; all rows have the same of them.

    The labels of `train` are the classes, in the order of their letters, of numbers in the order of their size.

    Args:
        train: `.jsonl`, or `.tsv` with a head.
        dev: to choose on.
        test: to measure on once, if there is one; else `dev` stands for it.
        images: the folder that `image` is seen from; that of each file unless given.

    Raises:
        ValueError: naming the file or the row that is not as it should be.
    """
    files = {"train": train, "dev": dev} | ({"test": test} if test else {})
    rows = {name: list(labelled_rows(file)) for name, file in files.items()}
    columns = [name for name in _COLUMNS if name in rows["train"][0].cells]
    if "label" not in columns or len(columns) == 1 or ("text_b" in columns and "text" not in columns):
        there = ", ".join(map(str, rows["train"][0].cells))
        raise ValueError(
            f"{train} has the columns {there}; label, and image, text or both (or text and text_b) are due"
        )
    classes = classes_of([label_of(row) for row in rows["train"]], train)
    found = {
        name: [_example(row, columns, classes, images or files[name].parent) for row in its]
        for name, its in rows.items()
    }
    for examples in found.values():
        check_images(examples)
    reads: Reads = "pair" if {"image", "text"} <= {*columns} else "image" if "image" in columns else "text"
    learnt = found.pop("train")
    metrics = ("accuracy", "mean_per_class")
    return TuningTask("own", reads, "class", classes, metrics, learnt, found, [*found][-1], {})


def own_pairs(file: Path, *, images: Path | None = None) -> list[Example]:
    """Pairs of `image` and `text` with the `label` 1 where they belong together and 0 where they do not.

    Args:
        file: `.jsonl`, or `.tsv` with a head.
        images: the folder that `image` is seen from; the file's unless given.

    Raises:
        ValueError: naming the file or the row that is not as it should be.
    """
    found = [_example(row, ("image", "text"), _BELONGS, images or file.parent) for row in labelled_rows(file)]
    if len({one.target for one in found}) < len(_BELONGS):
        raise ValueError(f"all rows of {file} have the label {found[0].target}; pairs of both kinds are due, 0 and 1")
    check_images(found)
    return found


def labelled_rows(file: Path) -> Iterator[Row]:
    """The rows of a `.jsonl`, or a `.tsv` with a head; at least one.

    Raises:
        ValueError: naming the file, if it is neither, is not there or is empty.
    """
    readers = {".jsonl": json_rows, ".tsv": tsv_rows}
    if file.suffix not in readers or not file.is_file():
        told = "is not there" if file.suffix in readers else "is neither .jsonl nor .tsv"
        raise ValueError(f"{file} {told}; name a file with a row for each sample")
    found = False
    for row in readers[file.suffix](file):
        found = True
        yield row
    if not found:
        raise ValueError(f"{file} holds no row; name a file with a row for each sample")


def label_of(row: Row) -> str:
    """The name, or the number, of a row's class.

    Raises:
        ValueError: naming a row without one.
    """
    told = row.cells.get("label")
    if not isinstance(told, str | int) or not str(told).strip():
        raise ValueError(f"{row.key} has the label {told!r}; the name or the number of a class is due")
    return str(told)


def classes_of(labels: Sequence[str], file: Path) -> tuple[str, ...]:
    """The labels that occur, in the order of their letters, of numbers in the order of their size.

    Raises:
        ValueError: naming the file, if there is one alone.
    """
    names = {*labels}
    if len(names) < 2:
        raise ValueError(f"all rows of {file} have the label {labels[0]!r}; two classes at least are to be told apart")
    return tuple(sorted(names, key=int if all(name.isdecimal() for name in names) else str))


def _example(row: Row, columns: Sequence[str], classes: Sequence[str], images: Path) -> Example:
    told = {name: cell(row, name) if name in columns else None for name in _COLUMNS[:3]}
    image = images / told["image"] if told["image"] else None
    return Example(row.key, told["text"], told["text_b"], image, class_number(label_of(row), classes, row.key))
