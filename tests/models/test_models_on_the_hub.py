"""Models on the Hub, which is a server of the test's own: fetched once, found offline, refused with a reason, sent and loaded."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils
import pytest
import torch
from fake_hub import TOKEN, Hub, commit_of, only_hub, serving
from tiny import VOCAB_SIZE, flava, pretraining

from torchflava.export import Export, export
from torchflava.files import save_tensors
from torchflava.models import (
    Facts,
    Flava,
    from_pretrained,
    layouts_transformers,
    load_pretrained,
    push_to_hub,
    save_pretrained,
)
from torchflava.models.hub import is_hub_name
from torchflava.models.layout import to_theirs
from torchflava.transforms import WordPiece


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with only_hub(monkeypatch, tmp_path) as hub:
        yield hub


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.close_session()


def words() -> WordPiece:
    return WordPiece.from_tokens(
        ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"w{i}" for i in range(VOCAB_SIZE - 5))]
    )


def content(tmp_path: Path, name: str = "model.safetensors", *, seed: int = 0) -> dict[str, bytes]:
    """A repository of a small FLAVA: its weights, whose file is named so, and what else lies in a repository."""
    model = flava(seed)
    if name.endswith(".bin"):
        torch.save(to_theirs(layouts_transformers.MODEL, model.state_dict()), tmp_path / name)
    else:
        save_pretrained(model, tmp_path / name)
    return {
        name: (tmp_path / name).read_bytes(),
        "README.md": b"# a model",
        "vocab.txt": "\n".join(words().tokens).encode() + b"\n",
        "model.py": b"raise SystemExit('run')",
        "flax_model.msgpack": b"x" * 100,
        "onnx/model.onnx": b"x",
    }


def same(model: object, seed: int = 0) -> bool:
    ours, expected = model.state_dict(), flava(seed).state_dict()  # type: ignore[attr-defined]
    return all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_a_model_is_fetched_once_and_found_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("some/flava", content(tmp_path))
    loaded = load_pretrained("some/flava")
    assert loaded.layout == "torchflava's Flava"
    assert same(loaded.model)
    fetched = {asked.rpartition("/")[2] for asked in hub.asked if "/resolve/" in asked}
    assert fetched == {"model.safetensors", "vocab.txt"}, "code, other weights and pages stay where they are"
    assert any("/cdn/" in asked for asked in hub.asked), "the weights stand elsewhere, as in LFS"
    hub.asked.clear()
    assert same(from_pretrained("some/flava"))
    assert not [asked for asked in hub.asked if "/resolve/" in asked]
    offline(monkeypatch)
    hub.asked.clear()
    assert same(from_pretrained("some/flava"))
    assert not hub.asked


@pytest.mark.slow
def test_the_cache_serves_while_the_hub_is_down(hub: Hub, tmp_path: Path) -> None:
    hub.add("some/flava", content(tmp_path))
    from_pretrained("some/flava")
    hub.broken = True
    assert same(from_pretrained("some/flava"))


@pytest.mark.slow
def test_a_revision(hub: Hub, tmp_path: Path) -> None:
    hub.add("some/flava", content(tmp_path))
    hub.add("some/flava", content(tmp_path, seed=1), "tuned")
    assert same(from_pretrained("some/flava"), 0)
    assert same(from_pretrained("some/flava", revision="tuned"), 1)
    assert same(from_pretrained("some/flava", revision=commit_of(hub.repos["some/flava"]["tuned"])), 1)
    with pytest.raises(FileNotFoundError, match=r"'some/flava' on the Hub has no revision 'v9'"):
        from_pretrained("some/flava", revision="v9")
    save_pretrained(flava(), tmp_path / "own.safetensors")
    export(Export("some/flava", tmp_path / "out", "pt2", ("image",), "tuned", check=False))
    given = torch.randn(3, 3, 15, 15, generator=torch.Generator().manual_seed(0))
    program = torch.export.load(tmp_path / "out/image.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(program(given)["image_embedding"], flava(1).eval().embed_image(given))
    with pytest.raises(ValueError, match=r"has no revision 'v9'; leave it out"):
        from_pretrained(str(tmp_path / "own.safetensors"), revision="v9")


def test_safetensors_are_preferred_and_a_bin_is_read_without_them(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("old/flava", content(tmp_path, "pytorch_model.bin"))
    assert load_pretrained("old/flava", num_heads=2).layout == "transformers' FlavaModel"
    both = content(tmp_path, "pytorch_model.bin") | content(tmp_path)
    hub.add("new/flava", both)
    hub.asked.clear()
    assert load_pretrained("new/flava").layout == "torchflava's Flava"
    assert not [asked for asked in hub.asked if "pytorch_model" in asked]
    offline(monkeypatch)
    assert load_pretrained("old/flava", num_heads=2).layout == "transformers' FlavaModel"
    for trees in tmp_path.glob("cache/*/trees"):  # which older versions of the library do not keep
        shutil.rmtree(trees)
    assert load_pretrained("old/flava", num_heads=2).layout == "transformers' FlavaModel"


@pytest.mark.slow
def test_shards(hub: Hub, tmp_path: Path) -> None:
    state = flava().state_dict()
    halves = {f"model-{i}-of-2.safetensors": dict(list(state.items())[i - 1 :: 2]) for i in (1, 2)}
    where = {name: file for file, part in halves.items() for name in part}
    files = {"model.safetensors.index.json": json.dumps({"weight_map": where}).encode()}
    for file, part in halves.items():
        save_tensors(tmp_path / file, part)
        files[file] = (tmp_path / file).read_bytes()
    hub.add("large/flava", files)
    assert same(from_pretrained("large/flava", num_heads=2))


def test_what_is_not_there_or_not_for_this_user(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder no/such, and the Hub shows no model 'no/such'.*spelling"
    ):
        from_pretrained("no/such")
    hub.add("some/pages", {"README.md": b"# nothing", "weights.onnx": b"x"})
    with pytest.raises(
        FileNotFoundError, match=r"has no model.safetensors and no pytorch_model.bin, only README.md, weights.onnx"
    ):
        from_pretrained("some/pages")
    hub.add("meta/gated", content(tmp_path))
    hub.gated.add("meta/gated")
    with pytest.raises(PermissionError, match=r"'meta/gated' on the Hub is for those only who were let in.*HF_TOKEN"):
        from_pretrained("meta/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert same(from_pretrained("meta/gated"))


def test_a_pickle_on_the_hub_is_refused_and_not_run(hub: Hub, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"weight": Bomb()}, tmp_path / "pytorch_model.bin")
    hub.add("evil/flava", {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    with pytest.raises(ValueError, match=r"its pickle names .*which is not read"):
        from_pretrained("evil/flava")
    assert not (tmp_path / "exploded").exists()


def test_offline_without_a_copy(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(
        ConnectionError, match=r"no file or folder facebook/flava-full, and .*not whole in the cache.*HF_HUB_OFFLINE"
    ):
        from_pretrained("facebook/flava-full")
    assert not hub.asked


@pytest.mark.parametrize(
    "name",
    [
        "flava",
        "./a/b",
        "a/b/c",
        "a/b.safetensors",
        "a/model.pt",
        "~/x",
        "/a/b",
        "a\\b",
        "../x",
        "a/..",
        "a b/c",
        "",
        "tests/x",
    ],
)
def test_a_path_with_a_mistake_in_it_is_not_looked_for_on_the_hub(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder|holds none of"):
        from_pretrained(name)
    with pytest.raises(FileNotFoundError, match=r"a model on the Hugging Face Hub is named OWNER/NAME, as a string"):
        from_pretrained(Path("facebook/flava-full"))
    assert not hub.asked


def test_names() -> None:
    assert all(map(is_hub_name, ("facebook/flava-full", "timm/vit_base_patch16_224.dino", "a1/B-2_c.d")))


def test_a_model_is_sent_with_a_page_and_loaded_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = tmp_path / "first"
    run.mkdir()
    (run / "config.json").write_text('{"preset": "tiny", "steps": 7, "data": "/home/someone/secret/emoji"}')
    (run / "result.json").write_text('{"readings": {"mim loss": {"value": 1.25, "chance": 3.5}}}')
    words().save(run / "vocab.txt")
    model = pretraining()
    facts = Facts("bsd-3-clause", ("some/pairs",), ("en",))
    address = push_to_hub(model, "me/small", run=run, facts=facts, private=True, revision="first")
    assert address.startswith(f"{hub.url}/me/small/commit/")
    assert "me/small" in hub.private
    assert hub.repos["me/small"]["main"] == {}
    sent = hub.repos["me/small"]["first"]
    assert sent.keys() == {"model.safetensors", "README.md", "vocab.txt", "config.json"}
    assert b"someone" not in b"".join(sent.values()), "where the data lie stays with the user"
    page = sent["README.md"].decode()
    for line in (
        'license: "bsd-3-clause"', "library_name: torchflava", "pipeline_tag: zero-shot-image-classification", '- "some/pairs"',
        "| image | 22 | 2 | 2 | 23 |", "| mim loss | 1.25 | 3.5 |", "| `steps` | `7` |", '| `data` | `"emoji"` |',
        'model = from_pretrained("me/small")',
    ):  # fmt: skip
        assert line in page, line
    loaded = from_pretrained("me/small", revision="first")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_the_page_runs(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it tells to do, it does."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push_to_hub(flava(), "me/bare", tokenizer=words())
    page = hub.repos["me/bare"]["main"]["README.md"].decode()
    assert "Not stated yet: add `license:`" in page
    names: dict[str, object] = {}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    assert isinstance(names["model"], Flava)
    assert WordPiece.from_hub("me/bare").tokens == words().tokens


@pytest.mark.slow
def test_no_older_vocabulary_stays_beside_the_one_that_is_sent(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose name would be looked for first."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push_to_hub(
        flava(), "me/small", tokenizer=WordPiece.from_tokens(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "old"])
    )
    words().save(tmp_path / "vocab.txt")
    push_to_hub(flava(), "me/small", run=tmp_path)
    assert hub.repos["me/small"]["main"].keys() == {"model.safetensors", "README.md", "vocab.txt"}
    assert WordPiece.from_hub("me/small").tokens == words().tokens
    push_to_hub(flava(1), "me/small")
    assert "vocab.txt" in hub.repos["me/small"]["main"], "what is not sent anew stays"


def test_what_cannot_be_sent(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError, match=r"let this user write to 'me/small'.*hf auth login"):
        push_to_hub(flava(), "me/small")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ValueError, match=r"is no name for a model on the Hub"):
        push_to_hub(flava(), "me//small")
    with pytest.raises(FileNotFoundError, match=r"no run's folder"):
        push_to_hub(flava(), "me/small", run=tmp_path / "gone")
    hub.broken = True
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with pytest.raises(ConnectionError, match=r"the Hub did not take 'me/small'"):
        push_to_hub(flava(), "me/small")
    offline(monkeypatch)
    with pytest.raises(ConnectionError, match=r"nothing is sent while HF_HUB_OFFLINE is set"):
        push_to_hub(flava(), "me/small")


@pytest.mark.slow
def test_the_environment_is_heeded(tmp_path: Path) -> None:
    """In a process of its own, which reads HF_ENDPOINT, HF_HOME and HF_TOKEN as a user's does."""
    with serving() as hub:
        hub.add("mine/flava", content(tmp_path))
        hub.private.add("mine/flava")
        command = [
            sys.executable,
            "-m",
            "torchflava.convert",
            "mine/flava",
            str(tmp_path / "out"),
            "--to",
            "torchflava",
        ]
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "0",
        }
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert refused.returncode == 1
        assert "the Hub shows no model 'mine/flava' to this user" in refused.stderr
        done = subprocess.run(
            command, env=environment | {"HF_TOKEN": TOKEN}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert same(from_pretrained(tmp_path / "out"))
