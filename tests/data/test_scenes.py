"""The scenes against an independent drawing (Pillow's polygons), an independent reading of the captions, and counting."""

import itertools
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from torchflava.data import scene_grammar
from torchflava.data.scene_drawing import PALETTE, draw
from torchflava.data.scene_grammar import COLOUR_WORDS, SHAPE_WORDS
from torchflava.data.scene_layout import COLOURS, SHAPES, SIZES, Ground, Scene, Thing, combinations
from torchflava.data.scenes import (
    RetrievalScenes,
    SceneClasses,
    SceneImages,
    ScenePairs,
    SceneTexts,
    zero_shot_classes,
    zero_shot_prompts,
)

COLOUR_OF = {"scarlet": "red", "teal": "turquoise", "violet": "purple"}
SHAPE_OF = {"disc": "circle", "box": "square", "hoop": "ring", "plus": "cross", "crescent": "moon"}
_WORD = (
    rf"(?P<colour>{'|'.join(sorted(COLOUR_WORDS))}) (?P<shape>{'|'.join(sorted(SHAPE_WORDS, key=len, reverse=True))})\b"
)
_IN = rf"(?P<shape>{'|'.join(sorted(SHAPE_WORDS, key=len, reverse=True))}) in (?P<colour>{'|'.join(sorted(COLOUR_WORDS))})"


def named(text: str) -> list[tuple[str, str]]:
    """The combinations that a text names, in its order."""
    found = sorted([*re.finditer(_WORD, text), *re.finditer(_IN, text)], key=lambda match: match.start())
    return [(COLOUR_OF.get(m["colour"], m["colour"]), singular(m["shape"])) for m in found]


def singular(shape: str) -> str:
    for known in (*SHAPES, *SHAPE_OF):
        if shape in (known, known + "s", known + "es"):
            return SHAPE_OF.get(known, known)
    raise AssertionError(shape)


def holds(relation: str, one: Thing, other: Thing) -> bool:
    dx, dy = other.x - one.x, other.y - one.y
    along, across = {"left": (dx, dy), "right": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return along > 0 and along > 1.5 * abs(across)


def test_a_quarter_is_held_out_and_every_colour_and_shape_is_trained():
    train, held_out = combinations("train"), combinations("heldout")
    assert len(train) == 48
    assert len(held_out) == 16
    assert set(train) | set(held_out) == {(colour, shape) for colour in COLOURS for shape in SHAPES}
    for name in (*COLOURS, *SHAPES):
        assert sum(name in combination for combination in held_out) == 2


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_no_sample_shows_or_names_a_combination_of_the_other_split(split):
    allowed, pairs, texts = set(combinations(split)), ScenePairs(split), SceneTexts(split)
    seen = set()
    for index in range(800):
        shown = {(thing.colour, thing.shape) for thing in pairs.scene(index).things}
        told = set(named(pairs.caption(index)))
        assert told <= shown <= allowed
        seen |= shown
        assert set(named(texts[index].text)) <= allowed, texts[index].text
    assert seen == allowed


def test_captions_are_true():
    pairs = ScenePairs()
    for index in range(800):
        scene, caption = pairs.scene(index), pairs.caption(index)
        words = caption.split()
        assert (words.count("medium"), *map(words.count, ("small", "large"))) <= tuple(
            sum(thing.size == size for thing in scene.things) for size in ("medium", "small", "large")
        )
        for tone, said in (("white", {"white", "bright"}), ("grey", {"grey", "dull"})):
            assert not said & set(words) or scene.ground.tone == tone
        assert "fading" not in words or scene.ground.pattern == "fading"
        assert not {"speckled", "grainy"} & set(words) or scene.ground.pattern == "speckled"
        for number, count in (("two", 2), ("pair", 2), ("three", 3), ("trio", 3)):
            assert number not in words or len(scene.things) == count
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  | ,|[A-Z]", caption)


RELATION = re.compile(
    r"(?P<left>(to the |on the )?left of)|(?P<right>(to the |on the )?right of)|"
    r"(?P<above>above|over|on top of)|(?P<below>below|under|beneath)"
)


def test_said_relations_hold():
    scenes = RetrievalScenes(length=960)
    count = 0
    for index in range(0, 400, 2):
        scene, caption = scenes.scene(index), scenes.caption(index)
        things = {(thing.colour, thing.shape): thing for thing in scene.things}
        first, second = (things[combination] for combination in named(caption))
        match = RELATION.search(caption)
        assert match
        relation = next(
            name for name, value in match.groupdict().items() if value and name in ("left", "right", "above", "below")
        )
        # "left of X is Y" and "X with Y left of it" say that Y is left of X; anything else that X is left of Y.
        turned = match.start() == 0 or " with " in caption
        assert holds(relation, *((second, first) if turned else (first, second))), caption
        count += turned
    assert 40 < count < 160


def test_three_things_stand_as_they_are_said_to():
    pairs = ScenePairs()
    seen = 0
    for index in range(600):
        scene = pairs.scene(index)
        if len(scene.things) == 3:
            one, corner, other = scene.things
            for relation, thing in zip(scene.relations, (one, other), strict=True):
                x, y = corner.x - thing.x, corner.y - thing.y
                assert {"left": x, "right": -x, "above": y, "below": -y}[relation] > 0.15
            seen += 1
            caption, names = pairs.caption(index), [(t.colour, t.shape) for t in scene.things]
            if re.search(r"\bit\b", caption) and " with " not in caption:
                assert named(caption)[:2] == names[:2], caption
                relation = RELATION.search(caption)
                assert relation
                assert relation[scene.relations[0]], caption
    assert seen > 60


def test_things_have_their_size_and_lie_apart():
    pairs = ScenePairs()
    for index in range(500):
        things = pairs.scene(index).things
        for thing in things:
            smallest, largest = SIZES[thing.size]
            alone = (1.2, 1.5) if len(things) == 1 and thing.size == "large" else (1.0, 1.0)
            assert smallest * alone[0] <= 2 * thing.radius <= largest * alone[1]
        for one, other in itertools.combinations(things, 2):
            assert math.hypot(one.x - other.x, one.y - other.y) > 0.999 * (one.radius + other.radius)


def test_nothing_is_cut_off_by_the_border():
    pairs = ScenePairs()
    for index in range(700):
        scene = pairs.scene(index)
        if any(thing.size == "large" for thing in scene.things):
            plain = Scene(scene.things, scene.relations, Ground("white", "plain"))
            pixels = draw(plain, 96, np.random.default_rng(0)).astype(int)
            border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
            # colours differ in their channels by far more than a tinted white and its noise do
            assert (border.max(0) - border.min(0)).max() < 60, scene


def test_places_turns_and_tones_vary():
    scenes = [ScenePairs().scene(index) for index in range(400)]
    alone = [scene.things[0] for scene in scenes if len(scene.things) == 1]
    middle = np.mean([abs(thing.x - 0.5) < 0.1 and abs(thing.y - 0.5) < 0.1 for thing in alone])
    assert 0.6 < middle < 0.95
    in_the_middle = [thing.x for thing in alone if abs(thing.x - 0.5) < 0.1]
    assert np.ptp(in_the_middle) > 0.03
    assert np.ptp([thing.turn for thing in alone]) > 0.2
    tones = {tone: [] for tone in ("white", "grey")}
    for index, scene in enumerate(scenes[:150]):
        tones[scene.ground.tone].append(float(np.median(ScenePairs()[index].image.float().mean(0))))
    assert np.mean(tones["white"]) > np.mean(tones["grey"]) + 20


def test_shapes_and_counts_are_varied():
    pairs = ScenePairs()
    scenes = [pairs.scene(index) for index in range(1500)]
    counts = np.bincount([len(scene.things) for scene in scenes], minlength=4)[1:] / 1500
    assert counts == pytest.approx([0.35, 0.45, 0.20], abs=0.04)
    assert len({pairs.caption(index) for index in range(1500)}) > 1350
    assert {(s.ground.tone, s.ground.pattern) for s in scenes} == {
        (tone, pattern) for tone in ("white", "grey") for pattern in ("plain", "fading", "speckled")
    }


def pillow_shape(shape: str, side: int, radius: float) -> np.ndarray:
    """Where a shape lies, drawn by Pillow with its own geometry: (side, side) bool."""
    image = Image.new("1", (side, side))
    pen, c, r = ImageDraw.Draw(image), (side - 1) / 2, radius * side

    def disc(x: float, y: float, size: float, ink: int = 1) -> None:
        pen.ellipse([c + (x - size) * r, c + (y - size) * r, c + (x + size) * r, c + (y + size) * r], fill=ink)

    def polygon(*corners: tuple[float, float]) -> None:
        pen.polygon([(c + x * r, c + y * r) for x, y in corners], fill=1)

    def around(size: float, turn: float) -> tuple[float, float]:
        return size * math.sin(turn), -size * math.cos(turn)

    if shape == "circle":
        disc(0, 0, 0.95)
    elif shape == "square":
        polygon((-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78))
    elif shape == "triangle":
        polygon((0, -1.0), (0.97, 0.68), (-0.97, 0.68))
    elif shape == "star":
        polygon(*(around((1.1, 0.46)[k % 2], k * math.pi / 5) for k in range(10)))
    elif shape == "heart":
        polygon((0, 0.957), (0.877, 0.08), (0, -0.797), (-0.877, 0.08))
        disc(-0.438, -0.358, 0.62)
        disc(0.438, -0.358, 0.62)
    elif shape == "ring":
        disc(0, 0, 0.99)
        disc(0, 0, 0.49, 0)
    elif shape == "cross":
        polygon((-0.3, -0.98), (0.3, -0.98), (0.3, 0.98), (-0.3, 0.98))
        polygon((-0.98, -0.3), (0.98, -0.3), (0.98, 0.3), (-0.98, 0.3))
    else:
        disc(0.15, 0, 1.0)
        disc(0.65, 0, 0.85, 0)
    return np.array(image)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_drawn_as_pillow_draws_them(shape):
    scene = Scene((Thing("blue", shape, "large", 0.5, 0.5, 0.35, 0.0),), (), Ground("white", "plain"))
    pixels = draw(scene, 160, np.random.default_rng(0)).astype(int)
    drawn = pixels[0] < 130  # blue has little red, the ground has much
    expected = pillow_shape(shape, 160, 0.35)
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.92  # another shape is below 0.8


def test_a_turned_thing_is_turned_clockwise():
    arrow = Thing("blue", "triangle", "large", 0.5, 0.5, 0.4, math.pi / 2)
    pixels = draw(Scene((arrow,), (), Ground("white", "plain")), 64, np.random.default_rng(0))
    columns = (pixels[0] < 130).sum(0)
    tip, base = columns[34:].nonzero()[0].max() + 34, columns.nonzero()[0].min()
    assert columns[tip - 2] < columns[base + 3]  # it points to the right now


def test_things_have_their_colour_at_their_place():
    pairs = ScenePairs(image_size=96)
    for index in range(60):
        image = pairs[index].image
        for thing in pairs.scene(index).things:
            if thing.shape in ("ring", "moon"):
                continue
            at = image[:, int(thing.y * 96), int(thing.x * 96)].float()
            distances = {name: float((at - torch.tensor(rgb)).abs().max()) for name, rgb in PALETTE.items()}
            assert min(distances, key=distances.__getitem__) == thing.colour
            assert distances[thing.colour] < 14 + 20


def test_a_scene_looks_the_same_at_any_size():
    large, small = (ScenePairs(image_size=side)[7].image.float() for side in (96, 24))
    shrunk = large.unflatten(2, (24, 4)).mean(3).unflatten(1, (24, 4)).mean(2)
    assert (shrunk - small).abs().mean() < 8
    assert ScenePairs(image_size=31)[0].image.shape == (3, 31, 31)
    with pytest.raises(ValueError, match="7 pixels"):
        ScenePairs(image_size=7)[0]


@pytest.mark.parametrize(
    "make", [ScenePairs, SceneImages, lambda: SceneTexts(), lambda: RetrievalScenes(), lambda: SceneClasses()]
)
def test_a_sample_depends_on_its_index_alone(make):
    source, other = make(), make()
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(source.__getitem__, [*range(40)] * 2))
    for index, sample in enumerate(together):
        for part, same in zip(sample, other[index % 40], strict=True):
            assert torch.equal(part, same) if isinstance(part, torch.Tensor) else part == same
    assert len({str(sample[-1]) for sample in together}) == 40  # the keys
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match=f"no sample {index}"):
            source[index]


def test_sources_and_seeds_do_not_repeat_each_other():
    images = [
        ScenePairs()[0].image,
        SceneImages()[0].image,
        ScenePairs(seed=1)[0].image,
        ScenePairs("heldout")[0].image,
    ]
    for at, image in enumerate(images):
        assert not any(torch.equal(image, other) for other in images[:at])
    names = {source.name for source in (ScenePairs(), ScenePairs("heldout"), SceneImages(), SceneTexts())}
    assert len(names) == 4


def test_the_caption_alone_is_the_pairs_caption():
    for source in (ScenePairs(), ScenePairs("heldout"), RetrievalScenes()):
        assert all(source[index].caption == source.caption(index) for index in range(20))


def test_retrieval_has_no_two_alike():
    scenes = RetrievalScenes(length=960)
    contents, captions, twos = set(), set(), []
    for index in range(960):
        scene, caption = scenes.scene(index), scenes.caption(index)
        things = frozenset((thing.colour, thing.shape) for thing in scene.things)
        assert things <= set(combinations("heldout"))
        assert len(things) == len(scene.things) == 2 + index % 2
        assert set(named(caption)) == things
        order = sorted(scene.things, key=lambda t: (t.colour, t.shape))
        contents.add(
            (things, holds("left", *order[:2]), holds("above", *order[:2]), holds("right", *order[:2]))
            if index % 2 == 0
            else things
        )
        captions.add(caption)
        twos += [things] * (index % 2 == 0)
    assert len(contents) == 960
    assert len(set(twos[:120])) == 120
    assert len({scenes.caption(index) for index in range(256)}) == 256


def test_classes_are_shown_equally_often_with_their_labels():
    source = SceneClasses(length=160)
    labels = [source[index].label for index in range(160)]
    assert sorted(labels) == sorted([*range(16)] * 10)
    among = SceneClasses(among=zero_shot_classes(None))
    assert len(among.classes) == 64
    assert [among.classes[among[i].label] for i in range(16)] == [source.classes[label] for label in labels[:16]]
    for index in range(16):
        colour, shape = source.classes[labels[index]].split()
        if shape not in ("ring", "moon"):
            reference = torch.tensor(PALETTE[colour]).view(3, 1, 1)
            close = ((source[index].image - reference).abs().amax(0) < 30).float().mean()
            assert close > 0.01
    with pytest.raises(ValueError, match="shown but not among the 48"):
        SceneClasses(among=zero_shot_classes("train"))


def test_prompts_have_the_right_article():
    assert "a picture of an orange circle" in zero_shot_prompts("orange circle")
    assert "a picture of a red star" in zero_shot_prompts("red star")


def test_every_symbol_of_the_grammar_has_a_rule():
    bound = {
        "A",
        "B",
        "C",
        "REL",
        "SIDE",
        "TONE",
        "PATTERN",
        "SIZE",
        "COLOUR",
        "SHAPE",
        "SHAPES",
        "KIND",
        "HAS",
        "NUMBER",
    }
    for name, alternatives in scene_grammar._GRAMMAR.items():
        for word in (word for words in alternatives for word in words):
            assert not word.isupper() or word in scene_grammar._GRAMMAR or word in bound, (name, word)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScenePairs("test"), "'test'"),
        (lambda: SceneImages(length=0), "length 0"),
        (lambda: RetrievalScenes(length=961), "length 961"),
    ],
)
def test_names_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
