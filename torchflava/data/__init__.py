"""Where samples come from, in which order, and how they become batches."""

from torchflava.data.blend import Blend, Nearby
from torchflava.data.coded import CodedRows, CodedShards
from torchflava.data.codes import CodesOf
from torchflava.data.folders import FolderImages, FolderPairs
from torchflava.data.lines import TextLines
from torchflava.data.loops import Epochs, Evaluation, Samples
from torchflava.data.mixture import Kind, Mixture, Planned
from torchflava.data.opening import open_images, open_pairs, open_texts
from torchflava.data.order import Order, keyed_rng, permute
from torchflava.data.prepare import prepare
from torchflava.data.remote import DiskCache, Ranged
from torchflava.data.replacing import Replaced
from torchflava.data.rows import ImageRows, PairRows, TextRows, anywhere, same_shard
from torchflava.data.samples import ImageSample, PairSample, PairSource, Source, TextSample
from torchflava.data.scenes import SceneClasses, SceneImages, ScenePairs, SceneTexts
from torchflava.data.shards import ShardImages, ShardPairs, ShardTexts
from torchflava.data.sorting import Endings
from torchflava.stores import Retries

__all__ = [
    "Blend",
    "CodedRows",
    "CodedShards",
    "CodesOf",
    "DiskCache",
    "Endings",
    "Epochs",
    "Evaluation",
    "FolderImages",
    "FolderPairs",
    "ImageRows",
    "ImageSample",
    "Kind",
    "Mixture",
    "Nearby",
    "Order",
    "PairRows",
    "PairSample",
    "PairSource",
    "Planned",
    "Ranged",
    "Replaced",
    "Retries",
    "Samples",
    "SceneClasses",
    "SceneImages",
    "ScenePairs",
    "SceneTexts",
    "ShardImages",
    "ShardPairs",
    "ShardTexts",
    "Source",
    "TextLines",
    "TextRows",
    "TextSample",
    "anywhere",
    "keyed_rng",
    "open_images",
    "open_pairs",
    "open_texts",
    "permute",
    "prepare",
    "same_shard",
]
