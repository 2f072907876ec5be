"""Small hand-made copies of the layouts in which six sources publish their URLs, bad rows included; their scripts run on them."""

import bz2
import csv
import gzip
import importlib
import io
import json
import sqlite3
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

RECIPES = Path(__file__).parents[2] / "recipes/data"

CC3M = (
    b"a very typical bus station\thttp://lh6.example.com/bus.jpg\n"
    b'sierra looked stunning in this top and this "skirt\thttps://media.example.com/w/590x700/skirt.jpg?x=1&y=2\n'
    b"no tab here\n"
    b"one\ttwo\thttp://example.com/three.jpg\n"
    b"   \thttp://example.com/empty.jpg\n"
    b"caf\xe9 in latin-1\thttp://example.com/latin.jpg\n"
    b"not an address\tftp://example.com/file.jpg\n"
    b"a very typical bus station\thttp://lh6.example.com/bus.jpg\r\n"
    b"a very typical   bus station\thttp://lh6.example.com/bus.jpg\n"
    b"another caption of the bus\thttp://lh6.example.com/bus.jpg\n"
    b"snow on the m\xc3\xbcnster\thttp://example.com/m\xc3\xbcnster picture.jpg"
)
CC12M = b"https://example.com/a.jpg\t<PERSON> was the first man on the moon\nhttps://example.com/b.jpg\ta 'quoted' \"caption\"\n"

WIT_COLUMNS = (
    "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
    "caption_reference_description", "caption_attribution_description", "caption_alt_text_description", "mime_type",
    "original_height", "original_width", "is_main_image", "attribution_passes_lang_id", "page_changed_recently",
    "context_page_description", "context_section_description",
)  # fmt: skip


def wit_file(rows: list[dict[str, str]], *, tail: bytes = b"") -> bytes:
    """A file of WIT, not compressed; columns that a row does not name are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, WIT_COLUMNS, restval="", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode() + tail


def wit_row(number: int, **told: str) -> dict[str, str]:
    """An English row without captions; `told` by the columns' first letters: `reference`, `attribution`, `alt`."""
    columns = {"reference": WIT_COLUMNS[6], "attribution": WIT_COLUMNS[7], "alt": WIT_COLUMNS[8]}
    row = {
        "language": "en",
        "page_url": f"https://en.example.org/wiki/{number}",
        "image_url": f"http://upload.example.org/{number}.jpg",
        "mime_type": "image/jpeg",
        "attribution_passes_lang_id": "true",
    }
    return row | {columns.get(name, name): value for name, value in told.items()}


def yfcc_line(identifier: str, **told: str) -> str:
    """A line of yfcc100m_dataset: 23 columns, the texts as given, which is escaped."""
    columns = {
        "id": identifier, "user": "10001@N01", "nick": "a+nick", "taken": "2008-07-05 11:23:09.0", "sent": "1215361389",
        "device": "Canon+EOS", "title": "", "description": "", "tags": "a,b", "machine": "", "lon": "", "lat": "", "accuracy": "",
        "page": f"http://www.flickr.com/photos/1/{identifier}/", "url": f"http://farm1.staticflickr.com/1/{identifier}_s.jpg",
        "license": "Attribution-NonCommercial+License", "license_url": "http://creativecommons.org/licenses/by-nc/2.0/",
        "server": "1", "farm": "1", "secret": "s", "original": "o", "ext": "jpg", "marker": "0",
    }  # fmt: skip
    return "\t".join((columns | told).values())


YFCC = "\n".join(
    [
        yfcc_line("101", title="IMG+0001", description="Boats+in+the+old+harbour%0Aat+dusk%2C+seen+from+%22the+pier%22"),
        yfcc_line("102", title="The+red+lighthouse+near+our+village", description="Sonne+am+alten+Hafen+von+L%C3%BCbeck"),
        yfcc_line("103", title="Two%09words", description=""),
        yfcc_line("104", title="Le+march%C3%A9+aux+fleurs+de+Nice", description="La+vieille+maison+de+ma+grand-m%C3%A8re"),
        yfcc_line("105", title="A+dog+on+the+beach", marker="1"),
        yfcc_line("106", title="A+dog+on+the+beach", url=""),
        yfcc_line("107"),
        yfcc_line("108", description="See+%3Ca+href%3D%22http%3A%2F%2Fx.org%22%3Eother+pictures%3C%2Fa%3E+of+Tom+%26amp%3B+Ann"),
        "109\ttoo\tfew",
        yfcc_line("110", description="%ff%fe+is+no+text"),
        yfcc_line("111", title="%E5%A4%95%E7%84%BC%E3%81%91 %E6%B5%B7 %E5%AF%8C%E5%A3%AB"),
        yfcc_line("112", description="A+dog+on+the+beach", url="http://farm1.staticflickr.com/1/108_s.jpg", ext="png"),
    ]
)  # fmt: skip


def write_sbu(folder: Path, pairs: list[tuple[bytes, bytes]]) -> Path:
    """The two text files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("urls", "captions")):
        lines = b"\n".join(pair[number] for pair in pairs) + b"\n"
        (folder / f"SBU_captioned_photo_dataset_{name}.txt").write_bytes(lines)
    return folder


def write_redcaps(folder: Path) -> Path:
    """Three files of annotations, one of them cut short."""
    folder.mkdir(parents=True)
    (folder / "cats_2017.json").write_text(json.dumps({"info": {"year": 2017}, "annotations": [
        redcap("abc12", "my cat in a box", subreddit="cats"),
        redcap("abc13", ""),
        redcap("abc14", "itap of a cat", url=None),
        {"image_id": "abc15", "url": "https://i.example.it/abc15.jpg"},
        "no object",
        redcap("abc16", None),
        redcap("abc17", "half a pair \ud83d of surrogates"),
    ]}))  # fmt: skip
    (folder / "birds_2018.json").write_text(json.dumps({"info": {}, "annotations": [
        redcap("bcd12", "a robin, as seen \"today\"\tin my garden", subreddit=12),
        redcap("other", "my cat in a box", url="https://i.example.it/abc12.jpg"),
    ]}))  # fmt: skip
    (folder / "dogs_2019.json").write_text('{"info": {}, "annotations": [{"image_id": "x", "caption"')
    return folder


def redcap(image: str, caption: Any, **told: Any) -> dict[str, Any]:
    """One of RedCaps' annotations."""
    url = f"https://i.example.it/{image}.jpg"
    more = {"author": "someone", "raw_caption": str(caption).title(), "subreddit": "cats", "score": 7}
    return {"image_id": image, "url": url, "caption": caption, **more, **told}


def write_yfcc_database(path: Path) -> Path:
    """The rows of `YFCC` of 23 columns as Multimedia Commons' database has them."""
    names = "photoid uid unickname datetaken dateuploaded capturedevice title description usertags machinetags longitude latitude"
    names += " accuracy pageurl downloadurl licensename licenseurl serverid farmid secret secretoriginal ext marker"
    columns = names.split()
    rows = [line.split("\t") for line in YFCC.split("\n")]
    with sqlite3.connect(path) as database:
        kinds = ", ".join(f"{name} {'INTEGER PRIMARY KEY' if name == 'photoid' else 'TEXT'}" for name in columns)
        database.execute(f"CREATE TABLE yfcc100m_dataset ({kinds.replace('marker TEXT', 'marker INTEGER')})")
        marks = ", ".join("?" * len(columns))
        database.executemany(f"INSERT INTO yfcc100m_dataset VALUES ({marks})", [row for row in rows if len(row) == 23])
    database.close()
    return path


def compressed(path: Path, data: bytes, *, cut: int = 0) -> Path:
    """Write `data` as the path's ending says, without its last `cut` bytes."""
    packed = gzip.compress(data, mtime=0) if path.suffix == ".gz" else bz2.compress(data)
    path.write_bytes(packed[: len(packed) - cut])
    return path


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def listed(name: str, out: Path, annotations: Any, **told: Any) -> Any:
    """What `list` wrote: its card, and the rows of all lists."""
    module, urls = script(name), script("urls")
    listing = urls.Listing(workers=told.pop("workers", 1), list_size=told.pop("list_size", 250_000))
    card = module.main(module.List(annotations=annotations, out=out, listing=listing, **told))
    return SimpleNamespace(card=card, rows=[row for path in lists_in(out) for row in rows_of(path)])


def lists_in(out: Path) -> list[Path]:
    return sorted(path for path in (out / "lists").iterdir() if path.suffix in (".parquet", ".jsonl"))


def rows_of(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


def told_by(rows: list[dict[str, str]], *columns: str) -> list[tuple[str, ...]]:
    return [tuple(row[column] for column in columns) for row in rows]
