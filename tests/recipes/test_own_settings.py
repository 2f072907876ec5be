"""A user's own data: settings that would be ignored are refused, and what a window is for is done or told."""

import json
import logging
import shutil
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browsed import read_page
from own_layouts import jpeg, make_own, words
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "data"))

import browse
import codes_settings
import encode_shards
import pretrain
from corpora import kinds, open_corpus
from presets import parse

from torchflava.data.blend import Blend, Nearby, choose
from torchflava.data.caption_files import CAPTION_FIELDS, IMAGE_FIELDS
from torchflava.data.mixture import Mixture
from torchflava.data.opening import open_pairs
from torchflava.data.scenes import ScenePairs
from torchflava.data.tars import write_shards

ROOT = Path(__file__).parents[2]
PAIRS_ALONE = ["--preset", "tiny", "--corpus", "own", "--shares.pair", "1", "--shares.image", "0", "--shares.text", "0"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a captions file of 40 images beside the shards."""
    folder, scenes = make_own(tmp_path_factory.mktemp("own")), ScenePairs("train", 40)
    (folder / "photos").mkdir()
    for i in range(40):
        (folder / "photos" / f"{i}.jpg").write_bytes(jpeg(scenes[i].image))
    rows = "".join(f"{i}.jpg\t{scenes[i].caption}\n" for i in range(40))
    (folder / "photos" / "captions.tsv").write_text(f"filepath\ttitle\n{rows}")
    return folder


@pytest.fixture(scope="module")
def vocab(own: Path) -> list[str]:
    corpus = open_corpus(parse(words(own)))
    corpus.tokenizer.save(own / "vocab.txt")
    corpus.codebook.save(own / "codebook.safetensors")
    return ["--vocab", str(own / "vocab.txt"), "--codebook", str(own / "codebook.safetensors")]


def test_shards_beside_other_places_are_drawn_near_each_other(own: Path, vocab: list[str]) -> None:
    """Sixty and a hundred samples in shards of twenty, forty beside: each by its size, two shards of each at a time."""
    arguments = [*words(own), f"{own}/photos/captions.tsv"]  # continues the last flag, --texts
    arguments.insert(arguments.index("--images"), arguments.pop())
    source = open_corpus(parse([*arguments, "--window", "1", *vocab])).sources.pairs
    assert isinstance(source, Blend)
    assert [(type(one).__name__, len(one)) for one in source.sources] == [
        ("Nearby", 60), ("Nearby", 100), ("FolderPairs", 40)
    ]  # fmt: skip
    drawn = choose(source, 0, numbers=np.arange(200, dtype=np.uint64))
    assert Counter(one.source.name for one in drawn) == {"coco": 60, "cc": 100, "captions": 40}
    for name in ("coco", "cc"):
        shards = [one.at // 20 for one in drawn if one.source.name == name]
        assert sum(a != b for a, b in pairwise(shards)) == len(set(shards)) - 1
    whole = open_corpus(parse([*words(own), "--window", "1", *vocab])).sources.pairs
    assert isinstance(whole, Nearby)
    assert isinstance(whole.source, Blend)


def test_a_window_without_shards_is_refused(own: Path) -> None:
    arguments = [*PAIRS_ALONE, "--pairs", f"{own}/photos/captions.tsv", "--window", "2"]
    with pytest.raises(ValueError, match="--window 2 is of shards, and no place is in shards; leave it out"):
        open_corpus(parse(arguments))


def test_a_cache_must_hold_the_shards_of_its_window(own: Path, tmp_path: Path, vocab: list[str]) -> None:
    shutil.copytree(own / "cc", tmp_path / "cc")
    largest = max(path.stat().st_size for path in (tmp_path / "cc").glob("*.tar"))
    place = f"file://{tmp_path}/cc/cc-{{00000..00004}}.tar"
    common = [*PAIRS_ALONE, "--pairs", place, "--window", "3", "--cache", str(tmp_path / "cache"), *vocab, "--cache-gb"]
    open_corpus(parse([*common, str(3.01 * largest / 1e9)]))
    with pytest.raises(ValueError, match=r"--cache-gb \S+ is too small for --window 3: .* up to \S+ GB"):
        open_corpus(parse([*common, str(2.99 * largest / 1e9)]))


@pytest.mark.parametrize(("a_shard", "captions"), [(1, "own"), (20, "equal")])
def test_negatives_are_found_where_a_shard_has_one_caption(
    tmp_path: Path, vocab: list[str], a_shard: int, captions: str
) -> None:
    """Of one sample a shard, and of shards whose captions are equal: three in ten rows have another's text all the same."""
    scenes = ScenePairs("train", 40)
    told = [scenes[i].caption if captions == "own" else f"{scenes[0].caption} {i // 20}" for i in range(60)]
    parts = [(f"{i:06}", {"jpg": jpeg(scenes[i].image), "txt": told[i].encode()}) for i in range(60)]
    (tmp_path / "s").mkdir()
    write_shards(parts, tmp_path / "s" / "s", a_shard)
    more = ["--window", "2", "--batch-size", "40", "--mismatch-rate", "0.3", *vocab]
    config = parse([*PAIRS_ALONE, "--pairs", str(tmp_path / "s"), *more])
    mixture = Mixture(kinds(open_corpus(config), config), 40, 0)
    matched = [mixture[step].batch.matched.float().mean().item() for step in range(10)]
    assert 1 - sum(matched) / 10 == pytest.approx(0.3, abs=0.07)  # three standard deviations of 400 rows


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--pairs a --pair-weights a 1", "--pair-weights are of several places, but --pairs names 1; leave them out"),
        ("--pairs a --image-weights a 1 b 2", "--image-weights are of several places, but --images names 0"),
        ("--pairs a --text-weights a 1 b 2", "--text-weights are of several places, but --texts names 0"),
        ("--pairs a --cache-gb 5", "--cache-gb 5.0 is the room of a cache, and there is none"),
        ("--pairs a --cache c --window 2", "--cache c is for shards fetched from URLs, and no place is one"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(arguments: str, told: str) -> None:
    with pytest.raises(SystemExit) as error:
        parse([*PAIRS_ALONE, *arguments.split()])
    assert told in str(error.value)


def test_places_with_weights_have_names_of_their_own(own: Path) -> None:
    with pytest.raises(ValueError, match=r"the weights are of \['cc', 'sbu'\], the pairs of \['cc', 'coco'\]"):
        open_corpus(parse([*words(own), "--pair-weights", "cc", "1", "sbu", "1"]))
    arguments = [*PAIRS_ALONE, "--pairs", f"{own}/coco", f"{own}/coco/*.tar"]
    with pytest.raises(ValueError, match=r"more than one place of pairs is called coco; .* NAME=PLACE"):
        open_corpus(parse(arguments))


@pytest.mark.parametrize("held_out", ["coco", "coco/*-00001.tar", "x=linked", "valid/../coco"])
def test_what_is_trained_on_is_not_held_out(own: Path, held_out: str) -> None:
    if not (own / "linked").exists():
        (own / "linked").symlink_to(own / "coco")
    name, sign, place = held_out.rpartition("=")
    with pytest.raises(ValueError, match=r"--held-out .* and --pairs .*coco both have .*coco-0000"):
        open_corpus(parse([*words(own), "--held-out", f"{name}{sign}{own}/{place}"]))


def test_a_captions_file_and_a_data_set_are_not_held_out_either(own: Path) -> None:
    for place in (f"{own}/photos/captions.tsv", "hub:some/set?caption=text"):
        again = place.replace("caption=text", "split=train&caption=title")
        with pytest.raises(ValueError, match=r"--held-out .* both have"):
            open_corpus(parse([*PAIRS_ALONE, "--pairs", place, "--held-out", f"valid={again}"]))


def test_a_saved_data_set_without_splits_has_none(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"image": ["a", "b"], "caption": ["a", "b"]})
    made.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": made}).save_to_disk(str(tmp_path / "splits"))
    for asked, told in (
        ("saved?split=test", "saved on disk without splits; leave that key out"),
        ("saved?config=a", "saved on disk without configs; leave that key out"),
        ("splits?split=valid", "has no split valid; there are test"),
    ):
        with pytest.raises(ValueError, match=told):
            open_pairs(f"hub:{tmp_path}/{asked}")


def test_a_folder_of_a_store_and_a_missing_index_are_told_of(
    own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"name the tars in it: s3://bucket/folder/\*.tar"):
        open_pairs("s3://bucket/folder")
    shutil.copytree(own / "cc", tmp_path / "cc")
    with caplog.at_level(logging.WARNING):
        open_pairs(f"file://{tmp_path}/cc/*.tar")
    assert "5 of 5 shards, such as file://" in caplog.text
    assert "have no index beside them and are fetched whole" in caplog.text


def test_shards_with_codes_are_browsed_as_without(own: Path, tmp_path: Path, vocab: list[str]) -> None:
    """Shards, sizes, keys and metadata are told all the same, and a vocabulary may be given."""
    folder = make_own(tmp_path / "coded")
    flags = [*PAIRS_ALONE, "--pairs", f"{folder}/coco", *vocab[2:]]
    plain = read_page(
        browse.main([*flags, *vocab[:2], "--out", str(tmp_path / "plain.html"), "--num", "4", "--measure", "20"])
    )
    encode_shards.run(codes_settings.parse([f"{folder}/coco", "--codebook", f"{own}/codebook.safetensors"]))
    more = ["--codes", "cached", *vocab[:2], "--out", str(tmp_path / "coded.html"), "--num", "4", "--measure", "20"]
    coded = read_page(browse.main([*flags, *more]))
    assert coded.all("table")[0].text == plain.all("table")[0].text
    assert "coco 60 3 " in coded.all("table")[0].text
    told = [[figure.all("pre")[0].text for figure in page.all("figure", of="sample")] for page in (plain, coded)]
    assert told[0] == told[1]
    assert all("number" in one for one in told[1])
    assert len(told[1]) == 4
    assert coded.one("section", id="rejects").text == plain.one("section", id="rejects").text
    (tmp_path / "few.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    few = [*flags, "--vocab", str(tmp_path / "few.txt"), "--out", str(tmp_path / "few.html"), "--num", "4"]
    assert "[UNK]" in read_page(browse.main(few)).one("section", id="samples").text
    assert "[UNK]" not in plain.one("section", id="samples").text


def test_the_guide_names_the_columns_of_a_captions_file() -> None:
    (told,) = (
        part for part in (ROOT / "docs" / "data.md").read_text().split("\n\n") if part.startswith("A captions file")
    )
    named = told[: told.index(";")].split("`")[1::2]
    assert named == [*IMAGE_FIELDS, *CAPTION_FIELDS]


@pytest.mark.slow
def test_images_alone_need_no_vocabulary(own: Path, tmp_path: Path) -> None:
    """Measured on what is held out too, and gone on with; the model keeps room for as many tokens as are asked for."""
    shares = ["--shares.pair", "0", "--shares.image", "1", "--shares.text", "0", "--vocab-size", "77"]
    places = ["--images", f"{own}/imagenet", "--held-out", f"{own}/valid"]
    arguments = ["--preset", "tiny", "--corpus", "own", *shares, *places, "--folder", str(tmp_path)]
    pretrain.main(arguments)
    (run,) = tmp_path.iterdir()
    assert not (run / "vocab.txt").exists()
    assert set(json.loads((run / "result.json").read_text())["readings"]) == {"mim loss", "codes used"}
    tensors = load_file(run / "model.safetensors")
    assert next(len(tensor) for name, tensor in tensors.items() if "word" in name or "token_emb" in name) == 77
    pretrain.main([*arguments, "--resume", str(run)])
    assert (
        "This is not what the run saw" not in browse.main(["--run", str(run), "--out", str(tmp_path / "p")]).read_text()
    )
