"""VQAv2 (Goyal et al. 2017) as classification over the frequent answers, with soft targets (paper §4.2 and appendix C).

An answer is one that was given to at least nine questions of train and val, as the answer most people agree on, in the official
spelling: 3,129 of them. What an answer is worth is the official metric's share of ten people, .3, .6, .9 or 1; answers beyond
the 3,129 are worth nothing here, and a question may have no target at all.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from torchflava.evaluation import normalise_answer, vqa_targets
from torchflava.tasks.examples import Example, TuningTask, check_images
from torchflava.tasks.places import Needed, check_there

LEAST = 9
"""Questions that an answer must have been given to."""
_HELD = 1000  # images of val
_PAGE = "{} of visualqa.org/download.html, unpacked"
_IMAGES = "{}.zip of cocodataset.org, unpacked"
_ASKED = {"test": "test2015", "test-dev": "test-dev2015"}


class _Said(NamedTuple):
    """What people answered to a question."""

    most: str
    """Of them."""
    by_each: list[str]


def vqa_task(root: Path, *, least: int = LEAST, with_val: bool = False) -> TuningTask:
    """The task, from `vqav2/` (questions and annotations) and `coco/` (images, or `vqav2/` too) below `root`.

    Test questions are read where they are there; their images are those of test2015.

    Args:
        root: of all tasks' data.
        least: how often an answer must be given.
        with_val: learn from val too, as is done for numbers of the test server, but for what is asked about 1,000 of its
            images, drawn by a hash of their names: on those it is measured, and called held_out.

    Raises:
        MissingData: naming the file that is missing, where it comes from and where to put it.
        ValueError: naming the file or the question that is not as it should be.
    """
    check_there("vqav2", root, [need for year in ("train2014", "val2014") for need in _needed(year)])
    folder = root / "vqav2"
    told = {year: _annotations(folder / f"v2_mscoco_{year}_annotations.json") for year in ("train2014", "val2014")}
    answers = vocabulary([said.most for rows in told.values() for said in rows.values()], least)
    if not answers:
        raise ValueError(f"no answer in {folder} is given to {least} questions or more; fetch the annotations again")
    train, val = (_labelled(root, year, told[year], answers) for year in ("train2014", "val2014"))
    asked = {name: _questions(root, year) for name, year in _ASKED.items() if _file_of(root, year).is_file()}
    measured = {"val": val}
    if with_val:
        held = _held_out(val)
        train = [*train, *(one for one in val if one.image not in held)]
        measured = {"held_out": [one for one in val if one.image in held]}
    return TuningTask("vqav2", "pair", "answers", answers, ("vqa_accuracy",), train, measured, "val", asked)


def vocabulary(answers: Sequence[str], least: int) -> tuple[str, ...]:
    """Answers as people gave them -> the normalised ones that occur so often, the most frequent first, then by letters."""
    counts = Counter(map(normalise_answer, answers))
    return tuple(sorted((a for a, count in counts.items() if count >= least and a), key=lambda a: (-counts[a], a)))


def submission(asked: Sequence[Example], answers: Sequence[str]) -> list[dict[str, Any]]:
    """What VQAv2's test server takes: question_id and answer of each question."""
    return [{"question_id": int(one.key), "answer": answer} for one, answer in zip(asked, answers, strict=True)]


def _held_out(val: Sequence[Example]) -> set[Path | None]:
    """1,000 images, or half of them where there are fewer; the same wherever they lie."""
    images = {one.image for one in val}
    order = sorted(images, key=lambda image: sha256(f"vqav2/{image and image.name}".encode()).digest())
    return {*order[: min(_HELD, -(-len(order) // 2))]}


def _labelled(root: Path, year: str, told: Mapping[int, _Said], answers: Sequence[str]) -> list[Example]:
    number = {answer: at for at, answer in enumerate(answers)}
    found = []
    for question in _questions(root, year):
        if (said := told.get(int(question.key))) is None:
            raise ValueError(f"question {question.key} of {year} has no annotation; fetch both files of {year} again")
        worth = vqa_targets(said.by_each)
        target = tuple((number[answer], value) for answer, value in worth.items() if answer in number and value)
        found.append(question._replace(target=target))
    return found


def _questions(root: Path, year: str) -> list[Example]:
    file = _file_of(root, year)
    images = "test2015" if year.startswith("test") else year
    folder = next((f for f in (root / "coco" / images, root / "vqav2" / images) if f.is_dir()), root / "coco" / images)
    found = [
        Example(
            str(row["question_id"]), row["question"], None, folder / f"COCO_{images}_{row['image_id']:012d}.jpg", None
        )
        for row in _rows(file, "questions", {"question_id": int, "image_id": int, "question": str})
    ]
    check_images(found, f"{file}: question ")
    return found


def _annotations(file: Path) -> dict[int, _Said]:
    """By the question's number; of gigabytes of Python's objects, what is needed."""
    rows = _rows(file, "annotations", {"question_id": int, "answers": list, "multiple_choice_answer": str})
    for number, row in enumerate(rows):
        if not all(isinstance(one, dict) and isinstance(one.get("answer"), str) for one in row["answers"]):
            raise ValueError(f"{file}, annotations {number} has answers that are no texts; unpack its archive again")
    return {
        row["question_id"]: _Said(row["multiple_choice_answer"], [one["answer"] for one in row["answers"]])
        for row in rows
    }


def _rows(file: Path, what: str, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(file.read_bytes())[what]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} holds no list of {what} ({error!r}); unpack its archive again") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file} holds no {what}; unpack its archive again")
    for number, row in enumerate(rows):
        told = row if isinstance(row, dict) else {}
        if lacking := [name for name, kind in fields.items() if not isinstance(told.get(name), kind)]:
            raise ValueError(f"{file}, {what} {number} has no {', '.join(lacking)}; unpack its archive again")
    return rows


def _file_of(root: Path, year: str) -> Path:
    return root / "vqav2" / f"v2_OpenEnded_mscoco_{year}_questions.json"


def _needed(year: str) -> list[Needed]:
    word = year.removesuffix("2014").capitalize()
    return [
        Needed(f"vqav2/v2_OpenEnded_mscoco_{year}_questions.json", _PAGE.format(f"v2_Questions_{word}_mscoco.zip")),
        Needed(f"vqav2/v2_mscoco_{year}_annotations.json", _PAGE.format(f"v2_Annotations_{word}_mscoco.zip")),
        Needed(f"coco/{year}|vqav2/{year}", _IMAGES.format(year)),
    ]
