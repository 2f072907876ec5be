"""The tasks that are made of emoji: what counts as right, that neither side alone tells, and that nothing leaks."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parent))

import emoji_pairs
from emoji_layouts import Emoji, captions_of, lay_out
from emoji_pairs import Pair, false_pairs, lay_out_pairs
from made_emoji import PERSONS, make_emoji, metas

from torchflava.tasks import folder_of_classes, own_image_task, own_pairs, read_captioned, read_image

NAMES = {meta["codepoints"].lower(): meta for meta in metas() if not meta["tones"]}
PAIRS = ("entailment_train", "entailment_seen", "entailment_new", "matching_train", "matching_any", "matching_near")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emoji")
    lay_out_pairs(lay_out(make_emoji(folder / "shards"), folder / "data"))
    return folder / "data"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def codes(image: str) -> str:
    return Path(image).stem


def vendor(image: str) -> str:
    return image.split("/")[0]


def is_true(told: dict[str, Any], text: str) -> bool:
    """The rule written out on padded strings: words in a row, in the name or in a keyword."""
    return any(f" {text.lower()} " in f" {said.lower()} " for said in (told["name"], *told["keywords"]))


def test_the_emoji_are_those_that_all_drew_without_tones(data: Path) -> None:
    for name in ("google", "twitter", "microsoft"):
        listed = {codes(row["image"]) for row in rows(data / "labelled/emoji_groups" / f"{_split_of(name)}.jsonl")}
        assert listed == NAMES.keys()
    assert read_image(data / "images/microsoft" / "1f300.webp").shape == (3, 24, 24)


def _split_of(name: str) -> str:
    return {"google": "train", "twitter": "valid", "microsoft": "test"}[name]


def test_classes_are_read_with_their_names_in_order(data: Path) -> None:
    for task, of in (("emoji_names", "codepoints"), ("emoji_groups", "group"), ("emoji_subgroups", "subgroup")):
        found = folder_of_classes(data / "classes" / task)
        said = (data / f"classes/{task}.names.txt").read_text().splitlines()
        assert len(said) == len(found.classes)
        for key, label in zip(found.keys, found.labels.tolist(), strict=True):
            told = NAMES[codes(key)]
            assert found.classes[label] == told[of].lower()
            assert said[label] == (told["name"] if task == "emoji_names" else told[of].replace("-", " "))
        assert len(found) == len(NAMES)


def test_each_caption_is_right_for_its_own_image_alone(data: Path) -> None:
    for task in ("emoji_names", "emoji_captions", "emoji_keywords"):
        found = read_captioned(data / f"captions/{task}.jsonl", data / "images")
        for text, owner in zip(found.texts, found.owner.tolist(), strict=True):
            parts, own = text.split("; "), found.images[owner].stem
            right = [one for one, told in NAMES.items() if all(is_true(told, part) for part in parts)]
            assert right == [own], text
    several = Counter(read_captioned(data / "captions/emoji_captions.jsonl", data / "images").owner.tolist())
    assert max(several.values()) == 5
    assert min(several.values()) >= 3


def test_a_keyword_of_several_is_no_caption_by_itself(data: Path) -> None:
    texts = {row["caption"] for row in rows(data / "captions/emoji_keywords.jsonl")}
    assert "only red disc" in texts
    assert not texts & {"red", "disc", "warm", "tool"}
    assert not any("mechanic" in text for text in texts)


def test_an_emoji_whose_keywords_another_has_too_has_none() -> None:
    one = Emoji("1", "cat", ("animal", "pet"), "a", "b")
    other = Emoji("2", "dog", ("animal", "pet", "bark"), "a", "b")
    found = captions_of([one, other])["emoji_keywords"]
    assert found == {"2": ["animal; pet; bark", "bark"]}


@pytest.mark.parametrize("name", PAIRS)
def test_neither_text_nor_image_alone_tells(data: Path, name: str) -> None:
    """What has seen the counts of the very file answers half right."""
    found = rows(data / f"pairs/emoji_{name}.jsonl")
    for side in ("text", "image"):
        votes: dict[str, Counter[int]] = defaultdict(Counter)
        for row in found:
            votes[row[side]][row["label"]] += 1
        right = sum(max(own.values()) for own in votes.values())
        if name == "matching_train" and side == "text":
            assert right / len(found) == 0.5
        assert right / len(found) == 0.5, side
    assert len({(row["image"], row["text"]) for row in found}) == len(found)
    assert own_pairs(data / f"pairs/emoji_{name}.jsonl", images=data / "images")


@pytest.mark.parametrize("name", PAIRS)
def test_labels_say_what_is_true(data: Path, name: str) -> None:
    for row in rows(data / f"pairs/emoji_{name}.jsonl"):
        told = NAMES[codes(row["image"])]
        true = row["text"] in told["keywords"] if "entailment" in name else row["text"] == told["name"]
        assert row["label"] == int(true)
        if "entailment" in name and not true:
            assert not is_true(told, row["text"]), row
        if name == "matching_near" and not true:
            (other,) = (one for one in NAMES.values() if one["name"] == row["text"])
            assert other["subgroup"] == told["subgroup"]


def parts(data: Path) -> Iterator[tuple[str, set[str]]]:
    for name in PAIRS:
        yield name, {row["image"] for row in rows(data / f"pairs/emoji_{name}.jsonl")}
    for task in ("emoji_groups_new", "emoji_subgroups_new"):
        for split in ("train", "valid", "test"):
            yield f"{task}/{split}", {row["image"] for row in rows(data / f"labelled/{task}/{split}.jsonl")}


def test_what_is_new_was_never_learnt_from(data: Path) -> None:
    found = dict(parts(data))
    new = {codes(image) for image in found["entailment_new"]}
    for name, images in found.items():
        learnt = name.endswith(("train", "valid"))
        assert {vendor(image) for image in images} == ({"google", "twitter"} if learnt else {"microsoft"}), name
        own = {codes(image) for image in images}
        if name.endswith(("new", "test", "any", "near")):
            assert own <= new, name
        else:
            assert not own & new, name
    for task in ("emoji_groups_new", "emoji_subgroups_new"):
        train, valid = ({codes(image) for image in found[f"{task}/{split}"]} for split in ("train", "valid"))
        assert not train & valid
    assert 0.05 < len(new) / len(NAMES) < 0.5


def test_kin_stand_on_one_side() -> None:
    kin = [
        Emoji(f"{code.lower()}-200d-{thing}", "", (), "", "")
        for code in PERSONS.values()
        for thing in ("1f527", "1f680")
    ]
    assert {emoji.kin for emoji in kin} == {"1f527", "1f680"}
    for thing in ("1f527", "1f680"):
        assert len({emoji.split for emoji in kin if emoji.codepoints.endswith(thing)}) == 1
    assert Emoji("1f468", "man", (), "", "").kin == "1f468"
    assert Emoji("1f3c3-200d-2640-fe0f-200d-27a1-fe0f", "", (), "", "").kin == "1f3c3"


def test_the_splits_are_the_same_everywhere() -> None:
    made = [Emoji(f"1f{number:03x}", "", (), "", "").split for number in range(1000)]
    shares = Counter(made)
    assert 150 < shares["new"] < 250
    assert 150 < shares["valid"] < 250
    assert made[:8] == [Emoji(f"1f{number:03x}", "x", ("y",), "z", "").split for number in range(8)]


def test_probes_read_what_was_laid_out(data: Path) -> None:
    for task in ("emoji_groups", "emoji_subgroups_new"):
        files = {split: data / f"labelled/{task}/{split}.jsonl" for split in ("train", "valid", "test")}
        read = own_image_task(task, images=data / "images", **files)
        test = read.test()
        level = "group" if "_groups" in task else "subgroup"
        for key, label in zip(test.keys, test.labels.tolist(), strict=True):
            assert test.classes[label] == NAMES[codes(key)][level]


def test_a_text_that_is_true_of_all_cannot_be_false_as_often() -> None:
    emoji = [Emoji(str(number), f"n{number}", ("all",), "", "") for number in range(5)]
    with pytest.raises(ValueError, match="'all' is true of too many of the 5 pairs"):
        false_pairs([Pair(one, "all") for one in emoji], "key", lambda pair: not pair.emoji.is_told_by(pair.text))


def test_false_pairs_are_another_draw_by_another_key(data: Path) -> None:
    emoji = [Emoji(f"{number}", f"n{number}", (f"k{number}", "both"), "", "") for number in range(30)]
    true = [Pair(one, one.keywords[0]) for one in emoji]
    first, again, other = (false_pairs(true, key, lambda pair: True) for key in ("a", "a", "b"))
    assert first == again
    assert len({*first} & {*other}) < 10
    assert Counter(pair.text for pair in first) == Counter(pair.text for pair in true)


def test_missing_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*/google-\*.tar; build it by recipes/data/emoji.py"):
        lay_out(tmp_path, tmp_path / "data")


def test_the_keys_of_all_draws_differ(data: Path) -> None:
    """Google's and twitter's false pairs are not the same, nor those that are measured on."""
    false = defaultdict(set)
    for name in ("entailment_train", "entailment_seen"):
        for row in rows(data / f"pairs/emoji_{name}.jsonl"):
            if not row["label"]:
                false[vendor(row["image"])].add((codes(row["image"]), row["text"]))
    assert len(false) == 3
    for one, other in (("google", "twitter"), ("google", "microsoft"), ("twitter", "microsoft")):
        assert len(false[one] & false[other]) < 0.7 * len(false[one])
    assert emoji_pairs.ENTAILMENT == "emoji_entailment"
