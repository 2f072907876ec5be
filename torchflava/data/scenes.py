"""The embedded default data: captioned scenes, images and texts without pairs, drawn and told on the fly.

Everything is ours. A sample is a pure function of (seed, source, index): no file, no download, no state; any thread may ask.
Letters: S side of an image in pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from torchflava.data.order import key, keyed_rng, permute
from torchflava.data.samples import ImageSample, PairSample, TextSample
from torchflava.data.scene_drawing import draw
from torchflava.data.scene_grammar import caption, prompt, text
from torchflava.data.scene_layout import RELATIONS, Combination, Scene, Split, arrange, combinations, compose

TEMPLATES = ("a {}", "there is a {}", "a picture of a {}", "an image of a {}", "a drawing of a {}", "you can see a {}")
"""Prompts for zero-shot classification; `zero_shot_prompts` fills them in."""
_LENGTH = 1 << 20  # no sample is seen twice in a run of the default's size


class ScenePairs:
    """Captioned scenes of one to three things.

    Args:
        split: "train", or "heldout" for the combinations of colour and shape that no training sample holds.
        image_size: S.
        length: the number of samples.
        seed: of the world; another seed, other samples.
    """

    def __init__(self, split: Split = "train", image_size: int = 48, *, length: int = _LENGTH, seed: int = 0) -> None:
        self.name = f"scene-pairs-{split}"
        self.pool = combinations(split)
        self.image_size, self.seed = image_size, seed
        self._length = _checked(length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> PairSample:
        """Sample `index`: an image (3, S, S) uint8 and its caption."""
        scene, told = self.scene(index), self.caption(index)
        return PairSample(_drawn(scene, self.image_size, self.seed, self.name, index), told, f"{self.name}-{index}")

    def scene(self, index: int) -> Scene:
        """What sample `index` shows."""
        return compose(keyed_rng(self.seed, self.name, _within(index, self), "scene"), self.pool)

    def caption(self, index: int) -> str:
        """The caption of sample `index`, without drawing."""
        return caption(self.scene(index), keyed_rng(self.seed, self.name, index, "words"))


class SceneImages:
    """Scenes without captions; arguments as for `ScenePairs`, samples of their own."""

    def __init__(self, split: Split = "train", image_size: int = 48, *, length: int = _LENGTH, seed: int = 0) -> None:
        self.name = f"scene-images-{split}"
        self.pool = combinations(split)
        self.image_size, self.seed = image_size, seed
        self._length = _checked(length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> ImageSample:
        """Sample `index`: an image (3, S, S) uint8."""
        scene = compose(keyed_rng(self.seed, self.name, _within(index, self), "scene"), self.pool)
        return ImageSample(_drawn(scene, self.image_size, self.seed, self.name, index), f"{self.name}-{index}")


class SceneTexts:
    """Texts without images: half of them captions of scenes that nobody drew, half from a wider grammar."""

    def __init__(self, split: Split = "train", *, length: int = _LENGTH, seed: int = 0) -> None:
        self.name = f"scene-texts-{split}"
        self.pool = combinations(split)
        self.seed = seed
        self._length = _checked(length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> TextSample:
        """Sample `index`."""
        rng = keyed_rng(self.seed, self.name, _within(index, self))
        told = caption(compose(rng, self.pool), rng) if rng.random() < 0.5 else text(self.pool, rng)
        return TextSample(told, f"{self.name}-{index}")


class RetrievalScenes:
    """Captioned scenes of two or three held-out things, no two alike, whose captions tell them apart.

    Even samples hold two things (no pair of them twice among the first 240 samples, no arrangement twice among all) and
    say how they stand; odd ones hold three, no three twice.

    Args:
        image_size: S.
        length: the number of samples, at most 960.
        seed: of the world.
    """

    def __init__(self, image_size: int = 48, *, length: int = 256, seed: int = 0) -> None:
        if not 1 <= length <= 960:
            raise ValueError(f"length {length} must lie between 1 and 960, the number of scenes that differ")
        self.name = "scene-retrieval"
        self.image_size, self.seed = image_size, seed
        pool = combinations("heldout")
        self._twos = [(a, b) for at, a in enumerate(pool) for b in pool[:at]]
        self._threes = [(a, b, c) for at, a in enumerate(pool) for bt, b in enumerate(pool[:at]) for c in pool[:bt]]
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> PairSample:
        """Sample `index`: an image (3, S, S) uint8 and its caption."""
        scene, told = self.scene(index), self.caption(index)
        return PairSample(_drawn(scene, self.image_size, self.seed, self.name, index), told, f"{self.name}-{index}")

    def scene(self, index: int) -> Scene:
        """What sample `index` shows."""
        rng = keyed_rng(self.seed, self.name, _within(index, self), "scene")
        chosen: tuple[Combination, ...]
        if index % 2 == 0:
            turn, at = divmod(index // 2, len(self._twos))
            which = int(permute(len(self._twos), key(self.seed, "twos"), at)[0])
            chosen = self._twos[which]
            relation = RELATIONS[(turn + int(permute(4, key(self.seed, which), 0)[0])) % 4]
            return arrange(rng, chosen, relation)
        chosen = self._threes[int(permute(len(self._threes), key(self.seed, "threes"), index // 2)[0])]
        return arrange(rng, [chosen[int(at)] for at in rng.permutation(3)])

    def caption(self, index: int) -> str:
        """The caption of sample `index`, without drawing."""
        return caption(self.scene(index), keyed_rng(self.seed, self.name, index, "words"), exact=True)


class LabelledScene(NamedTuple):
    """A scene of one thing."""

    image: Tensor
    """(3, S, S) uint8."""
    label: int
    """Of the thing's class, among the classes of the source."""
    key: str
    """Names the sample in logs."""


class SceneClasses:
    """Scenes of one thing with its class, every class equally often.

    Args:
        split: of the things shown.
        image_size: S.
        among: the classes to choose from; those of `split` if None.
        length: the number of samples.
        seed: of the world.
    """

    def __init__(
        self,
        split: Split = "heldout",
        image_size: int = 48,
        *,
        among: list[str] | None = None,
        length: int = 512,
        seed: int = 0,
    ) -> None:
        self.name = f"scene-classes-{split}"
        self.pool = combinations(split)
        self.classes = zero_shot_classes(split) if among is None else list(among)
        missing = set(zero_shot_classes(split)) - set(self.classes)
        if missing:
            raise ValueError(f"{sorted(missing)} are shown but not among the {len(self.classes)} classes; add them")
        self.image_size, self.seed = image_size, seed
        self._length = _checked(length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> LabelledScene:
        """Sample `index`."""
        rng = keyed_rng(self.seed, self.name, _within(index, self), "scene")
        combination = self.pool[index % len(self.pool)]
        image = _drawn(arrange(rng, [combination]), self.image_size, self.seed, self.name, index)
        return LabelledScene(image, self.classes.index(" ".join(combination)), f"{self.name}-{index}")


def zero_shot_classes(split: Split | None = "heldout") -> list[str]:
    """Names such as "red circle": the 16 held out, the 48 of training, or all 64 if None."""
    if split is None:
        return zero_shot_classes("train") + zero_shot_classes("heldout")
    return [" ".join(combination) for combination in combinations(split)]


def zero_shot_prompts(name: str) -> list[str]:
    """The prompts for a class name, one a template, with the right article."""
    return [prompt(template, name) for template in TEMPLATES]


def _drawn(scene: Scene, image_size: int, seed: int, name: str, index: int) -> Tensor:
    return torch.from_numpy(draw(scene, image_size, keyed_rng(seed, name, index, "pixels")))


def _within(index: int, source: ScenePairs | SceneImages | SceneTexts | RetrievalScenes | SceneClasses) -> int:
    if not 0 <= index < len(source):
        raise IndexError(f"{source.name} has no sample {index}; it has {len(source)}")
    return index


def _checked(length: int) -> int:
    if length < 1:
        raise ValueError(f"length {length} must be 1 or more")
    return length
