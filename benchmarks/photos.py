"""Made photographs with captions, in a shard: what benchmarks of the data path read where no real ones may be downloaded.

A picture is noise whose amplitude falls with the frequency, as in photographs (Field 1987), with straight edges over it; the
exponent is chosen so that a JPEG of 500 x 375 at quality 90 has about 52 KB, the size of a real one.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchflava.data.index import INDEX_NAME, scan, write_index
from torchflava.data.tars import write_shards, write_whole

HEIGHT, WIDTH, QUALITY = 375, 500, 90
_LUMA, _CHROMA = 1.43, 1.7  # how fast the amplitude falls: 1 / f^1.43
_EDGES = 12
_WORDS = (
    "the a brown dog runs over wet sand of beach towards small red ball while two children in blue coats watch from an old "
    "wooden boat near quiet harbour at sunset behind tall green trees with their father"
)
_CAPTION = 12  # words, as PMD's captions have (paper table 1)


def photo(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A picture (375, 500, 3)."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1

    def field(power: float) -> NDArray[np.float64]:
        phases = np.exp(2j * np.pi * rng.random(frequency.shape))
        drawn = np.fft.irfft2(frequency**-power * phases, (HEIGHT, WIDTH))
        return (drawn - drawn.mean()) / drawn.std()

    luma, blue, red = 118 + 40 * field(_LUMA), 12 * field(_CHROMA), 12 * field(_CHROMA)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(_EDGES):
        angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1, 2) * (WIDTH, HEIGHT)
        beyond = (x - at[0]) * np.cos(angle) + (y - at[1]) * np.sin(angle) > 0
        luma = luma + np.where(beyond, rng.uniform(-18, 18), 0)
    rgb = [luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue]  # JFIF's YCbCr
    return np.stack(rgb, axis=-1).clip(0, 255).astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 3) as a file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def write_photos(folder: Path, num_photos: int) -> list[Path]:
    """Captioned photographs in one shard in webdataset's layout, with its index; the shard's path."""
    rng, words = np.random.default_rng(0), _WORDS.split()
    samples = [
        (f"{i:06}", {"jpg": jpeg(photo(rng)), "txt": " ".join(rng.choice(words, _CAPTION)).encode()})
        for i in range(num_photos)
    ]
    shards = write_shards(samples, folder / "photos", num_photos)
    write_whole(folder / INDEX_NAME, lambda file: write_index(file, [lambda: scan(shards[0])]))
    return shards
