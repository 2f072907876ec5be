"""A user's own data in small: two shard sets of captioned images, one of images alone, a text file, and held-out pairs."""

import io
import json
from pathlib import Path

from PIL import Image
from torch import Tensor

from torchflava.data.scenes import ScenePairs, SceneTexts
from torchflava.data.tars import write_shards


def jpeg(image: Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_own(folder: Path) -> Path:
    """Shards of 20 with 60 + 100 pairs, 80 images, 50 held-out pairs; 200 lines of text."""
    scenes, texts = ScenePairs("train", 40), SceneTexts("train")
    for name, first, n in (("coco", 0, 60), ("cc", 100, 100), ("imagenet", 300, 80), ("valid", 500, 50)):
        (folder / name).mkdir(parents=True)
        parts = []
        for i in range(first, first + n):
            members = {"jpg": jpeg(scenes[i].image)}
            if name != "imagenet":
                members |= {"txt": scenes[i].caption.encode(), "json": json.dumps({"number": i}).encode()}
            parts.append((f"{i:06}", members))
        write_shards(parts, folder / name / name, 20)
    (folder / "news.txt").write_text("".join(f"{texts[i].text}\n" for i in range(200)))
    return folder


def words(folder: Path) -> list[str]:
    """The flags that train on all of it."""
    told = ["--preset", "tiny", "--corpus", "own", "--pairs", f"{folder}/coco", f"cc={folder}/cc/*.tar"]
    return [*told, "--images", f"{folder}/imagenet", "--texts", f"{folder}/news.txt"]
