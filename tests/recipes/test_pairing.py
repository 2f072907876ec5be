"""Pairs told apart without training, through the recipe's command line."""

import json
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
from made_tasks import picture
from results import read_results
from seers import COLOURS

from torchflava.models import from_pretrained, save_pretrained
from torchflava.tasks import read_image
from torchflava.transforms.image import EvalView, normalise
from torchflava.transforms.wordpiece import WordPiece


def rows(folder: Path) -> list[dict[str, object]]:
    """Each of six colours with three names."""
    found = []
    for at in range(6):
        picture(folder / f"images/{at}.png", at)
        for step in range(3):
            name = COLOURS[(at + step) % 6]
            found.append({"image": f"images/{at}.png", "text": f"a {name} one", "label": int(step == 0)})
    return found


def judge(model: Path | str, folder: Path, made: list[dict[str, object]], *words: str) -> dict[str, float]:
    file = folder / "shelf.jsonl"
    file.write_text("\n".join(map(json.dumps, made)))
    zero_shot.main(["--model", str(model), "--out", str(folder), "--device", "cpu", "--pairs", str(file), *words])
    found = read_results(folder / "results.json")
    assert {(row.task, row.settings["num_pairs"]) for row in found} == {("shelf", len(made))}
    return {row.metric: row.value for row in found}


def test_who_knows_colours_tells_all_pairs_apart(tmp_path: Path) -> None:
    assert judge("seers:painter", tmp_path, rows(tmp_path)) == pytest.approx({"auroc": 1.0, "auroc, by itm": 1.0})


def test_who_sees_nothing_tells_none(tmp_path: Path) -> None:
    assert judge("seers:blind", tmp_path, rows(tmp_path)) == {"auroc": 0.5}


def test_scores_are_the_models_own(tmp_path: Path) -> None:
    """Against the model called one pair at a time."""
    folder = tmp_path / "small"
    folder.mkdir()
    save_pretrained(tiny.pretraining(), folder / "model.safetensors")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, "a", "one"]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    made = rows(tmp_path)
    found = judge(folder, tmp_path, made, "--batch-size", "4")
    model, tokenizer, view = from_pretrained(folder), WordPiece.from_file(folder), EvalView(tiny.IMAGE_SIZE)
    cosine, matched = [], []
    with torch.no_grad():
        for row in made:
            pixels = normalise(view(read_image(tmp_path / str(row["image"])))[None])
            ids = torch.tensor([tokenizer.encode(str(row["text"]), tiny.MAX_LENGTH).ids])
            cosine.append(float(F.cosine_similarity(model.embed_image(pixels), model.embed_text(ids))))
            matched.append(float(model.itm(model.flava(pixels, ids).fused.cls).softmax(1)[0, 1]))
    for metric, scores in (("auroc", cosine), ("auroc, by itm", matched)):
        of = {label: [s for s, row in zip(scores, made, strict=True) if row["label"] == label] for label in (0, 1)}
        wins = [(one > other) + 0.5 * (one == other) for one in of[1] for other in of[0]]
        assert found[metric] == pytest.approx(sum(wins) / len(wins), abs=1.01 / len(wins))


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    made = rows(tmp_path)

    def ends(told: str, its: list[dict[str, object]], *words: str) -> None:
        with pytest.raises((SystemExit, ValueError), match=told):
            judge("seers:painter", tmp_path, its, *words)

    ends("have the label 1; pairs of both kinds are due", [row | {"label": 1} for row in made])
    ends("has the label 'yes'; there are 0, 1", [made[0] | {"label": "yes"}])
    ends("give one of --task NAMES", made, "--task", "pets")
    ends("leave it out with --pairs", made, "--page", "a.html")
    ends("--names and --templates are for classification", made, "--templates", str(tmp_path / "shelf.jsonl"))
    ends("no text as 'text'", [{"image": "images/0.png", "label": 1}])
    (tmp_path / "images/0.png").unlink()
    ends("0.png", made)
