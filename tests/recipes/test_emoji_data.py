"""recipes/data/emoji.py on small hand-made copies of the packages' real layouts, hostile members included."""

import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from torchflava.data.lines import TextLines
from torchflava.data.shards import ShardImages, ShardPairs

SCRIPT = Path(__file__).parents[2] / "recipes/data/emoji.py"
NOUNS = """\
  1 This software and database is being provided under a licence
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 | that which is perceived; "it is"
00002137 03 n 02 abstraction 0 abstract_entity 0 010 @ 00001740 n 0000 | a general concept | with a bar
"""
ADJECTIVES = (
    "00003131 00 a 0b " + " ".join(f"word_{i}(p) 0" for i in range(11)) + " 001 ! 0000 a 0101 | eleven words  \n"
)


@pytest.fixture(scope="module")
def emoji() -> ModuleType:
    spec = importlib.util.spec_from_file_location("emoji_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def picture(colour: tuple[int, int, int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), colour).save(file, kind)
    return file.getvalue()


def tgz(path: Path, files: dict[str, bytes], links: tuple[str, ...] = ()) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def emojibase() -> dict[str, bytes]:
    tones = [{"label": "waving hand: light skin tone", "hexcode": "1F44B-1F3FB", "group": 1, "subgroup": 16, "tone": 1}]
    tones += [{"label": "waving hand: two", "hexcode": "1F44B-1F3FC", "group": 1, "subgroup": 16, "tone": [1, 5]}]
    data: list[dict[str, Any]] = [
        {
            "label": "waving hand",
            "hexcode": "1F44B",
            "tags": ["bye", "hey you"],
            "group": 1,
            "subgroup": 16,
            "skins": tones,
        },
        {"label": "kiss: woman, man", "hexcode": "1F469-200D-2764-FE0F-200D-1F468", "group": 1, "subgroup": 16},
        {"label": "keycap: #", "hexcode": "0023-FE0F-20E3", "group": 1, "subgroup": 17},
        {"label": "flag: England", "hexcode": "1F3F4-E0067-E007F", "group": 1, "subgroup": 17},
        {"label": "regional indicator A", "hexcode": "1F1E6"},
    ]
    messages = {"groups": [{"key": "people-body", "order": 1}]}
    messages["subgroups"] = [{"key": "hand-open", "order": 16}, {"key": "other", "order": 17}]
    texts = {"package/en/data.json": data, "package/en/messages.json": messages, "package/de/data.json": []}
    return {name: json.dumps(text).encode() for name, text in texts.items()}


@pytest.fixture
def packages(emoji: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The four tarballs, pinned by their own hashes."""
    folder = tmp_path / "packages"
    folder.mkdir()
    red, webp = picture((255, 0, 0, 255)), picture((0, 0, 255, 255), "WEBP")
    google = {
        "package/img/google/64/1f44b.png": red,
        "package/img/google/64/1f44b-1f3fb.png": red,
        "package/img/google/64/0023-fe0f-20e3.png": red,
        "package/img/google/64/1f469-200d-2764-fe0f-200d-1f468.png": red,
        "package/img/google/64/1f1e6.png": red,
        "package/img/google/64/../../../../1f44b.png": picture((0, 255, 0, 255)),
        "package/img/google/sheets/64.png": red,
    }
    twitter = {
        "package/img/twitter/64/1f44b.png": red[:50],
        "package/img/twitter/64/23-20e3.png": picture((9, 9, 9, 0)),
        "package/img/twitter/64/1f469-200d-2764-fe0f-200d-1f468.png": red,
    }
    microsoft = {
        "package/assets/1f44b.webp": webp,
        "package/assets/23-20e3.webp": webp,
        "package/assets/0023-fe0f-20e3.webp": webp,
        "package/assets/1f3f4-e0067.webp": webp,
    }
    files = {"google": google, "twitter": twitter, "microsoft": microsoft}
    vendors = []
    for vendor in emoji.VENDORS:
        link = vendor.members.split("(")[0] + f"1f3f4-e0067-e007f.{vendor.ending}"
        vendors.append(vendor._replace(package=_pinned(vendor.package, folder, files[vendor.name], (link,))))
    monkeypatch.setattr(emoji, "VENDORS", tuple(vendors))
    monkeypatch.setattr(emoji, "EMOJIBASE", _pinned(emoji.EMOJIBASE, folder, emojibase()))
    return folder


def _pinned(package: Any, folder: Path, files: dict[str, bytes], links: tuple[str, ...] = ()) -> Any:
    name = f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
    return package._replace(sha256=tgz(folder / name, files, links))


@pytest.fixture
def config(emoji: ModuleType, packages: Path, tmp_path: Path) -> Any:
    (tmp_path / "texts.txt").write_text("one two\n\nthree\n", encoding="utf-8")
    return emoji.Config(tmp_path / "out", texts=tmp_path / "texts.txt", shard_size=2, packages=packages)


def captions(folder: Path, vendor: str) -> list[str]:
    pairs = ShardPairs(sorted(folder.glob(f"{vendor}-*.tar")))
    return [pairs.caption(i) for i in range(len(pairs))]


def test_the_card_counts_what_was_kept_and_why_not(emoji, config):
    card = {row.pop("source"): row for row in emoji.main(config)}
    assert card["google"] == {"samples": 3, "average_words": 3.3, "rejected": {"skin tone": 1, "no name": 1}}
    assert card["twitter"] == {"samples": 1, "average_words": 3.0, "rejected": {"damaged image": 1, "blank image": 1}}
    assert card["microsoft"] == {"samples": 3, "average_words": 3.0, "rejected": {"seen before": 1}}
    assert card["images"]["samples"] == 4
    assert card["texts"] == {"samples": 2, "average_words": 1.5, "rejected": {}}
    assert json.loads((config.out / "card.json").read_bytes())[0]["samples"] == 3
    assert "1 no name, 1 skin tone" in emoji.show(json.loads((config.out / "card.json").read_bytes()))


def test_shards_hold_name_and_keywords_and_what_emojibase_says(emoji, config):
    emoji.main(config)
    assert sorted(captions(config.out, "google")) == ["keycap: #", "kiss: woman, man", "waving hand; bye; hey you"]
    assert sorted(captions(config.out, "microsoft")) == ["flag: England", "keycap: #", "waving hand; bye; hey you"]
    shards = sorted(config.out.glob("google-*.tar"))
    assert [path.name for path in shards] == ["google-00000.tar", "google-00001.tar"]
    pairs = ShardPairs(shards)
    metas = {meta["codepoints"]: meta for meta in map(pairs.meta, range(len(pairs)))}
    assert metas["1F44B"] == {
        "codepoints": "1F44B",
        "name": "waving hand",
        "keywords": ["bye", "hey you"],
        "group": "people-body",
        "subgroup": "hand-open",
        "tones": [],
        "vendor": "google",
    }
    assert {pairs[i].image for i in range(3)} == {picture((255, 0, 0, 255))}  # the one that leads elsewhere is green


def test_images_are_of_the_trained_styles_and_have_no_captions(emoji, config):
    emoji.main(config)
    shards = sorted(config.out.glob("images-*.tar"))
    images = ShardImages(shards)
    assert {images.meta(i)["vendor"] for i in range(len(images))} == {"google", "twitter"}
    with pytest.raises(ValueError, match="none of 4 samples"):
        ShardPairs(shards)


def test_skin_tones_on_request(emoji, config):
    emoji.main(emoji.Config(**{**vars(config), "skin_tones": True}))
    assert "waving hand: light skin tone; bye; hey you" in captions(config.out, "google")
    pairs = ShardPairs(sorted(config.out.glob("google-*.tar")))
    assert sorted(pairs.meta(i)["tones"] for i in range(len(pairs))) == [[], [], [], [1]]


def test_a_build_is_the_same_again_and_goes_on_where_it_stopped(emoji, config):
    emoji.main(config)
    before = {path.name: path.read_bytes() for path in config.out.iterdir()}
    (config.out / "google-00001.tar").unlink()
    (config.out / ".google-00001.tar.part").write_bytes(b"half")
    untouched = (config.out / "google-00000.tar").stat().st_mtime_ns
    emoji.main(config)
    assert {path.name: path.read_bytes() for path in config.out.iterdir()} == before
    assert (config.out / "google-00000.tar").stat().st_mtime_ns == untouched


def test_a_folder_does_not_mix_two_settings(emoji, config):
    emoji.main(config)
    with pytest.raises(ValueError, match="choose another --out"):
        emoji.main(emoji.Config(**{**vars(config), "shard_size": 3}))


def test_another_tarball_than_the_pinned_one_is_refused(emoji, config, packages):
    tgz(next(packages.glob("emojibase*")), emojibase() | {"package/more": b""})
    with pytest.raises(ValueError, match=r"emojibase-data-17\.0\.0\.tgz has sha256"):
        emoji.main(config)


def test_without_npm_the_remedy_is_named(emoji, config, packages, monkeypatch):
    next(packages.glob("emojibase*")).unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="npm is not on the PATH"):
        emoji.main(config)


def test_npm_is_asked_for_the_pinned_version_and_its_failure_shown(emoji, config, packages, tmp_path, monkeypatch):
    path = next(packages.glob("lobehub*"))
    kept = path.rename(tmp_path / "kept.tgz")
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\n[ "$*" = "pack @lobehub/fluent-emoji-3d@1.1.0" ] && /bin/cp {kept} {path.name}\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    emoji.main(config)
    assert path.read_bytes() == kept.read_bytes()
    path.unlink()
    npm.write_text("#!/bin/sh\necho no such version >&2\nexit 1\n")
    with pytest.raises(ValueError, match=r"npm pack .* failed: no such version"):
        emoji.main(config)


def test_glosses_are_wordnets_senses(emoji):
    assert list(emoji.glosses(NOUNS)) == [
        'entity: that which is perceived; "it is"',
        "abstraction, abstract entity: a general concept | with a bar",
    ]
    assert list(emoji.glosses(ADJECTIVES)) == [", ".join(f"word {i}" for i in range(11)) + ": eleven words"]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")
def test_glosses_come_out_of_a_debian_package(emoji, config, packages, tmp_path):
    root = tmp_path / "deb"
    (root / "usr/share/wordnet").mkdir(parents=True)
    (root / "DEBIAN").mkdir()
    control = "Package: wordnet-base\nVersion: 1:3.0-37\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: d\n"
    (root / "DEBIAN/control").write_text(control)
    for part, text in {"noun": NOUNS, "verb": "", "adj": ADJECTIVES, "adv": ""}.items():
        (root / f"usr/share/wordnet/data.{part}").write_text(text)
    subprocess.run(["dpkg-deb", "-b", root, packages / "wordnet-base_3.0-37_all.deb"], check=True, capture_output=True)
    emoji.main(emoji.Config(**{**vars(config), "texts": None}))
    texts = TextLines(config.out / "texts.txt")
    assert [texts[i].text for i in range(len(texts))] == [*emoji.glosses(NOUNS), *emoji.glosses(ADJECTIVES)]


@pytest.mark.parametrize(
    ("codes", "key"),
    [
        ("0023-FE0F-20E3", "23-20e3"),
        ("1f3f4-e0067_e0062", "1f3f4-e0067-e0062-e007f"),
        ("1F3F4-E0067-E007F", "1f3f4-e0067-e007f"),
        ("1f469-200d-2764-fe0f-200d-1f468", "1f469-200d-2764-200d-1f468"),
    ],
)
def test_one_form_of_code_points(emoji, codes, key):
    assert emoji.codepoint_key(codes) == key
