"""The sources behind a kind of batch: what they hold, how often a run sees it, and samples of them that a key draws."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from torchflava.data.blend import Blend, Chosen, Nearby
from torchflava.data.coded import CodedShards
from torchflava.data.mixture import Mixture
from torchflava.data.order import key, permute
from torchflava.data.samples import ImageSample, PairSample, TextSample


class Row(NamedTuple):
    """A source, as the table at the top of a page has it."""

    kind: str
    """Of the batches."""
    name: str
    num_samples: int
    num_incomplete: int | None
    """Samples that it leaves out for want of an image or a caption; None if it does not say."""
    num_shards: int | None
    """Shards or files; None where there are none."""
    num_bytes: int | None
    """Of them; None where they are not on this disk."""
    step_share: float
    """Of the kind, in the steps."""
    draw_share: float
    """Of the source, in what its kind draws."""
    draws: float
    """Samples that the run sees, on average over seeds; 0 without a run."""

    @property
    def epochs(self) -> float:
        """How often the run sees each sample."""
        return self.draws / self.num_samples


def rows_of(mixture: Mixture, steps: int) -> Iterator[Row]:
    """The sources of a mixture, over a run of `steps` steps."""
    counts = mixture.order.counts
    for name, kind in mixture.kinds.items():
        step_share = counts[name] / sum(counts.values())
        for source, share in parts(kind.source):
            paths = paths_of(source)
            local = paths and not any("://" in path for path in paths)
            yield Row(
                name,
                source.name,
                len(source),
                getattr(source, "num_incomplete", getattr(source, "num_rejected", None)),
                len(paths) or None,
                sum(Path(path).stat().st_size for path in paths) if local else None,
                step_share,
                share,
                steps * mixture.batch_size * step_share * share,
            )


def paths_of(source: Any) -> list[str]:
    """The shards or the file that a source reads; none if it draws its samples, or reads single images."""
    if hasattr(source, "paths"):
        return list(source.paths)
    path = getattr(source, "path", None)
    return [str(path)] if isinstance(path, Path) else []


def parts(source: Any) -> list[tuple[Any, float]]:
    """The sources that a kind of batch is drawn from, and the share of its draws that each has."""
    if isinstance(source, Nearby | CodedShards):
        return parts(source.source)
    if not isinstance(source, Blend):
        return [(source, 1.0)]
    shares = source.weights or {part.name: len(part) / len(source) for part in source.sources}
    return [(of, shares[part.name]) for part in source.sources for of, _ in parts(part)]


def drawn(source: Any, num: int, *, seed: int) -> list[Chosen]:
    """`num` different samples, or all, spread over the whole of a source: the same ones for the same seed.

    Of a weighted blend each source gives its share; what is drawn nearby is drawn from all shards here.
    """
    if isinstance(source, Nearby):
        return drawn(source.source, num, seed=seed)
    if isinstance(source, Blend) and source.weights is not None:
        shares = [(part, max(1, round(num * source.weights[part.name]))) for part in source.sources]
        return [chosen for part, share in shares for chosen in drawn(part, share, seed=seed)]
    taken = np.arange(min(num, len(source)), dtype=np.uint64)
    places = permute(len(source), key(seed, "browse", source.name), taken).tolist()
    found = [source.locate(at) if isinstance(source, Blend) else Chosen(source, 0, at) for at in places]
    return [chosen._replace(source=uncoded(chosen.source)) for chosen in found]


def uncoded(source: Any) -> Any:
    """The shards themselves, of shards whose codes are read from beside them."""
    return source.source if isinstance(source, CodedShards) else source


def text_of(chosen: Chosen) -> str:
    """The text of a sample, without its image.

    Raises:
        CorruptSample: if it cannot be read.
    """
    source, _, at = chosen
    return source.caption(at) if hasattr(source, "caption") else source[at].text


def text_in(sample: ImageSample | TextSample | PairSample) -> str | None:
    """The text that a sample holds; None of an image alone."""
    return sample.text if isinstance(sample, TextSample) else getattr(sample, "caption", None)


def image_in(sample: ImageSample | TextSample | PairSample) -> Tensor | bytes | None:
    """The image that a sample holds, (3, H, W) uint8 or a file's bytes; None of a text alone."""
    return None if isinstance(sample, TextSample) else sample.image


def key_of(source: Any, at: int) -> str:
    """The name of a sample that need not be readable."""
    source = uncoded(source)
    return source.key(at) if hasattr(source, "key") else f"{source.name}/{at}"
