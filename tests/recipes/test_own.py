"""Training on a user's own data: what is drawn, in which shares, with which codes; and what cannot be is told at once."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_layouts import make_own, words
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "data"))

import codes_settings
import encode_shards
import pretrain
from corpora import kinds, open_corpus
from presets import Config, as_json, parse, shaping

from torchflava.codebooks import fit_patches, load_codebook
from torchflava.data.blend import choose
from torchflava.data.mixture import Mixture
from torchflava.data.shards import ShardPairs
from torchflava.data.tars import write_shards
from torchflava.training import TIMED
from torchflava.transforms.wordpiece import WordPiece

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_own(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def done(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on all of it."""
    folder = tmp_path_factory.mktemp("runs")
    pretrain.main([*words(own), "--held-out", f"{own}/valid", "--folder", str(folder), "--measure-every", "4"])
    (run,) = folder.iterdir()
    return run


def log(run: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMED} for r in records]


def test_a_run_on_own_data_is_measured_on_what_was_held_out(done: Path) -> None:
    readings = json.loads((done / "result.json").read_text())["readings"]
    assert readings["image to text R@1"]["chance"] == pytest.approx(1 / 50)
    assert {"text to image R@5", "matching AUROC", "codes used", "mlm loss", "contrastive loss"} <= set(readings)
    assert any("measured/image to text R@1" in record for record in log(done) if record["step"] == 4)
    kept = json.loads((done / "data.json").read_text())["sources"]
    assert [(one["name"], one["length"]) for one in kept["pair"]["sources"]] == [("coco", 60), ("cc", 100)]
    assert (kept["image"]["name"], kept["image"]["length"]) == ("imagenet images", 80)
    assert len({one["shards"] for one in (*kept["pair"]["sources"], kept["image"])}) == 3
    assert kept["text"]["name"] == "news texts"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "held_out"), [("text", False), ("text", True), ("image", True)])
def test_one_kind_alone(own: Path, done: Path, tmp_path: Path, kind: str, held_out: bool) -> None:
    """Texts need no codebook; what is measured is what was trained."""
    place = {"text": f"{own}/news.txt", "image": f"{own}/imagenet"}[kind]
    arguments = ["--preset", "tiny", "--corpus", "own", f"--{kind}s", place, "--folder", str(tmp_path)]
    for other in ("pair", "image", "text"):
        arguments += [f"--shares.{other}", str(float(other == kind))]
    arguments += ["--vocab", str(done / "vocab.txt")] if kind == "image" else []
    pretrain.main([*arguments, *(["--held-out", f"{own}/valid"] if held_out else [])])
    (run,) = tmp_path.iterdir()
    told = set(json.loads((run / "result.json").read_text())["readings"])
    loss = {"text": {"mlm loss"}, "image": {"mim loss"}}[kind] if held_out else set()
    assert told == loss | ({"codes used"} if kind == "image" else set())
    assert (run / "codebook.safetensors").exists() == (kind == "image")
    pretrain.main([*arguments, "--resume", str(run)])


@pytest.mark.slow
def test_broken_held_out_pairs_end_no_run(own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    half, none = tmp_path / "half", tmp_path / "none"
    for folder, share in ((half, 2), (none, 1)):
        folder.mkdir()
        pairs = ShardPairs(sorted((own / "valid").glob("*.tar")))
        rows = [(f"{i:03}", {"jpg": b"<html>" if i % share == 0 else pairs[i].image, "txt": pairs[i].caption.encode()})
                for i in range(len(pairs))]  # fmt: skip
        write_shards(rows, folder / folder.name, 20)
        pretrain.main(
            [*words(own), "--held-out", str(folder), "--folder", str(tmp_path / "runs"), "--measure-every", "3"]
        )
    first, second = (
        json.loads((run / "result.json").read_text())["readings"] for run in sorted((tmp_path / "runs").iterdir())
    )
    assert first["image to text R@1"]["chance"] == pytest.approx(1 / 25)
    assert "mlm loss" in first
    assert set(second) == {"codes used", "mlm loss"} or set(second) == {"codes used"}
    assert "of the held-out pairs no more is measured" in caplog.text


@pytest.mark.slow
def test_a_run_goes_on_though_its_data_was_moved(own: Path, done: Path, tmp_path: Path) -> None:
    """Five steps, and two and three with the folder elsewhere, give the same log."""
    arguments = [*words(own), "--save-every", "2", "--codes", "online"]
    pretrain.main([*arguments, "--folder", str(tmp_path / "whole")])
    (whole,) = (tmp_path / "whole").iterdir()
    moved = tmp_path / "moved"
    moved.symlink_to(own)
    shutil.rmtree(whole / "step-00000005")
    before = log(whole)
    pretrain.main([*words(moved), "--save-every", "2", "--codes", "online", "--resume", str(whole)])
    assert log(whole) == before
    with pytest.raises(ValueError, match=r"sources.pair.sources.1.length was 100, is 'missing'"):
        pretrain.main([*(w for w in words(own) if not w.startswith("cc=")), "--resume", str(whole)])


def corpus_of(own: Path, *more: str, seed: int = 0) -> tuple[Config, dict]:
    config = replace(parse([*words(own), *more]), seed=seed)
    return config, kinds(open_corpus(config), config)


def test_pairs_are_drawn_by_size_or_by_weight(own: Path) -> None:
    def shares(*more: str) -> Counter[str]:
        _, made = corpus_of(own, *more)
        return Counter(
            one.source.name for one in choose(made["pair"].source, 0, numbers=np.arange(1600, dtype=np.uint64))
        )

    assert shares() == {"coco": 600, "cc": 1000}
    assert shares("--pair-weights", "cc", "1", "coco", "3") == {"coco": 1200, "cc": 400}
    with pytest.raises(ValueError, match=r"the weights are of \['cc12m'\], the pairs of \['cc', 'coco'\]"):
        shares("--pair-weights", "cc12m", "1")


def test_a_window_reads_few_shards_and_takes_other_captions_from_them(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    caption = ShardPairs.caption
    monkeypatch.setattr(ShardPairs, "caption", lambda source, i: asked.append((source.name, i)) or caption(source, i))
    config, made = corpus_of(own, "--window", "1", "--mismatch-rate", "0.9")
    asked.clear()
    mixture = Mixture(made, 8, config.seed)
    drawn = choose(made["pair"].source, config.seed, numbers=np.arange(16, dtype=np.uint64))
    shards = {(one.source.name, one.at // 20) for one in drawn}
    assert len(shards) == 1
    for step in [step for step in range(20) if mixture.order(step).kind == "pair"][:2]:
        mixture[step]
    assert asked
    assert {(name, at // 20) for name, at in asked} == shards


def test_vocabulary_and_codebook_can_be_given(own: Path, done: Path, tmp_path: Path) -> None:
    more = ["--vocab", str(done / "vocab.txt"), "--codebook", str(done / "codebook.safetensors")]
    config = parse([*words(own), *more, "--vocab-size", "7", "--num-codes", "3"])
    corpus = open_corpus(config)
    assert corpus.tokenizer.tokens == WordPiece.from_file(done / "vocab.txt").tokens
    assert torch.equal(corpus.codebook.prototypes, load_codebook(done / "codebook.safetensors").prototypes)
    images = torch.randint(0, 256, (30, 3, 24, 24), dtype=torch.uint8)
    fit_patches(images, num_codes=5, patch_size=8).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="the codebook makes 3 x 3 codes of 24 px, the encoder sees 4 x 4 patches"):
        open_corpus(parse([*words(own), "--codebook", str(tmp_path / "other.safetensors")]))


def test_settings_that_shape_a_run_know_no_paths(own: Path) -> None:
    config = parse([*words(own), "--window", "2"])
    assert str(own) not in json.dumps(shaping(config))
    assert as_json(config)["own"]["pairs"] == [f"{own}/coco", f"cc={own}/cc/*.tar"]


def encode(own: Path, done: Path, *more: str) -> list:
    places = [str(own / name) for name in ("coco", "cc", "imagenet")]
    return encode_shards.run(codes_settings.parse([*places, "--codebook", str(done / "codebook.safetensors"), *more]))


@pytest.fixture
def coded(done: Path, tmp_path: Path) -> Path:
    """Its own copy of the data, with codes beside it."""
    folder = make_own(tmp_path / "coded")
    kept = encode(folder, done, "--crops", "2", "--batch-size", "7", "--threads", "2")
    assert (len(kept), sum(one.images for one in kept)) == (12, 240)
    return folder


def test_codes_beside_the_shards_are_used_and_are_those_of_the_crops(coded: Path, done: Path) -> None:
    """The codes of a batch, read from files, are those that the codebook gives for what the encoder was shown."""
    given = ["--codebook", str(done / "codebook.safetensors")]
    config, made = corpus_of(coded, *given)
    corpus = open_corpus(config)
    batch = Mixture(made, 8, config.seed)[next(s for s in range(20) if Mixture(made, 8, 0)[s].kind == "image")].batch
    assert batch.targets.shape == (8, 16)
    source = corpus.sources.images
    cached = {}
    for i in range(len(source)):
        for crop in range(2):
            view = corpus.sources.views(torch_image(source[i].image), source.crop_rng(i, crop))
            cached[view[0].numpy().tobytes()] = corpus.codebook.encode(view[1][None])[0]
    for pixels, codes in zip(batch.pixels, batch.targets, strict=True):
        assert torch.equal(codes, cached[pixels.numpy().tobytes()])
    online = corpus_of(coded, *given, "--codes", "online")[1]
    assert Mixture(online, 8, 0)[0].batch.targets.ndim == 4 or Mixture(online, 8, 0)[0].kind == "text"


def torch_image(data: bytes) -> torch.Tensor:
    from torchflava.transforms.image import decode_image

    return decode_image(data)


def test_a_run_with_codes_trains_and_refuses_to_go_on_without(coded: Path, done: Path, tmp_path: Path) -> None:
    arguments = [*words(coded), "--codebook", str(done / "codebook.safetensors"), "--folder", str(tmp_path / "runs")]
    pretrain.main([*arguments, "--codes", "cached", "--save-every", "3"])
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "data.json").read_text())["sources"]["image"]["crops"] == 2
    with pytest.raises(ValueError, match=r"sources.pair.sources.0.codes was 'codes-\w+', is 'missing'"):
        pretrain.main([*words(coded), "--codes", "online", "--resume", str(run)])


@pytest.mark.slow
def test_codes_that_were_made_since_a_run_began_do_not_stop_it(
    done: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_own(tmp_path / "data")
    given = ["--codebook", str(done / "codebook.safetensors"), "--save-every", "2"]
    pretrain.main([*words(folder), *given, "--folder", str(tmp_path / "runs")])
    assert (
        "codes of pairs are computed in each step; codes of images are computed in each step" in capfd.readouterr().out
    )
    (run,) = (tmp_path / "runs").iterdir()
    before = log(run)
    shutil.rmtree(run / "step-00000005")
    encode(folder, done)
    pretrain.main([*words(folder), *given, "--resume", str(run)])
    assert log(run) == before
    pretrain.main([*words(folder), *given, "--folder", str(tmp_path / "others")])
    assert "codes of pairs are read from beside the shards; codes of images are read" in capfd.readouterr().out


def test_without_codes_cached_is_an_error_and_auto_tells_of_a_part(
    coded: Path, done: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--codebook", str(done / "codebook.safetensors")]
    (listed,) = (coded / "cc").glob("codes-*/codes.json")
    listed.unlink()
    with pytest.raises(FileNotFoundError, match=r"there are none beside cc .*; make them by recipes/data/codes.py"):
        corpus_of(coded, *given, "--codes", "cached")
    _, made = corpus_of(coded, *given)
    assert "there are some, but none beside cc" in caplog.text
    mixture = Mixture(made, 8, 0)
    shown = {p.kind: p.batch.targets.ndim for p in (mixture[s] for s in range(20)) if p.kind != "text"}
    assert shown == {"pair": 4, "image": 2}
    (coded / "photos").mkdir()
    Image.effect_noise((40, 40), 90).save(coded / "photos" / "0.png")
    with pytest.raises(FileNotFoundError, match=r"none beside photos images \(it is not in shards\)"):
        corpus_of(coded, *given, "--images", f"{coded}/photos", "--codes", "cached", "--pairs", f"{coded}/coco")


def test_encoding_goes_on_where_it_stopped_and_leaves_out_what_cannot_be_decoded(
    own: Path, done: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_own(tmp_path / "data")
    shard = folder / "coco" / "coco-00001.tar"
    data = shard.read_bytes()
    at = data.index(b"\xff\xd8\xff", 30_000)
    shard.write_bytes(data[:at] + b"<html>" + data[at + 6 :])
    kept = encode(folder, done)
    assert [(one.images, one.unreadable) for one in kept[:3]] == [(20, 0), (20, 1), (20, 0)]
    assert "gets no codes" in caplog.text
    files = sorted(folder.glob("*/codes-*/*/*.safetensors"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-5])
    assert encode(folder, done) == kept
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert {path: data for path, (data, _) in after.items()} == {path: data for path, (data, _) in before.items()}
    assert {path for path in files if after[path][1] != before[path][1]} == set(files[:2])


def test_a_changed_shard_is_encoded_anew(own: Path, done: Path, tmp_path: Path) -> None:
    folder = make_own(tmp_path / "data")
    before = encode(folder, done)
    shutil.copy(folder / "coco" / "coco-00002.tar", folder / "coco" / "coco-00001.tar")
    after = encode(folder, done)
    assert [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new] == [1]
    source = corpus_of(folder, "--codebook", str(done / "codebook.safetensors"), "--codes", "cached")[1]["pair"].source
    assert source.sources[0].codes(25, 0).shape == (16,)


@pytest.mark.slow
def test_two_ranks_make_the_same_codes(own: Path, done: Path, tmp_path: Path) -> None:
    folder, alone = make_own(tmp_path / "data"), make_own(tmp_path / "alone")
    for shard in tmp_path.glob("*/c*/*.tar"):
        os.utime(shard, (10**9, 10**9))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", "--local-addr", "127.0.0.1", "recipes/data/codes.py", str(folder / "coco"),
               str(folder / "cc"), "--codebook", str(done / "codebook.safetensors"), "--threads", "1"]  # fmt: skip
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert told.returncode == 0, told.stderr
    assert "codes of 100 images in 5 shards, 0 could not be decoded" in told.stdout
    made = {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/codes-*/**/*.*") if path.is_file()}
    encode(alone, done)
    assert made == {
        path.relative_to(alone): path.read_bytes() for path in alone.glob("c*/codes-*/**/*.*") if path.is_file()
    }
    assert len(made) == 10


def test_a_part_of_a_folder_leaves_the_rest_of_its_list(coded: Path, done: Path) -> None:
    (listed,) = (coded / "cc").glob("codes-*/codes.json")
    before = json.loads(listed.read_text())
    given = ["--codebook", str(done / "codebook.safetensors"), "--crops", "2"]
    encode_shards.run(codes_settings.parse([str(coded / "cc" / "cc-00003.tar"), *given]))
    assert json.loads(listed.read_text()) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--preset tiny --pairs data/coco", "--pairs is for your own data; say --corpus own too"),
        ("--corpus own", "--shares.pair is 0.7, but --pairs names no place"),
        ("--corpus own --pairs a --images b --texts c --shares.pair 0.8 --shares.text 0.05 --shares.image 0.15 --window -1",
         "--window -1 must be 0 or more"),
        ("--corpus own --pairs a --texts c --shares.pair 1 --shares.image 0 --shares.text 0", "--texts are given, but"),
        ("--corpus own --pairs a --images b --texts c --cache d", "with --cache, --window must say"),
        ("--corpus own --pairs a --images b --texts c --cache-gb 0", "--cache-gb 0.0 must be above 0"),
        ("--corpus own --pairs a --images b --texts c --measure-every 3", "--measure-every has nothing to measure on"),
        ("--vocab none.txt", "--vocab none.txt is not there"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_is_opened(arguments: str, told: str) -> None:
    with pytest.raises(SystemExit) as error:
        parse(arguments.split())
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("data --codebook none.pkl", "--codebook none.pkl is not there"),
        ("data --codebook README.md --crops 0", "--crops 0 must be 1 or more"),
        ("data --codebook README.md --crops 65", "--crops 65 is above 64: all crops of an image are held at once"),
        ("data --codebook README.md --max-corrupt-fraction 2", "--max-corrupt-fraction 2.0 is no share; give 0 to 1"),
    ],
)
def test_the_script_of_codes_tells_what_cannot_be(arguments: str, told: str) -> None:
    with pytest.raises(SystemExit) as error:
        codes_settings.parse(arguments.split())
    assert told in str(error.value)
