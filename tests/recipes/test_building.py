"""What all building scripts share: shards in webdataset's layout, whole and the same however often they were begun anew."""

import io
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/coco.py` does

import totals
from building import PAPER, Card, Options, Rejected, Row, build, caption_fault, image_ending, settle, slices_of
from card import PAPER_IMAGES, show
from places import elements_of


def picture(number: int, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (7, 5), (number % 256, 50, 90)).save(file, kind)
    return file.getvalue()


def members(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            opened = tar.extractfile(member)
            assert opened is not None
            assert member.name not in found
            found[member.name] = opened.read()
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(part: int) -> Iterator[Row | Rejected]:
    for number in range(5):
        yield Row(f"s{part}.{number}", picture(number), f" a  picture\nof {number} ", {"image": f"{number}"})
    yield Rejected(f"gone {part}", "no image file")


def built(out: Path, of: object = rows, *, slices: int = 3, size: int = 2) -> Card:
    return build(of, slices, out, name="coco", shard_size=size, workers=1, check_images=True)  # type: ignore[arg-type]


def test_a_shard_holds_image_caption_and_meta_under_a_key_without_dots(tmp_path: Path) -> None:
    built(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == [
        f"coco-0000{part}-0000{shard}.tar" for part in range(3) for shard in range(3)
    ]
    found = members(tmp_path / "coco-00001-00001.tar")
    assert list(found) == [f"s1%2E{number}.{ending}" for number in (2, 3) for ending in ("jpg", "txt", "json")]
    assert found["s1%2E3.jpg"] == picture(3)
    assert found["s1%2E3.txt"] == b"a picture of 3"
    assert json.loads(found["s1%2E3.json"]) == {"image": "3"}
    assert len(members(tmp_path / "coco-00001-00002.tar")) == 3  # the last has one sample


def test_the_card_adds_slices_up_and_counts_an_image_once(tmp_path: Path) -> None:
    card = built(tmp_path)
    assert (card.pairs, card.unique_images, card.average_words) == (15, 5, 4.0)
    assert dict(card.rejected) == {"no image file": 3}
    told = json.loads((tmp_path / "card.json").read_bytes())
    assert told["pairs"] == 15
    assert told["unique_images"] == 5
    assert told["examples"] == {"no image file": ["gone 0", "gone 1", "gone 2"]}
    assert told["paper"] == {"pairs": 900_000, "average_words": 12.4}
    assert str(card).splitlines()[1].split() == [
        "coco",
        "15",
        "5",
        "4.0",
        "0.9M",
        "-",
        "12.4",
        "3",
        "no",
        "image",
        "file",
    ]


def test_the_papers_sources_add_up_to_its_total() -> None:
    sources = [figures for name, figures in PAPER.items() if name != "total"]
    assert len(sources) == 9
    assert sum(figures.pairs for figures in sources) == pytest.approx(PAPER["total"].pairs, abs=0.05)
    words = sum(figures.pairs * figures.words for figures in sources) / PAPER["total"].pairs
    assert words == pytest.approx(PAPER["total"].words, abs=0.2)
    assert PAPER["total"].pairs > PAPER_IMAGES
    assert "-" in show([Card("imagenet")])


def test_cards_of_folders_add_up_to_a_total(tmp_path: Path) -> None:
    built(tmp_path / "a", slices=1)
    build(rows, 2, tmp_path / "b", name="sbu", shard_size=9, workers=1, check_images=False)
    coco, sbu, total = totals.main(totals.Config((tmp_path / "a", tmp_path / "b")))
    assert (coco.name, coco.pairs, sbu.name, sbu.pairs) == ("coco", 5, "sbu", 10)
    assert (total.pairs, total.unique_images, total.rejected["no image file"]) == (15, 5, 3)
    assert show([total]).splitlines()[1].split()[:7] == ["total", "15", "5", "4.0", "70.0M", "68.0M", "12.1"]
    assert total.as_json()["paper"] == {"pairs": 70_000_000, "unique_images": 68_000_000, "average_words": 12.1}
    with pytest.raises(ValueError, match="no records"):
        totals.main(totals.Config((tmp_path,)))


class Breaks:
    """Raises in the middle of a slice, as often as it is told to."""

    def __init__(self, part: int) -> None:
        self.part = part
        self.asked: list[int] = []

    def __call__(self, part: int) -> Iterator[Row | Rejected]:
        self.asked.append(part)
        for number, row in enumerate(rows(part)):
            if part == self.part and number == 3:
                raise RuntimeError("the plug was pulled")
            yield row


def test_a_build_that_was_killed_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    built(tmp_path / "whole")
    breaks = Breaks(1)
    with pytest.raises(RuntimeError, match="plug"):
        built(tmp_path / "killed", breaks)
    left = [path.name for path in (tmp_path / "killed").iterdir() if path.is_file()]
    assert "coco-00001-00001.tar" not in left  # begun, not whole
    assert "coco-00001-00000.tar" in left
    assert not (tmp_path / "killed/card.json").exists()
    (tmp_path / "killed/coco-00001-00000.tar").write_bytes(b"stale")  # its slice is not finished: written anew

    breaks.part, breaks.asked = -1, []
    built(tmp_path / "killed", breaks)
    assert breaks.asked == [1, 2]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_finished_slice_that_lost_a_shard_is_built_anew(tmp_path: Path) -> None:
    built(tmp_path)
    before = files(tmp_path)
    (tmp_path / "coco-00002-00001.tar").unlink()
    again = Breaks(-1)
    built(tmp_path, again)
    assert again.asked == [2]
    assert files(tmp_path) == before


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    built(tmp_path)
    with pytest.raises(ValueError, match=r"shard_size.*choose another --out"):
        built(tmp_path, size=3)
    with pytest.raises(ValueError, match=r"num_slices.*choose another --out"):
        built(tmp_path, slices=2)
    settle(tmp_path, {"limit": None, "images": Path("x")})
    settle(tmp_path, {"limit": None, "images": Path("y/../x")})
    with pytest.raises(ValueError, match="limit"):
        settle(tmp_path, {"limit": 5, "images": Path("x")})


@pytest.mark.parametrize("wrong", ["num_slices", "shard_size", "workers"])
def test_numbers_below_one_are_refused(tmp_path: Path, wrong: str) -> None:
    given = {"num_slices": 1, "shard_size": 1, "workers": 1, wrong: 0}
    with pytest.raises(ValueError, match=f"{wrong} is 0"):
        build(
            rows,
            given["num_slices"],
            tmp_path,
            name="x",
            shard_size=given["shard_size"],
            workers=given["workers"],
            check_images=True,
        )


def bad_rows(folder: Path) -> list[tuple[Row, str]]:
    half = picture(1)[: len(picture(1)) // 2]
    (folder / "half.jpg").write_bytes(half)
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (folder / "empty.jpg").write_bytes(b"")
    return [
        (Row("a", folder / "missing.jpg", "a cat", {}), "no image file"),
        (Row("b", folder, "a folder", {}), "no image file"),
        (Row("c", Path("zero\0byte.jpg"), "a cat", {}), "no image file"),
        (Row("d", folder / "half.jpg", "half a cat", {}), "broken image"),
        (Row("e", folder / "page.jpg", "a page", {}), "not an image"),
        (Row("f", folder / "empty.jpg", "nothing", {}), "not an image"),
        (Row("g", picture(2), " \n ", {}), "empty caption"),
        (Row("h", picture(2), "x" * 8193, {}), "caption too long"),
        (Row("i", picture(2), "half a pair \ud83d", {}), "not UTF-8"),
        (Row("ok", picture(3), "seen before", {}), "duplicate"),
        (Row("", picture(2), "no key", {}), "bad row"),
        (Row("k", None, "", {}), "bad row"),
    ]


def test_bad_rows_are_counted_by_reason_and_stop_nothing(tmp_path: Path) -> None:
    expected = bad_rows(tmp_path)
    good = [Row("ok", picture(1), "a cat", {}), Row("text", None, "no image", {}), Row("url", None, "", {"url": "u"})]

    def of(part: int) -> Iterable[Row | Rejected]:
        return [*good, *(row for row, _ in expected)]

    card = built(tmp_path / "out", of, slices=1)
    told = json.loads((tmp_path / "out/card.json").read_bytes())
    assert told["examples"] == {
        reason: [row.key for row, why in expected if why == reason] for reason in {why for _, why in expected}
    }
    assert card.pairs == 3
    assert card.unique_images == 2  # by its bytes, and by its URL
    written = members(tmp_path / "out/coco-00000-00000.tar") | members(tmp_path / "out/coco-00000-00001.tar")
    assert list(written) == ["ok.jpg", "ok.txt", "ok.json", "text.txt", "text.json", "url.json"]


def test_an_unchecked_image_is_taken_by_its_first_bytes(tmp_path: Path) -> None:
    half = picture(1)[: len(picture(1)) // 2]

    def of(part: int) -> list[Row | Rejected]:
        return [Row("half", half, "half", {}), Row("page", b"<html>", "page", {})]

    card = build(of, 1, tmp_path, name="x", shard_size=5, workers=1, check_images=False)
    assert (card.pairs, dict(card.rejected)) == (1, {"not an image": 1})


def test_keys_with_the_same_letters_once_escaped_stay_apart(tmp_path: Path) -> None:
    def of(part: int) -> list[Row | Rejected]:
        return [Row(key, picture(1), "x", {}) for key in ("a.b", "a%2Eb", "a/b", "ä b")]

    built(tmp_path, of, slices=1, size=9)
    names = [name for name in members(tmp_path / "coco-00000-00000.tar") if name.endswith("jpg")]
    assert names == ["a%2Eb.jpg", "a%252Eb.jpg", "a%2Fb.jpg", "%C3%A4%20b.jpg"]


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tiff"), ("AVIF", "avif")],
)  # fmt: skip
def test_the_first_bytes_tell_the_ending(kind: str, ending: str) -> None:
    assert image_ending(picture(1, kind)) == ending
    assert image_ending(picture(1, kind)[:1]) is None


def test_captions_without_fault() -> None:
    assert caption_fault("ein Bär 🐻") is None
    assert caption_fault(None) == caption_fault(3) == "bad row"


def test_slices_cover_the_entries_up_to_the_limit() -> None:
    options = Options(shard_size=2)
    assert [list(part) for part in slices_of(range(45), options)] == [
        list(range(20)),
        list(range(20, 40)),
        [*range(40, 45)],
    ]
    assert [len(part) for part in slices_of(range(45), Options(shard_size=2, limit=9), 5)] == [4, 4, 1]
    assert [list(part) for part in slices_of([], options)] == [[]]
    with pytest.raises(ValueError, match="--limit is 0"):
        slices_of([1], Options(limit=0))


def test_elements_of_an_array_are_found_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("places._PIECE", 11)  # elements lie across the pieces
    path = tmp_path / "a.json"
    elements = [{"id": 1, "t": "ä]}"}, [1, 2], 123456789012345, 'x\\"', {}]
    path.write_text("\n[" + " ,\n".join(json.dumps(each, ensure_ascii=False) for each in elements) + "]\n", "utf-8")
    data = path.read_bytes()
    places = list(elements_of(path, "fetch it"))
    assert [json.loads(data[start : start + size]) for start, size, _ in places] == elements
    path.write_bytes(data[:40])
    with pytest.raises(ValueError, match=r"damaged at byte .*fetch it"):
        list(elements_of(path, "fetch it"))
    path.write_bytes(b'{"a": 1}')
    with pytest.raises(ValueError, match=r"no JSON array.*fetch it"):
        list(elements_of(path, "fetch it"))
