"""Codebooks on the Hub, a server of the test's own: sent with a page, found beside a model, read wherever one is named."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import huggingface_hub.constants
import huggingface_hub.utils
import pytest
import torch
from fake_hub import TOKEN, Hub, only_hub
from tiny import NUM_CODES, flava, one_width

from torchflava.codebooks import DalleCodebook, PatchCodebook, fit_patches, load_codebook
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.convert import main as convert
from torchflava.models import from_pretrained, push_to_hub, save_pretrained, to_transformers
from torchflava.models.card import Facts
from torchflava.models.hub import find_or_fetch_codebook
from torchflava.transforms import WordPiece

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "data"))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import corpora
import encode_shards
import look
from codes_settings import parse
from complaints import complaints_of_places
from presets import tiny

Book = DalleCodebook | PatchCodebook


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with only_hub(monkeypatch, tmp_path) as hub:
        yield hub


def dalle(seed: int = 0) -> DalleCodebook:
    generator = torch.Generator().manual_seed(seed)
    shapes = dalle_layout(width=8, blocks=1, num_codes=NUM_CODES)
    return DalleCodebook({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, image_size=24)


def patches(seed: int = 0) -> PatchCodebook:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (40, 3, 12, 12), generator=generator, dtype=torch.uint8)
    return fit_patches(images, num_codes=NUM_CODES, patch_size=4)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, others = one.state_dict(), other.state_dict()
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def file_of(codebook: Book, folder: Path) -> bytes:
    codebook.save(folder / "book.safetensors")
    return (folder / "book.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (dalle, ("the encoder of a discrete VAE", '- "dvae"', "| 37 | 24 px, or another multiple of 8 | 3 x 3, each of 8 px |")),
        (patches, ("found by k-means", '- "k-means"', "| 37 | 12 px | 3 x 3, each of 4 px |")),
    ],
)  # fmt: skip
def test_a_codebook_is_sent_with_a_page_and_read_back(
    make: Any, told: tuple[str, ...], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = tmp_path / "mine"
    run.mkdir()
    (run / "config.json").write_text('{"steps": 7, "own": {"images": "/home/someone/cells"}}')
    (run / "result.json").write_text('{"readings": {"codes used": {"value": 0.75, "chance": 0.027}}}')
    (run / "codebook.safetensors").write_bytes(b"another")
    hub.add("me/codes", {"codebook.safetensors": file_of(make(1), tmp_path), "notes.txt": b"mine"})
    codebook = make()
    push_to_hub(codebook, "me/codes", run=run, facts=Facts("mit"))
    sent = hub.repos["me/codes"]["main"]
    assert sent.keys() == {"model.safetensors", "README.md", "config.json", "notes.txt"}, "not beside an older codebook"
    assert b"someone" not in b"".join(sent.values())
    page = sent["README.md"].decode()
    lines = (
        'license: "mit"',
        "pipeline_tag: image-feature-extraction",
        "| codes used | 0.75 | 0.027 |",
        "| `steps` | `7` |",
    )
    for line in (*lines, *told, f"--codebook me/codes --code-size {codebook.image_size}"):
        assert line in page, line
    names: dict[str, Any] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    assert same(names["codebook"], codebook)
    assert torch.equal(names["codes"], codebook.encode(names["pixels"]))
    assert names["codes"].shape == (1, 9)
    assert same(load_codebook(find_or_fetch_codebook("me/codes")), codebook)


def test_what_does_not_go_with_a_codebook(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    words = WordPiece.from_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"])
    for options in ({"tokenizer": words}, {"codebook": patches()}):
        with pytest.raises(ValueError, match="a PatchCodebook goes by itself; leave tokenizer and codebook out"):
            push_to_hub(patches(), "me/codes", **cast(Any, options))
    assert not hub.repos


def test_beside_a_model_the_codebook_alone_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pretrained(flava(), tmp_path / "model.safetensors")
    weights = (tmp_path / "model.safetensors").read_bytes()
    hub.add("some/flava", {"model.safetensors": weights, "codebook.safetensors": file_of(patches(), tmp_path)})
    hub.add("some/flava", {"codebook.safetensors": file_of(patches(1), tmp_path)}, "tuned")
    assert same(load_codebook(find_or_fetch_codebook("some/flava")), patches())
    assert {asked.rpartition("/")[2] for asked in hub.asked if "/resolve/" in asked} == {"codebook.safetensors"}
    assert same(load_codebook(find_or_fetch_codebook("some/flava", "tuned")), patches(1))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.close_session()
    assert same(load_codebook(find_or_fetch_codebook("some/flava")), patches())
    with pytest.raises(ConnectionError, match=r"not whole in the cache"):
        find_or_fetch_codebook("some/codes")
    for gone in ("runs/none.safetensors", "./none"):
        with pytest.raises(FileNotFoundError, match="there is no file or folder"):
            find_or_fetch_codebook(gone)
    (tmp_path / "run").mkdir()
    patches().save(tmp_path / "run/codebook.safetensors")
    assert find_or_fetch_codebook(tmp_path / "run") == tmp_path / "run/codebook.safetensors"


def test_every_recipe_that_takes_one_takes_its_name(hub: Hub, tmp_path: Path) -> None:
    to_transformers(dalle(), tmp_path / "theirs")  # as facebook/flava-image-codebook lies on the Hub
    hub.add("some/dvae", {file.name: file.read_bytes() for file in (tmp_path / "theirs").iterdir()})
    hub.add("some/patches", {"model.safetensors": file_of(patches(), tmp_path)})
    config = replace(cast(Any, tiny()), codebook="some/dvae", code_size=48)
    assert not [*complaints_of_places(config)]
    (told,) = complaints_of_places(replace(config, codebook="weights/encoder.pkl"))
    assert "--codebook weights/encoder.pkl is not there" in told
    learnt = corpora._codebook(config, cast(Any, None))
    assert learnt.image_size == 48
    assert same(learnt, dalle())
    assert same(encode_shards._codebook(parse(["shards", "--codebook", "some/patches"])), patches())
    resized = encode_shards._codebook(parse(["shards", "--codebook", "some/dvae", "--code-size", "16"]))
    assert (resized.image_size, same(resized, dalle())) == (16, True)
    assert same(look._codebook(look.LookAt("runs/first", codebook="some/patches"), tmp_path), patches())
    save_pretrained(one_width(), tmp_path / "flava.safetensors")
    convert([str(tmp_path / "flava.safetensors"), str(tmp_path / "out"), "--codebook", "some/dvae"])
    assert same(DalleCodebook.from_file(tmp_path / "out"), dalle())
    assert same(from_pretrained("some/dvae"), dalle())
