"""The tasks to fine-tune on, read from small copies of their real layouts."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_tuning import TUNING, hub, own_pairs, sentence
from PIL import Image

from torchflava.evaluation import vqa_accuracy
from torchflava.tasks import MissingData, score_outputs, tuning_task
from torchflava.tasks.examples import TuningTask
from torchflava.tasks.feeding import Feed
from torchflava.tasks.glue import GLUE
from torchflava.tasks.own_labels import own_task
from torchflava.tasks.pairs import write_memes
from torchflava.tasks.tuning import _SIZES, TUNING_TASKS, is_whole
from torchflava.tasks.vqa import submission, vocabulary
from torchflava.transforms import WordPiece

QUESTIONS = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "vqav2/v2_mscoco_val2014_annotations.json"
SIZES = {
    # name: train, then each split that is measured
    "cola": (8, 5),
    "sst2": (16, 6),
    "mrpc": (8, 5),
    "qqp": (1200, 5),
    "stsb": (8, 5),
    "mnli": (9, 5, 4),
    "qnli": (8, 5),
    "rte": (8, 5),
    "vqav2": (20, 6),
    "snli_ve": (9, 5, 4),
    "hateful_memes": (16, 4, 4, 4),
    "rendered_sst2": (8, 2, 4),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tuning")
    for make in TUNING.values():
        make(made)
    return made


def test_there_are_glues_eight_and_four_more() -> None:
    assert set(GLUE) == {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte"}
    assert set(TUNING_TASKS) == set(TUNING) == set(SIZES)


@pytest.mark.parametrize("name", TUNING_TASKS)
def test_each_is_read_whole(name: str, root: Path) -> None:
    task = tuning_task(name, root)
    assert (len(task.train), *(len(rows) for rows in task.measured.values())) == SIZES[name]
    reads = {"vqav2": "pair", "snli_ve": "pair", "hateful_memes": "pair", "rendered_sst2": "image"}
    assert task.reads == reads.get(name, "text")
    for example in (*task.train, *(one for rows in task.measured.values() for one in rows)):
        assert example.target is not None
        assert (example.image is not None) == (task.reads != "text")
        assert (example.text is not None) == (task.reads != "image")
    assert task.reported in task.measured


def test_columns_and_labels_are_each_tasks_own(root: Path) -> None:
    def first(name: str, at: int = 1) -> tuple[object, ...]:
        return tuning_task(name, root).train[at][1:]

    assert first("cola") == (sentence(1, True), None, None, 1)
    assert first("sst2") == (sentence(1, True), None, None, 1)
    assert first("mrpc") == (sentence(1, True), sentence(2, True), None, 1)
    assert first("qqp") == (sentence(1, True), sentence(1, True), None, 1)
    assert first("qqp", 3)[0] == ""  # some are
    assert first("stsb", 4) == (sentence(4, True), sentence(4, False), None, 3.2)
    assert first("mnli") == (sentence(1, True), sentence(1, False), None, 1)  # neutral
    assert first("qnli") == (sentence(1, True), sentence(1, False), None, 1)  # not entailed
    assert first("rte", 0) == (sentence(0, True), sentence(0, True), None, 0)
    assert first("snli_ve", 2) == (sentence(2, False), None, root / "flickr30k/flickr30k-images/472.jpg", 2)
    assert first("hateful_memes") == (sentence(1, True), None, root / "hateful_memes/img/00002.png", 1)
    assert '"' in str(first("sst2")[0])  # a quotation mark that no one closes joins no lines


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("sst2", {"sentence": ["one", "two"], "label": [0, 1], "idx": [0, 1]}),
        ("mnli", {"premise": ["one", "two"], "hypothesis": ["three", "four"], "label": [0, 2], "idx": [0, 1]}),
        ("qqp", {"question1": ["one", "two"], "question2": ["three", "four"], "label": [0, 1], "idx": [0, 1]}),
        ("stsb", {"sentence1": ["one", "two"], "sentence2": ["three", "four"], "label": [2.5, 5.0], "idx": [0, 1]}),
    ],
)
def test_the_hubs_layout_is_read_too(name: str, columns: dict[str, list[object]], tmp_path: Path) -> None:
    dev = ("validation_matched", "validation_mismatched") if name == "mnli" else ("validation",)
    hub(tmp_path, name, dict.fromkeys(("train", *dev), columns))
    task = tuning_task(name, tmp_path)
    text, second, _, target = task.train[1][1:]
    assert (text, second) == ("two", None if name == "sst2" else "four")
    assert target == columns["label"][1]
    assert all(len(rows) == 2 for rows in task.measured.values())


def test_what_datasets_saves_is_read_too(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"sentence1": ["one"], "sentence2": ["two"], "label": [1], "idx": [0]}
    dataset = datasets.Dataset.from_dict(columns)
    datasets.DatasetDict({"train": dataset, "validation": dataset}).save_to_disk(tmp_path / "glue/rte")
    assert tuning_task("rte", tmp_path).train[0][1:] == ("one", "two", None, 1)


@pytest.mark.parametrize(
    ("name", "file", "source"),
    [
        ("cola", "glue/CoLA/dev.tsv", "CoLA.zip of gluebenchmark.com"),
        ("mnli", "glue/MNLI/dev_mismatched.tsv", "MNLI.zip"),
        ("vqav2", "vqav2/v2_mscoco_val2014_annotations.json", "v2_Annotations_Val_mscoco.zip"),
        ("vqav2", "vqav2/v2_OpenEnded_mscoco_train2014_questions.json", "v2_Questions_Train_mscoco.zip"),
        ("snli_ve", "snli_ve/snli_ve_dev.jsonl", "github.com/necla-ml/SNLI-VE"),
        ("hateful_memes", "hateful_memes/train.jsonl", "hateful_memes.zip"),
        ("rendered_sst2", "rendered-sst2/test", "rendered-sst2.tgz"),
    ],
)
def test_what_is_missing_is_named_with_its_origin(name: str, file: str, source: str, tmp_path: Path) -> None:
    TUNING[name](tmp_path)
    shutil.move(tmp_path / file, tmp_path / "away")
    with pytest.raises(MissingData) as told:
        tuning_task(name, tmp_path)
    assert str(tmp_path / file) in str(told.value)
    assert source in str(told.value)


@pytest.mark.parametrize(
    ("name", "file", "was", "becomes", "told"),
    [
        ("sst2", "glue/SST-2/train.tsv", "\t1\n", "\t2\n", r"train.tsv, line 3 has the label '2'; there are 0, 1"),
        ("rte", "glue/RTE/dev.tsv", "\tentailment\n", "\tneutral\n", r"dev.tsv, line 2 has the label 'neutral'"),
        ("stsb", "glue/STS-B/train.tsv", "\t0.000\n", "\t5.1\n", r"train.tsv, line 2 has the score '5.1'; .* 0 to 5"),
        ("cola", "glue/CoLA/train.tsv", "gj04\t0\t*\t", "gj04\t0\t", r"train.tsv, line 1 has 3 cells, 4 are due"),
        ("qqp", "glue/QQP/dev.tsv", "\t0\n", "\n", r"dev.tsv, line 2 has 5 cells, 6 are due"),
        ("snli_ve", "snli_ve/snli_ve_dev.jsonl", '"neutral", "pairID"', '"-", "pairID"', r"dev.jsonl, line 2 has the label '-'"),
        ("snli_ve", "snli_ve/snli_ve_test.jsonl", '"472"', '"99"', r"test.jsonl, line 3 asks for .*/99.jpg, which is not"),
        ("hateful_memes", "hateful_memes/train.jsonl", '"label": 1', '"label": 3', r"line 2 has the label '3'"),
        ("hateful_memes", "hateful_memes/train.jsonl", "00002.png", "99.png", r"train.jsonl: meme 2 asks for .*99.png"),
        ("hateful_memes", "hateful_memes/dev_seen.jsonl", '"label": 1, ', "", r"meme 18 has no label"),
        ("hateful_memes", "hateful_memes/train.jsonl", '{"id": 2', '"id": 2', r"train.jsonl, line 2 is no JSON"),
        ("vqav2", ANNOTATIONS, '"question_id": 9001', '"question_id": 7', "9001 of val2014"),
        ("vqav2", QUESTIONS, '"image_id": 9,', '"image_id": 77,', "question 9001 asks for"),
        ("vqav2", QUESTIONS, '"questions"', '"answers"', "no list of questions"),
        ("vqav2", QUESTIONS, '"image_id": 9,', '"image_id": null,', "questions 0 has no image_id"),
        ("vqav2", ANNOTATIONS, '"answers": [', '"answers": null, "x": [', "annotations 0 has no answers"),
        ("vqav2", ANNOTATIONS, '"answers": [', '"answers": [3, ', "annotations 0 has answers that are no texts"),
        ("vqav2", ANNOTATIONS, '"answer": "', '"answer": 3, "x": "', "annotations 0 has answers that are no texts"),
        ("vqav2", ANNOTATIONS, "{", "[" * 100_000, "no list of annotations"),
        ("snli_ve", "snli_ve/snli_ve_dev.jsonl", "{", "[" * 100_000, "dev.jsonl, line 1 is no JSON"),
        ("snli_ve", "snli_ve/snli_ve_test.jsonl", "", None, "test.jsonl holds no row"),
        ("hateful_memes", "hateful_memes/train.jsonl", "", None, "train.jsonl holds no row"),
        ("hateful_memes", "hateful_memes/test_seen.jsonl", "", None, "test_seen.jsonl holds no row"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_are_named(
    name: str, file: str, was: str, becomes: str | None, told: str, tmp_path: Path
) -> None:
    """None empties the file."""
    TUNING[name](tmp_path)
    path = tmp_path / file
    before = path.read_text()
    assert was in before
    path.write_text("" if becomes is None else before.replace(was, becomes, 1))
    with pytest.raises(ValueError, match=told):
        tuning_task(name, tmp_path)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task to fine-tune on is called 'wnli'; there are cola, sst2"):
        tuning_task("wnli", ".")


def test_answers_are_those_that_are_given_often_enough_in_the_official_spelling(root: Path) -> None:
    """Of train and val together: red. and Red make one answer; the dog is said twice."""
    task = tuning_task("vqav2", root)
    assert task.classes == ("red", "no")  # 13 and 11 times
    counts = {"yes": 9, "Yes.": 3, "two": 5, "2": 4, "a dog": 8}
    assert vocabulary([word for word, times in counts.items() for _ in range(times)], 9) == ("yes", "2")


def test_soft_targets_are_the_official_shares(root: Path) -> None:
    task = tuning_task("vqav2", root)
    by_key = {one.key: one for one in task.train}
    assert by_key["9000"].target == ((0, 1.0),)  # ten say red
    for key, others in (("10000", 0.3), ("11000", 0.6), ("12000", 0.9)):  # one, two and three say the other
        own, other = sorted(by_key[key].target, key=lambda told: -told[1])
        assert own[1] == 1.0
        assert other[1] == pytest.approx(others)
    assert by_key["14000"].target == ()  # the dog is no answer, and question 5 has no other
    told = json.loads((root / "vqav2/v2_mscoco_val2014_annotations.json").read_text())["annotations"]
    said = [[one["answer"] for one in row["answers"]] for row in told]
    for number, answer in enumerate(task.classes):
        outputs = torch.full((6,), number)
        got = score_outputs(task, task.measured["val"], outputs)["vqa_accuracy"]
        assert got == pytest.approx(vqa_accuracy([answer] * 6, said))


def test_val_is_learnt_from_but_for_images_that_are_held_out(root: Path) -> None:
    alone, both = tuning_task("vqav2", root), tuning_task("vqav2", root, with_val=True)
    held = both.measured["held_out"]
    assert both.classes == alone.classes
    assert [*both.train[:20]] == [*alone.train]
    assert sorted([*both.train[20:], *held]) == sorted(alone.measured["val"])
    images = {one.image for one in held}
    assert len(images) == 2  # of three; else 1,000
    assert images.isdisjoint(one.image for one in both.train)
    assert both.chosen_by == "vqa_accuracy_held_out"
    with pytest.raises(ValueError, match="with_val is for vqav2"):
        tuning_task("snli_ve", root, with_val=True)


@pytest.mark.parametrize("name", TUNING_TASKS)
def test_small_copies_are_not_whole(name: str, root: Path) -> None:
    task = tuning_task(name, root)
    assert not is_whole(task)
    train, test = _SIZES[name]
    whole = task._replace(train=range(train), measured={**task.measured, task.reported: range(test)})  # type: ignore[arg-type]
    assert is_whole(whole)
    assert not is_whole(whole._replace(train=range(train // 2)))
    assert not is_whole(whole._replace(measured={}))
    assert is_whole(task._replace(name="own"))


def perfect(task: TuningTask, split: str) -> torch.Tensor:
    """Outputs of someone who knows."""
    examples = task.measured[split]
    if task.kind == "answers":
        return torch.tensor([max(dict(one.target or ((0, 0),)).items(), key=lambda x: x[1])[0] for one in examples])
    if task.kind == "score":
        return torch.tensor([one.target for one in examples])
    return torch.nn.functional.one_hot(torch.tensor([one.target for one in examples]), len(task.classes)).float()


@pytest.mark.parametrize("name", TUNING_TASKS)
def test_who_knows_scores_1(name: str, root: Path) -> None:
    task = tuning_task(name, root)
    for split in task.measured:
        values = score_outputs(task, task.measured[split], perfect(task, split))
        assert set(values) == set(task.metrics)
        best = 5 / 6 if name == "vqav2" else 1.0  # of one question no one says an answer of the vocabulary
        assert all(value == pytest.approx(best) for value in values.values())


@pytest.mark.parametrize("name", TUNING_TASKS)
def test_who_says_the_right_things_in_the_wrong_order_scores_chance(name: str, root: Path) -> None:
    """Of labels with shares p, accuracy is then the sum of p * p, and every correlation 0."""
    task = tuning_task(name, root)
    split = next(iter(task.measured))
    many = list(task.measured[split]) * 2000
    order = torch.randperm(len(many), generator=torch.Generator().manual_seed(0))
    values = score_outputs(task, many, perfect(task, split).repeat(2000, *[1] * (perfect(task, split).ndim - 1))[order])
    targets = [one.target for one in task.measured[split]]
    shares = [targets.count(target) / len(targets) for target in {*targets}]
    due = {"auroc": 0.5, "matthews": 0.0, "pearson": 0.0, "spearman": 0.0, "accuracy": sum(p * p for p in shares)}
    for metric in values.keys() & due.keys():
        assert values[metric] == pytest.approx(due[metric], abs=0.03)
    assert all(value < 0.9 for value in values.values())


def test_files_for_test_servers(root: Path, tmp_path: Path) -> None:
    task = tuning_task("vqav2", root)
    assert {name: len(rows) for name, rows in task.asked.items()} == {"test": 3, "test-dev": 2}
    assert submission(task.asked["test-dev"], ["no", "red"]) == [
        {"question_id": 1000, "answer": "no"},
        {"question_id": 1001, "answer": "red"},
    ]
    memes = tuning_task("hateful_memes", root)
    assert [*memes.asked] == ["test_unseen"]
    write_memes(tmp_path / "out.csv", memes.asked["test_unseen"], [0.25, 0.5, 0.75])
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["29", "30", "31"]
    assert [(float(row["proba"]), row["label"]) for row in rows] == [(0.25, "0"), (0.5, "1"), (0.75, "1")]


def test_your_own_pairs(tmp_path: Path) -> None:
    own_pairs(tmp_path)
    task = own_task(tmp_path / "train.jsonl", tmp_path / "dev.jsonl")
    assert (task.reads, task.classes, task.reported, len(task.train)) == ("pair", ("no", "yes"), "dev", 16)
    assert task.train[1][1:] == (sentence(1, True), None, tmp_path / "images/train1.png", 1)
    (tmp_path / "a.tsv").write_text("text\ttext_b\tlabel\nsix\tone\t10\nmore\ttwo\t9\n")
    table = own_task(tmp_path / "a.tsv", tmp_path / "a.tsv", tmp_path / "a.tsv")
    assert (table.reads, table.classes, table.reported) == ("text", ("9", "10"), "test")
    assert table.train[0][1:] == ("six", "one", None, 1)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (['{"text": "a", "label": "x"}', '{"text": "b", "label": "y"}', '{"text": "", "label": "y"}'], "line 3 has no text"),
        (['{"text": "a", "label": "x"}', '{"text": "b", "label": "x"}'], "all rows of .* have the label 'x'"),
        (['{"text": "a"}'], "has the columns text; label, and image"),
        (['{"label": "a"}'], "has the columns label; label, and image"),
        (['{"text": "a", "label": "x"}', '{"text": "b", "label": null}'], "line 2 has the label None"),
        (['{"image": "no.png", "label": "x"}', '{"image": "no.png", "label": "y"}'], "line 1 asks for .*no.png"),
        ([], "holds no row"),
    ],
)  # fmt: skip
def test_your_own_rows_that_cannot_be_are_named(rows: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("".join(f"{row}\n" for row in rows))
    with pytest.raises(ValueError, match=told):
        own_task(tmp_path / "t.jsonl", tmp_path / "t.jsonl")


def test_a_label_of_dev_that_train_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("text\tlabel\na\tx\nb\ty\n")
    (tmp_path / "d.tsv").write_text("text\tlabel\na\tx\nb\tz\n")
    with pytest.raises(ValueError, match=r"d.tsv, line 3 has the label 'z'; there are x, y"):
        own_task(tmp_path / "t.tsv", tmp_path / "d.tsv")
    with pytest.raises(ValueError, match=r"t.csv is neither .jsonl nor .tsv"):
        own_task(tmp_path / "t.csv", tmp_path / "d.tsv")


def test_a_fingerprint_tells_what_is_learnt_from_and_not_where_it_lies(tmp_path: Path) -> None:
    for place in ("here", "there"):
        TUNING["hateful_memes"](tmp_path / place)
    here, there = (tuning_task("hateful_memes", tmp_path / place) for place in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()
    assert here._replace(train=here.train[::-1]).fingerprint() != here.fingerprint()


def test_a_row_whose_image_is_damaged_or_whose_text_is_none_is_named(tmp_path: Path) -> None:
    TUNING["hateful_memes"](tmp_path)
    task = tuning_task("hateful_memes", tmp_path)
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "good"])
    feed = Feed(task, tokenizer, max_length=6, image_size=8)
    batch = feed.batch([feed.row(one) for one in task.train[:2]])
    assert [None if part is None else tuple(part.shape) for part in batch] == [(2, 3, 8, 8), (2, 6), (2, 6), (2,)]
    assert batch.ids is not None
    assert batch.ids[1].tolist() == [2, 1, 5, 1, 6, 3]
    with pytest.raises(ValueError, match="2: the str holds half a character"):
        feed.row(task.train[1]._replace(text="\udcff"))
    (tmp_path / "hateful_memes/img/00002.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2: .*00002.png is damaged; unpack the archive again"):
        feed.row(task.train[1])
    with pytest.raises(ValueError, match="hateful_memes has texts, which need a vocabulary"):
        Feed(task, None, max_length=6, image_size=8)


def test_training_views_depend_on_the_generator_alone_and_measured_ones_on_nothing(tmp_path: Path) -> None:
    own_pairs(tmp_path)
    task = own_task(tmp_path / "train.jsonl", tmp_path / "dev.jsonl")
    tokenizer = WordPiece.from_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "good"])
    feed = Feed(task, tokenizer, max_length=6, image_size=8, crop=0.3)

    def seen(seed: int | None) -> torch.Tensor:
        pixels = feed.row(task.train[0], None if seed is None else np.random.default_rng(seed)).pixels
        assert pixels is not None
        return pixels

    assert torch.equal(seen(3), seen(3))
    assert any(not torch.equal(seen(3), seen(seed)) for seed in range(8))
    assert torch.equal(seen(None), seen(None))
    whole = Image.open(tmp_path / "images/train0.png").convert("RGB").resize((8, 8), Image.Resampling.BICUBIC)
    due = torch.from_numpy(np.array(whole)).permute(2, 0, 1)
    assert (seen(None).int() - due.int()).abs().max() <= 2  # Pillow's own resizing of all of it
