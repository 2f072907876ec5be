"""Where samples come from, in which order, and how they become batches."""

from torchflava.data.mixture import Kind, Mixture, Planned
from torchflava.data.order import Order, keyed_rng, permute
from torchflava.data.prepare import prepare
from torchflava.data.rows import ImageRows, PairRows, TextRows
from torchflava.data.samples import ImageSample, PairSample, PairSource, Source, TextSample
from torchflava.data.scenes import SceneClasses, SceneImages, ScenePairs, SceneTexts
from torchflava.data.shards import ShardImages, ShardPairs, TextLines

__all__ = [
    "ImageRows",
    "ImageSample",
    "Kind",
    "Mixture",
    "Order",
    "PairRows",
    "PairSample",
    "PairSource",
    "Planned",
    "SceneClasses",
    "SceneImages",
    "ScenePairs",
    "SceneTexts",
    "ShardImages",
    "ShardPairs",
    "Source",
    "TextLines",
    "TextRows",
    "TextSample",
    "keyed_rng",
    "permute",
    "prepare",
]
