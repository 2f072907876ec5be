"""Small copies of the fine-tuning tasks' data in the layouts of what their pages offer, unpacked.

Positive, acceptable, entailed, hateful or equivalent is what says "good" (or shows red), so that it can be learnt.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from made_tasks import MADE, lines, picture

WORDS = ("good", "bad", "film", "the", "a", "dog", "runs", "red", "what", "colour", "is", "it", "not", "so", '"', "é")


def sentence(number: int, positive: bool) -> str:
    """A sentence that no other number has the same words of, with a quotation mark that no one closes and an odd line break."""
    extra = " ".join(WORDS[2 + (number + step) % (len(WORDS) - 2)] for step in range(2 + number % 3))
    return f'the film is {"good" if positive else "bad"} "\u2028{extra}'


def tsv(path: Path, head: str, rows: Sequence[Sequence[object]]) -> None:
    """A file of GLUE's: tabs, no quoting."""
    told = ([head] if head else []) + ["\t".join(map(str, row)) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in told).encode())


def cola(root: Path) -> None:
    for split, num in (("train", 8), ("dev", 5)):
        rows = [("gj04", n % 2, "" if n % 2 else "*", sentence(n, n % 2 == 1)) for n in range(num)]
        tsv(root / f"glue/CoLA/{split}.tsv", "", rows)


def sst2(root: Path) -> None:
    for split, num in (("train", 16), ("dev", 6)):
        tsv(root / f"glue/SST-2/{split}.tsv", "sentence\tlabel", [(sentence(n, n % 2 == 1), n % 2) for n in range(num)])


def mrpc(root: Path) -> None:
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    for split, num in (("train", 8), ("dev", 5)):
        rows = [(n % 2, 100 + n, 200 + n, sentence(n, True), sentence(n + 1, n % 2 == 1)) for n in range(num)]
        tsv(root / f"glue/MRPC/{split}.tsv", f"\ufeff{head}", rows)  # as msr_paraphrase_train.txt begins


def qqp(root: Path) -> None:
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    for split, num in (("train", 1200), ("dev", 5)):
        rows: list[Sequence[object]] = [
            (n, n, n + 9, sentence(n, True) if n != 3 else "", sentence(n, n % 2 == 1), n % 2) for n in range(num)
        ]
        torn: list[Sequence[object]] = [(n, n, n + 9, "how do i") for n in range(split == "train")]
        tsv(root / f"glue/QQP/{split}.tsv", head, rows[:7] + torn + rows[7:])


def stsb(root: Path) -> None:
    head = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    for split, num in (("train", 8), ("dev", 5)):
        rows = [
            (
                n,
                "main",
                "MSRvid",
                "2012",
                n,
                "none",
                "none",
                sentence(n, True),
                sentence(n, n % 2 == 1),
                f"{n % 6 / 1.25:.3f}",
            )
            for n in range(num)
        ]
        tsv(root / f"glue/STS-B/{split}.tsv", head, rows)


def mnli(root: Path) -> None:
    names = ("entailment", "neutral", "contradiction")
    parses = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
    for split, num in (("train", 9), ("dev_matched", 5), ("dev_mismatched", 4)):
        votes = ["label1"] if split == "train" else [f"label{n}" for n in range(1, 6)]
        labels = "\t".join([*votes, "gold_label"])
        rows = []
        for n in range(num):
            told = (
                n,
                n,
                f"{n}n",
                "fiction",
                "( a )",
                "( b )",
                "(ROOT a)",
                "(ROOT b)",
                sentence(n, True),
                sentence(n, n % 3 == 0),
            )
            rows.append((*told, *["neutral"] * len(votes), names[n % 3]))
        tsv(
            root / f"glue/MNLI/{split}.tsv",
            f"index\tpromptID\tpairID\tgenre\t{parses}\tsentence1\tsentence2\t{labels}",
            rows,
        )


def qnli(root: Path) -> None:
    _entailed(root / "glue/QNLI", "index\tquestion\tsentence\tlabel")


def rte(root: Path) -> None:
    _entailed(root / "glue/RTE", "index\tsentence1\tsentence2\tlabel")


def _entailed(folder: Path, head: str) -> None:
    names = ("entailment", "not_entailment")
    for split, num in (("train", 8), ("dev", 5)):
        rows = [(n, sentence(n, True), sentence(n, n % 2 == 0), names[n % 2]) for n in range(num)]
        tsv(folder / f"{split}.tsv", head, rows)


def vqav2(root: Path) -> None:
    """Two answers that are given often enough, one that is not, in the spelling of people."""
    for year, word, num in (("train2014", "train", 20), ("val2014", "val", 6)):
        questions, annotations = [], []
        for n in range(num):
            said = ["Red.", "no", "the dog"][2 if n == 5 else n % 2]
            people = [said] * (10 - n % 4) + ["a cat" if n == 5 else ["no", "Red."][n % 2]] * (n % 4)
            answers = [
                {"answer": one, "answer_confidence": "yes", "answer_id": at + 1} for at, one in enumerate(people)
            ]
            of_both = {"image_id": 9 + n % 3, "question_id": 1000 * (9 + n) + (year == "val2014")}
            questions.append({**of_both, "question": "what colour is it" if n % 2 == 0 else "is it so"})
            told = {"question_type": "what", "answer_type": "other", "multiple_choice_answer": said, "answers": answers}
            annotations.append({**of_both, **told})
            picture(root / f"coco/{year}/COCO_{year}_{9 + n % 3:012d}.jpg", n % 3)
        _json(
            root / f"vqav2/v2_OpenEnded_mscoco_{year}_questions.json",
            {"task_type": "Open-Ended", "questions": questions},
        )
        _json(root / f"vqav2/v2_mscoco_{year}_annotations.json", {"data_subtype": word, "annotations": annotations})
    asked = [{"image_id": 1, "question": "is it so", "question_id": 1000 + n} for n in range(3)]
    for split, some in (("test2015", asked), ("test-dev2015", asked[:2])):
        _json(root / f"vqav2/v2_OpenEnded_mscoco_{split}_questions.json", {"questions": some})
    picture(root / "coco/test2015/COCO_test2015_000000000001.jpg", 0)


def snli_ve(root: Path) -> None:
    names = ("entailment", "neutral", "contradiction")
    for split, num in (("train", 9), ("dev", 5), ("test", 4)):
        rows = [
            {
                "annotator_labels": [names[n % 3]], "captionID": f"{n}.jpg#0", "gold_label": names[n % 3],
                "pairID": f"{n}.jpg#0r1n", "sentence1": "not looked at", "sentence2": sentence(n, n % 3 == 0),
                "Flickr30K_ID": f"47{n % 4}",
            }
            for n in range(num)
        ]  # fmt: skip
        _jsonl(root / f"snli_ve/snli_ve_{split}.jsonl", rows)
    for n in range(4):
        picture(root / f"flickr30k/flickr30k-images/47{n}.jpg", n)


def hateful_memes(root: Path) -> None:
    """Ids with a leading zero in the file's name, as there are."""
    at = 0
    for split, num in (("train", 16), ("dev_seen", 4), ("dev_unseen", 4), ("test_seen", 4), ("test_unseen", 3)):
        rows = []
        for n in range(num):
            at += 1
            row = {"id": at, "img": f"img/{at:05d}.png", "label": n % 2, "text": sentence(n, n % 2 == 1)}
            if split == "test_unseen":
                del row["label"]
            rows.append(row)
            picture(root / f"hateful_memes/img/{at:05d}.png", n % 2)
        _jsonl(root / f"hateful_memes/{split}.jsonl", rows)


def own_pairs(folder: Path) -> None:
    """Your own pairs: red pictures with "good" are of the class yes."""
    for split, num in (("train", 16), ("dev", 4)):
        rows: list[dict[str, object]] = []
        for n in range(num):
            picture(folder / f"images/{split}{n}.png", n % 2)
            rows.append(
                {"image": f"images/{split}{n}.png", "text": sentence(n, n % 2 == 1), "label": ("no", "yes")[n % 2]}
            )
        _jsonl(folder / f"{split}.jsonl", rows)


def hub(root: Path, task: str, splits: dict[str, dict[str, list[object]]]) -> None:
    """`nyu-mll/glue` as the hub has it: a folder a task, parquet a split."""
    import pyarrow as pa
    from pyarrow import parquet

    for split, columns in splits.items():
        path = root / f"glue/{task}/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(columns), path)


def _json(path: Path, told: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


def _jsonl(path: Path, rows: Sequence[dict[str, object]]) -> None:
    lines(path, [json.dumps(row) for row in rows])


TUNING: dict[str, Callable[[Path], None]] = {
    "cola": cola, "sst2": sst2, "mrpc": mrpc, "qqp": qqp, "stsb": stsb, "mnli": mnli, "qnli": qnli, "rte": rte,
    "vqav2": vqav2, "snli_ve": snli_ve, "hateful_memes": hateful_memes, "rendered_sst2": MADE["sst"],
}  # fmt: skip
"""Makers by the task's name."""
