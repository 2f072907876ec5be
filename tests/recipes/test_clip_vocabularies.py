"""CLIP over its own kind of vocabulary: learnt or given, kept, gone on with, and read by whoever measures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import pretrain
import zero_shot
from corpora import kinds, open_corpus
from evaluated import open_evaluated
from evaluation_settings import Subject
from export import model_of, read_config
from presets import parse

from torchflava.models import clip_for_pretraining, clip_to_open_clip, from_pretrained
from torchflava.training import TIMED
from torchflava.transforms import BytePair, WordPiece
from torchflava.transforms.tokenizer import tokenizer_beside

ALONE = "--weights.mim 0 --weights.mlm 0 --weights.mmm-image 0 --weights.mmm-text 0 --weights.itm 0"
PAIRS = "--shares.pair 1 --shares.image 0 --shares.text 0"
WORDS = ["--preset", "tiny", "--architecture", "clip", *ALONE.split(), *PAIRS.split(), "--vocab-size", "600",
         "--tokenizer", "bpe", "--steps", "4", "--warmup-steps", "1", "--save-every", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    pretrain.main([*WORDS, "--folder", str(folder)])
    (made,) = folder.iterdir()
    return made


@pytest.mark.slow
def test_a_run_learns_keeps_and_goes_on_with_it(run: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_beside(str(run), "")
    assert isinstance(tokenizer, BytePair)
    assert not (run / "vocab.txt").exists()
    assert 514 < tokenizer.vocab_size <= 600
    model = from_pretrained(run)
    assert (model.flava.text_encoder.vocab_size, model.flava.text_encoder.end_id) == (
        tokenizer.vocab_size,
        tokenizer.end_id,
    )
    assert model_of(read_config(run / "config.json"), run).flava.text_encoder.end_id == tokenizer.end_id
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [record["pair/contrastive"] for record in records if "pair/contrastive" in record]
    assert len(losses) == 4
    assert "zero-shot, all 64" in json.loads((run / "result.json").read_text())["readings"]
    (tmp_path / "half").mkdir()
    for file in ("config.json", "data.json", "tokenizer.json"):
        (tmp_path / "half" / file).write_bytes((run / file).read_bytes())
    (half,) = run.glob("step-*2")
    (tmp_path / "half" / half.name).symlink_to(half)
    pretrain.main([*WORDS, "--resume", str(tmp_path / "half")])
    gone_on = [json.loads(line) for line in (tmp_path / "half" / "log.jsonl").read_text().splitlines()]
    again = [{k: v for k, v in record.items() if k not in TIMED} for record in gone_on if "pair/contrastive" in record]
    due = [{k: v for k, v in record.items() if k not in TIMED} for record in records if record["step"] > 2]
    assert [record["pair/contrastive"] for record in again] == [
        r["pair/contrastive"] for r in due if "pair/contrastive" in r
    ]


@pytest.mark.slow
def test_a_clip_of_open_clip_s_layout_is_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written for open_clip and read back: the same zero-shot numbers as the run's own."""
    model, tokenizer = from_pretrained(run), tokenizer_beside(str(run), "")
    assert isinstance(tokenizer, BytePair)
    clip_to_open_clip(model, tmp_path / "open_clip")
    tokenizer.save(tmp_path / "open_clip" / "tokenizer.json")
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255)), ("green", (0, 128, 0))):
        for number in range(4):
            (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40 + number), colour).save(tmp_path / "images" / name / f"{number}.png")
    found = []
    for which in (run, tmp_path / "open_clip"):
        asked = ["--model", str(which), "--images", str(tmp_path / "images"), "--max-length", "32"]
        zero_shot.main([*asked, "--out", str(tmp_path / f"of {which.name}")])
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    assert "images: zero_shot_accuracy" in found[0]
    mine, theirs = (open_evaluated(Subject(str(which)), torch.device("cpu")) for which in (run, tmp_path / "open_clip"))
    texts = ["a red circle", "!? two", ""]
    torch.testing.assert_close(theirs.embed_text(texts), mine.embed_text(texts))
    image = torch.arange(3 * 32 * 32).view(1, 3, 32, 32).remainder(256).to(torch.uint8)
    torch.testing.assert_close(theirs.embed_image(image), mine.embed_image(image))


def test_nothing_of_a_text_is_masked() -> None:
    config = parse(WORDS)
    corpus = open_corpus(config)
    kind = kinds(corpus, config)["pair"]
    row = kind.row(kind.source, 3, np.random.default_rng(0))
    assert not row.text.positions
    assert row.ids[-1] == corpus.tokenizer.end_id
    batch = kind.collate([row])
    assert (batch.token_labels == -100).all()


def test_a_vocabulary_of_either_kind_can_be_given(tmp_path: Path) -> None:
    bpe = BytePair.train(["a red circle", "a blue box"] * 9, 530)
    bpe.save(tmp_path / "tokenizer.json")
    given = open_corpus(parse([*WORDS[:-8], "--vocab", str(tmp_path)])).tokenizer
    assert isinstance(given, BytePair)
    assert given.tokens == bpe.tokens
    with pytest.raises(ValueError, match=r"CLIP's kind, which has no \[MASK\]"):
        open_corpus(parse(["--preset", "tiny", "--vocab", str(tmp_path)]))
    WordPiece.train(["a red circle"] * 3, 40).save(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="--tokenizer bpe asks for another kind"):
        open_corpus(parse([*WORDS, "--vocab", str(tmp_path / "vocab.txt")]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "tiny", "--tokenizer", "bpe"], "--tokenizer bpe is CLIP's"),
        ([*WORDS, "--vocab-size", "500"], "--vocab-size 500 is too small for --tokenizer bpe"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words)
    assert said in str(end.value)


def test_a_model_without_keep_reads_texts_at_their_end() -> None:
    from start import build

    config = parse(WORDS)
    model = build(config, 600, 32, end_id=599).flava
    ids = torch.tensor([[598, 0, 599, 0], [598, 599, 7, 7]])
    whole = model.embed_text(ids)
    torch.testing.assert_close(whole[0], model.embed_text(ids[:1, :3])[0])
    assert clip_for_pretraining(model).flava is model
