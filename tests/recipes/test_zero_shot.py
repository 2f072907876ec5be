"""Zero-shot classification and retrieval through the recipe's command line, on tasks, folders and split files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import tiny
import zero_shot
from made_tasks import MADE, picture
from results import Result, read_results
from seers import COLOURS

from torchflava.evaluation import COLUMNS
from torchflava.models import from_pretrained, save_pretrained
from torchflava.tasks import VISION_TASKS, read_image, vision_task
from torchflava.transforms.image import EvalView, normalise
from torchflava.transforms.wordpiece import WordPiece

ROOT = Path(__file__).parents[2]
WORDS = [*COLOURS, *["a", "photo", "of", "picture", ".", "one", "two", "the", "##s"]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    for make in MADE.values():
        make(made)
    return made


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of seven colours, of one to three pictures."""
    made = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(sorted(COLOURS[:7])):
        for at in range(1 + number % 3):
            picture(made / name / f"{at}.png", COLOURS.index(name))
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small FLAVA, its matching head and a vocabulary."""
    folder = tmp_path_factory.mktemp("small")
    save_pretrained(tiny.pretraining(), folder / "model.safetensors")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    return folder


def evaluate(model: Path | str, out: Path, *words: str) -> dict[tuple[str, str], Result]:
    """The recipe's main, on the CPU; the rows by task and metric."""
    zero_shot.main(["--model", str(model), "--out", str(out), "--device", "cpu", "--threads", "1", *words])
    return {(row.task, row.metric): row for row in read_results(out / "results.json")}


def test_a_folder_of_classes(classes: Path, tmp_path: Path) -> None:
    found = evaluate("seers:painter", tmp_path, "--images", str(classes))
    row = found[classes.name, "zero_shot_accuracy"]
    assert (row.value, row.model, row.made_by) == (1.0, "seers:painter", "recipes/zero_shot.py")
    assert (row.settings["num_classes"], row.settings["num_test"], row.settings["num_prompts"]) == (7, 13, 1)


def test_what_is_hidden_is_no_class_and_other_kinds_of_images_are_seen(tmp_path: Path) -> None:
    for number, name in enumerate(COLOURS[:3]):
        picture(tmp_path / "classes" / name / f"{number}.{('webp', 'bmp', 'png')[number]}", number)
    picture(tmp_path / "classes/.ipynb_checkpoints/0.png", 4)
    picture(tmp_path / "classes/red/._0.png", 5)
    found = evaluate("seers:painter", tmp_path, "--images", str(tmp_path / "classes"))["classes", "zero_shot_accuracy"]
    assert (found.value, found.settings["num_classes"], found.settings["num_test"]) == (1.0, 3, 3)


def test_a_blind_model_gets_the_first_class_right_alone(classes: Path, tmp_path: Path) -> None:
    found = evaluate("seers:blind", tmp_path, "--images", str(classes))
    assert found[classes.name, "zero_shot_accuracy"].value == pytest.approx(1 / 13)  # of the first class there is one


def test_names_and_templates_from_files(classes: Path, tmp_path: Path) -> None:
    right = sorted(COLOURS[:7])
    (tmp_path / "names").write_text(
        "\ufeff" + "\n".join([right[1], right[0], *right[2:]])
    )  # the first two change their places
    (tmp_path / "templates").write_text("a {} picture.\n\nsomething that is {}\n")
    words = ("--images", str(classes), "--names", str(tmp_path / "names"), "--templates", str(tmp_path / "templates"))
    found = evaluate("seers:painter", tmp_path, *words)
    assert found[classes.name, "zero_shot_accuracy"].value == pytest.approx(1 - (1 + 2) / 13)
    assert found[classes.name, "zero_shot_accuracy"].settings["num_prompts"] == 2


def test_classification_is_the_mean_over_templates_made_length_1_again(
    classes: Path, weights: Path, tmp_path: Path
) -> None:
    """Against the model called one image and one text at a time, and CLIP's rule written out."""
    templates = ["a photo of a {}.", "one {}", "the two {}s"]
    (tmp_path / "templates").write_text("\n".join(templates))
    words = ("--images", str(classes), "--templates", str(tmp_path / "templates"), "--batch-size", "2")
    found = evaluate(weights, tmp_path, *words)
    model, tokenizer, view = from_pretrained(weights), WordPiece.from_file(weights), EvalView(tiny.IMAGE_SIZE)
    names, right, nearest = sorted(COLOURS[:7]), [], []
    with torch.no_grad():
        means = []
        for name in names:
            texts = [tokenizer.encode(template.format(name), tiny.MAX_LENGTH).ids for template in templates]
            each = [F.normalize(model.embed_text(torch.tensor([ids])), dim=-1) for ids in texts]
            means.append(F.normalize(torch.cat(each).mean(0), dim=0))
        for number, name in enumerate(names):
            for file in sorted((classes / name).iterdir()):
                image = model.embed_image(normalise(view(read_image(file)))[None])[0]
                scores = torch.stack([image @ mean for mean in means])
                right.append(int(scores.argmax()) == number)
                nearest.append(number in scores.topk(5).indices.tolist())
    assert found[classes.name, "zero_shot_accuracy"].value == pytest.approx(sum(right) / 13)
    assert found[classes.name, "zero_shot_accuracy@5"].value == pytest.approx(sum(nearest) / 13)
    assert 0 < sum(nearest) < 13  # else nothing was compared


def test_all_tasks_whose_classes_have_names(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("open_clip")
    found = evaluate("seers:blind", tmp_path, "--task", "all", "--root", str(root))
    told = capsys.readouterr().out
    assert "left out, gtsrb tells signs by numbers; give their names by --names FILE" in told
    assert {task for task, _ in found} == {*VISION_TASKS} - {"gtsrb", "country211"}
    for name in ("food101", "kitti", "fer2013"):
        labels = vision_task(name, root).test().labels
        assert found[name, "zero_shot_accuracy"].value == pytest.approx(float((labels == 0).float().mean()))
    # The mean over classes, of which one is right.
    assert found["caltech101", "zero_shot_mean_per_class"].value == pytest.approx(1 / 3)
    imagenet = found["imagenet", "zero_shot_accuracy"].settings
    assert (imagenet["num_classes"], imagenet["num_prompts"], imagenet["whole"]) == (1000, 80, False)


def test_imagenets_names_stand_in_the_order_of_its_synsets(root: Path) -> None:
    pytest.importorskip("open_clip")
    from classifying import imagenet_prompts

    prompts = imagenet_prompts(vision_task("imagenet", root).test())
    assert prompts[0][0] == "a bad photo of a tench."  # n01440764 (Radford et al. 2021, the repository's notebook)
    assert prompts[999][0] == "a bad photo of a toilet paper."
    assert len(prompts) == 1000
    assert {len(each) for each in prompts} == {80}


def test_imagenet_without_its_names_is_told(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match=r"read from open_clip_torch .*pip install 'torchflava\[eval\]'"):
        evaluate("seers:blind", tmp_path, "--task", "imagenet", "--root", str(root))


def test_imagenet_with_fewer_folders_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    for number in range(3):
        picture(tmp_path / f"imagenet/val/n0144076{number}/a.jpeg", number)
    with pytest.raises(ValueError, match="folders of 3 synsets and names of 1000"):
        evaluate("seers:blind", tmp_path, "--task", "imagenet", "--root", str(tmp_path))


def test_a_task_with_names_of_ones_own(root: Path, tmp_path: Path) -> None:
    for names, value in (("red\nlime\n", 1.0), ("lime\nred\n", 0.0)):
        (tmp_path / "names").write_text(names)
        words = ("--task", "country211", "--root", str(root), "--names", str(tmp_path / "names"))
        found = evaluate("seers:painter", tmp_path, *words)
        assert found["country211", "zero_shot_accuracy"].value == value


def karpathy(folder: Path, dataset: str, num: int = 10) -> Path:
    """A split file and its images, as Karpathy's: a colour each, with five right captions and a wrong sixth."""
    images = []
    for number in range(num + 2):
        split = ("train", "restval")[number % 2] if number >= num else "test"
        inside = {"filepath": "val2014"} if dataset == "coco" else {}
        name, colour = f"{dataset}_{number:06d}.png", COLOURS[number % len(COLOURS)]
        picture(folder / "images" / inside.get("filepath", "") / name, number % len(COLOURS))
        raws = [*(f"the  {colour}  one {'two ' * n}." for n in range(5)), f"a {COLOURS[(number + 1) % 10]} photo"]
        sentences = [
            {"tokens": raw.split(), "raw": raw, "imgid": number, "sentid": 6 * number + at}
            for at, raw in enumerate(raws)
        ]
        images.append(
            {"imgid": number, "filename": name, "split": split, "sentences": sentences, "sentids": [], **inside}
        )
    file = folder / f"dataset_{dataset}.json"
    file.write_text(json.dumps({"images": images, "dataset": dataset}))
    return file


def retrieve(model: Path | str, out: Path, file: Path, *words: str) -> dict[str, Result]:
    """Metric -> row."""
    found = evaluate(model, out, "--retrieval", str(file), "--images", str(out / "images"), *words)
    return {metric: row for (_, metric), row in found.items()}


@pytest.mark.parametrize("dataset", ["flickr30k", "coco"])
def test_retrieval_by_karpathys_split(tmp_path: Path, dataset: str) -> None:
    found = retrieve("seers:painter", tmp_path, karpathy(tmp_path, dataset))
    assert {row.task for row in found.values()} == {dataset}
    # Five captions are right alone: with the wrong sixth, every sixth text would find another's image.
    assert {metric: row.value for metric, row in found.items()} == dict.fromkeys(
        ("tr@1", "tr@5", "tr@10", "ir@1", "ir@5", "ir@10"), 1.0
    )
    assert {row.settings["num_images"] for row in found.values()} == {10}
    assert {row.settings["num_texts"] for row in found.values()} == {50}
    assert {row.settings["whole"] for row in found.values()} == {
        False
    }  # of 1,000 and 5,000: no number of the scorecard's
    columns = {column.metric for column in COLUMNS if column.task == dataset}
    assert columns == {"tr@1", "tr@5", "ir@1", "ir@5"}  # the scorecard's


def test_a_blind_model_retrieves_what_lies_first(tmp_path: Path) -> None:
    found = retrieve("seers:blind", tmp_path, karpathy(tmp_path, "flickr30k"))
    # All are equally near, so that each query is answered by the first items: of captions five belong to one image.
    assert {metric: row.value for metric, row in found.items()} == pytest.approx(
        {"tr@1": 0.1, "tr@5": 0.1, "tr@10": 0.2, "ir@1": 0.1, "ir@5": 0.5, "ir@10": 1.0}
    )


def test_six_captions_and_another_split(tmp_path: Path) -> None:
    found = retrieve("seers:painter", tmp_path, karpathy(tmp_path, "coco"), "--captions", "6")
    assert found["ir@1"].value == pytest.approx(5 / 6)
    other = evaluate(
        "seers:painter",
        tmp_path,
        *(
            "--retrieval",
            str(tmp_path / "dataset_coco.json"),
            "--images",
            str(tmp_path / "images"),
            "--split",
            "restval",
        ),
    )
    assert other["coco_restval", "ir@1"].settings["num_images"] == 1


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
def test_retrieval_by_a_captions_file(tmp_path: Path, ending: str) -> None:
    rows = [(f"{name}.png", f"the {name} one") for name in COLOURS] + [("red.png", "a red photo")]
    for name in COLOURS:
        picture(tmp_path / "images" / f"{name}.png", COLOURS.index(name))
    separator = "\t" if ending == "tsv" else ","
    lines = [f"filepath{separator}caption", *(separator.join(row) for row in rows)]
    if ending == "jsonl":
        lines = [json.dumps({"image": image, "caption": caption}) for image, caption in rows]
    (tmp_path / f"mine.{ending}").write_text("\n".join(lines))
    found = retrieve("seers:painter", tmp_path, tmp_path / f"mine.{ending}")
    assert (found["tr@1"].task, found["tr@1"].value, found["ir@1"].value) == ("mine", 1.0, 1.0)
    assert (found["tr@1"].settings["num_images"], found["tr@1"].settings["num_texts"]) == (10, 11)


def test_the_matching_head_puts_the_nearest_in_order(weights: Path, tmp_path: Path) -> None:
    """Against all pairs, seen one at a time by the encoders and the head."""
    file = karpathy(tmp_path, "flickr30k", 10)
    found = retrieve(weights, tmp_path, file, "--rerank", "20", "--captions", "2", "--batch-size", "7")
    model, tokenizer, view = from_pretrained(weights), WordPiece.from_file(weights), EvalView(tiny.IMAGE_SIZE)
    images = [image for image in json.loads(file.read_text())["images"] if image["split"] == "test"]
    texts = [(number, sentence["raw"]) for number, image in enumerate(images) for sentence in image["sentences"][:2]]
    scores = torch.empty(10, 20)
    with torch.no_grad():
        for row, image in enumerate(images):
            pixels = normalise(view(read_image(tmp_path / "images" / image["filename"])))[None]
            for column, (_, text) in enumerate(texts):
                ids = torch.tensor([tokenizer.encode(text, tiny.MAX_LENGTH).ids])
                scores[row, column] = model.itm(model.flava(pixels, ids).fused.cls).softmax(1)[0, 1]
    owner = torch.tensor([number for number, _ in texts])
    for k in (1, 5, 10):  # all ten images and all twenty texts are candidates
        to_image = [int(owner[text]) in scores[:, text].topk(k).indices.tolist() for text in range(20)]
        to_text = [image in owner[scores[image].topk(k).indices].tolist() for image in range(10)]
        assert found[f"ir@{k}, the first 20 by itm"].value == pytest.approx(sum(to_image) / 20)
        assert found[f"tr@{k}, the first 20 by itm"].value == pytest.approx(sum(to_text) / 10)


def test_what_cannot_be_is_told(classes: Path, weights: Path, root: Path, tmp_path: Path) -> None:
    def ends(told: str, *words: str, model: str = "seers:painter") -> None:
        with pytest.raises((SystemExit, ValueError), match=told):
            evaluate(model, tmp_path / "out", *words)

    folder, file = ("--images", str(classes)), str(karpathy(tmp_path, "coco"))
    lies = ("--retrieval", file, "--images", str(tmp_path / "images"))
    ends("give one of --task NAMES, --images FOLDER")
    ends("give one of --task NAMES, --images FOLDER", "--task", "dtd", *folder)
    ends("say by --images in which folder they lie", "--retrieval", file)
    ends("--rerank, --split and --captions are for --retrieval", *folder, "--rerank", "20")
    ends("--rerank 5 is below recall@10", *lies, "--rerank", "5")
    ends("--names and --templates are for classification", *lies, "--names", file)
    ends("--names nowhere is not there", *folder, "--names", "nowhere")
    ends(r"no split 'tst'; it has restval, test, train", *lies, "--split", "tst")
    ends(r"which is not there; 10 images of it belong below", "--retrieval", file, *folder)
    ends("the model does not let pairs be scored: its match is None", *lies, "--rerank", "10", model="seers:blind")
    ends("it is an image encoder alone", *folder, model="seers:mute")
    ends("images are embedded as .*27.* and texts as .*5.*; a row of as many", *folder, model="seers:torn")
    ends("images are embedded as .*27.* and texts as .*5.*; a row of as many", *lies, model="seers:torn")
    ends("gtsrb tells signs by numbers", "--task", "gtsrb", "--root", str(root))
    (tmp_path / "names").write_text("red\nblue")
    ends("2 names for 7 classes", *folder, "--names", str(tmp_path / "names"))
    (tmp_path / "names").write_bytes(b"caf\xe9")
    ends("names is not UTF-8", *folder, "--names", str(tmp_path / "names"))
    (tmp_path / "empty/red").mkdir(parents=True)
    ends("hold no image", "--images", str(tmp_path / "empty"))
    (tmp_path / "templates").write_text("a photo")
    ends(r"'a photo' has 0 places \{\}", *folder, "--templates", str(tmp_path / "templates"))
    (tmp_path / "templates").write_text("\n")
    ends("templates is empty", *folder, "--templates", str(tmp_path / "templates"))
    (tmp_path / "rows.tsv").write_text("filepath\tcaption\na.png\t\n")
    ends("rows that cannot be used, empty caption: 1", "--retrieval", str(tmp_path / "rows.tsv"), *folder)
    ends("which has no splits", "--retrieval", str(tmp_path / "rows.tsv"), *folder, "--split", "test")
    small = str(weights / "model.safetensors")
    ends("reads 13 tokens at most", *folder, "--max-length", "20", model=small)
    (tmp_path / "vocab.txt").write_text((weights / "vocab.txt").read_text() + "".join(f"w{n}\n" for n in range(40)))
    ends("tokens and the model knows 41", *folder, "--vocab", str(tmp_path / "vocab.txt"), model=small)
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((weights / "model.safetensors").read_bytes())
    (tmp_path / "vocab.txt").unlink()
    ends("no vocabulary beside it; give it by --vocab", *folder, model=str(lone))
    clip = tmp_path / "clip.safetensors"
    save_pretrained(tiny.clip(), clip)
    words = ("--vocab", str(weights / "vocab.txt"), "--rerank", "10")
    ends("the model has no matching head", *lies, *words, model=str(clip))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_ranks_find_what_one_does(classes: Path, weights: Path, tmp_path: Path) -> None:
    file = karpathy(tmp_path, "flickr30k", 9)
    shared = ["--model", str(weights), "--device", "cpu", "--batch-size", "2"]
    script = str(ROOT / "recipes/zero_shot.py")
    tasks = (
        ["--images", str(classes)],
        ["--retrieval", str(file), "--images", str(tmp_path / "images"), "--rerank", "10"],
    )
    for out, start in (("one", [sys.executable]), ("two", ["torchrun", "--standalone", "--nproc-per-node", "2"])):
        for words in tasks:
            done = subprocess.run(
                [*start, script, *shared, "--out", str(tmp_path / out), *words],
                capture_output=True, text=True, timeout=250, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    one, two = (
        {(row.task, row.metric): row.value for row in read_results(tmp_path / out / "results.json")}
        for out in ("one", "two")
    )
    assert len(one) == 2 + 6 + 6
    assert one == two
