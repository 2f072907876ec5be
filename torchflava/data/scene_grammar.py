"""The language of the embedded default data: captions of scenes, and texts about the same world without an image.

Everything is ours. A rule names its alternatives, each as likely as the next, separated by |. A word in capitals is a rule
or, for A, B and C, a thing that has been put into words; all other words stand for themselves, a dash for none.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from torchflava.data.scene_layout import INVERSE, Combination, Scene

_CAPTIONS = {
    "ONE": "A | A GROUND | SEE A | SEE A GROUND | A alone | SEE only A | GROUND there is A",
    "TWO": "EXACT | EXACT | A and B | A with B | SEE A and B | A NEAR B | A and B GROUND | SEE A NEAR B GROUND",
    "EXACT": "A REL B | A REL B GROUND | SEE A REL B | A is REL B | REL B is A | REL B there is A | B with A REL it",
    "LIST": "A , B and C | SEE A , B and C | A , B , C | A and B with C | SEE A , B and C GROUND | GROUND A , B and C",
    "CORNER": "A REL B and C SIDE it | SEE A REL B , C SIDE it | B with A REL it and C SIDE it | A REL B , and SIDE it C",
    "SAME": "MANY | SEE MANY | MANY GROUND | SEE MANY GROUND | MANY together",
    "MANY": "NUMBER COLOUR SHAPES | NUMBER COLOUR SHAPES | NUMBER SHAPES in COLOUR",
    "THING": "ARTICLE OBJECT | ARTICLE OBJECT | ARTICLE OBJECT | ARTICLE SIZE SHAPE in COLOUR",
    "OBJECT": "SIZE COLOUR SHAPE",
    "ARTICLE": "a | a | a | one",
    "SEE": "there is | here is | we see | you can see | a picture of | an image of | a drawing of | this shows",
    "GROUND": "on a TONE PATTERN background | on TONE PATTERN ground | against a TONE PATTERN background",
    "LEFT": "left of | to the left of | on the left of",
    "RIGHT": "right of | to the right of | on the right of",
    "ABOVE": "above | over | on top of",
    "BELOW": "below | under | beneath",
    "NEAR": "next to | beside | near | close to",
}
_TEXTS = {
    "TEXT": "STORY | STORY | TASK | QUESTION | COMPARE | FACT | COLOURED | IMAGINED",
    "STORY": "WHO DOES A | WHO DOES A PLACE | WHO DOES A and B | WHO DOES A REL B | PLACE WHO DOES A | WHO DOES A , then B",
    "TASK": "please draw A | put A REL B | move A REL B | look for A PLACE | make the SHAPE COLOUR | take away A",
    "QUESTION": "can you see A ? | where is A ? | is there A REL B ? | what is REL B ? | is the SHAPE COLOUR ?",
    "COMPARE": "A is larger than B | A is smaller than B | A and B look nice | A is not B | not A but B",
    "FACT": "a SHAPE HAS | a SHAPE HAS | a SHAPE HAS , even A",
    "COLOURED": "KIND is COLOUR | KIND and A are both COLOUR | WHO likes COLOUR | as COLOUR as KIND",
    "IMAGINED": "imagine A | imagine A REL B | no picture of A | WHO dreams of A and B",
    "REL": "LEFT | RIGHT | ABOVE | BELOW",
    "WHO": "the child | a girl | the boy | my friend | the teacher | a painter | someone | grandmother",
    "DOES": "draws | paints | cuts out | finds | points at | likes | sees | remembers",
    "PLACE": "on the paper | on the wall | in a book | on the board | at school | in the sand | on the table | at home",
}
_COLOURS = {
    "red": ("red | red | red | scarlet", "a cherry | a tomato | blood | a fire engine"),
    "orange": ("orange", "a carrot | a pumpkin | a fox | a tiger"),
    "yellow": ("yellow", "a lemon | a banana | the sun | butter"),
    "green": ("green", "grass | a leaf | a frog | a pea"),
    "turquoise": ("turquoise | turquoise | turquoise | teal", "a warm sea | a lagoon | a peacock"),
    "blue": ("blue", "the sky | the ocean | a blueberry | a sapphire"),
    "purple": ("purple | purple | purple | violet", "a plum | lavender | an aubergine"),
    "pink": ("pink", "a flamingo | a piglet | bubble gum"),
}
"""By colour: its words, and what has it."""
_SHAPES = {
    "circle": ("circle | circle | circle | disc", "is round | has no corners | can roll"),
    "square": ("square | square | square | box", "has four corners | has four equal sides | is not round"),
    "triangle": ("triangle", "has three corners | has three sides | is pointed"),
    "star": ("star", "has five points | is pointed | stands in the sky"),
    "heart": ("heart", "stands for love | has one point and two curves"),
    "ring": ("ring | ring | ring | hoop", "has a hole | is round and empty | fits a finger"),
    "cross": ("cross | cross | cross | plus", "has four arms | marks a place | means adding"),
    "moon": ("moon | moon | moon | crescent", "is curved | has two tips | shines at night"),
}
"""By shape: its words, and what is true of it."""
_SIZES = {"small": "small | little | tiny | -", "medium": "- | - | - | medium", "large": "large | big | - | -"}
_TONES = {"white": "white | white | bright", "grey": "grey | grey | dull"}
_PATTERNS = {"plain": "- | - | plain", "fading": "- | - | fading", "speckled": "- | speckled | grainy"}
_NUMBERS = {2: "two | two | a pair of", 3: "three | three | a trio of"}

Alternatives = tuple[tuple[str, ...], ...]
Grammar = dict[str, Alternatives]
Uniform = Callable[[], float]


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "x")) else "s")


def _read(rule: str) -> Alternatives:
    return tuple(tuple(word for word in words.split() if word != "-") for words in rule.split("|"))


_GRAMMAR = {name: _read(rule) for name, rule in (_CAPTIONS | _TEXTS).items()}
_OF_COLOUR = {name: {"COLOUR": _read(words), "KIND": _read(kind)} for name, (words, kind) in _COLOURS.items()}
_OF_SHAPE = {name: {"SHAPE": _read(words), "HAS": _read(has)} for name, (words, has) in _SHAPES.items()}
for _names in _OF_SHAPE.values():
    _names["SHAPES"] = tuple((_plural(word),) for (word,) in _names["SHAPE"])
_OF_SIZE = {name: {"SIZE": _read(words)} for name, words in _SIZES.items()}

COLOUR_WORDS = frozenset(word for names in _OF_COLOUR.values() for (word,) in names["COLOUR"])
"""Every word that a caption may use for a colour."""
SHAPE_WORDS = frozenset(word for names in _OF_SHAPE.values() for (word,) in names["SHAPE"] + names["SHAPES"])
"""Every word that a caption may use for a shape or several."""


def caption(scene: Scene, rng: np.random.Generator, *, exact: bool = False) -> str:
    """A caption that is true of the scene and names the colour and shape of every thing in it.

    Args:
        scene: what to describe.
        rng: chooses the words.
        exact: also say how two things stand to each other.
    """
    uniform = _uniforms(rng)
    things = scene.things
    grammar = _GRAMMAR | {"TONE": _read(_TONES[scene.ground.tone]), "PATTERN": _read(_PATTERNS[scene.ground.pattern])}
    spoken = [_spoken(grammar, (thing.colour, thing.shape), thing.size, uniform) for thing in things]
    if len(things) == 1:
        return _sentence("ONE", grammar | {"A": spoken[0]}, uniform)
    if len({(thing.colour, thing.shape) for thing in things}) == 1:
        grammar |= _OF_COLOUR[things[0].colour] | _OF_SHAPE[things[0].shape] | {"NUMBER": _read(_NUMBERS[len(things)])}
        return _sentence("SAME", grammar, uniform)
    if len(things) == 2:
        relation = scene.relations[0]
        if uniform() < 0.5:
            spoken, relation = spoken[::-1], INVERSE[relation]
        grammar |= {"A": spoken[0], "B": spoken[1], "REL": ((relation.upper(),),)}
        return _sentence("EXACT" if exact else "TWO", grammar, uniform)
    if uniform() < 0.5:
        order = sorted(range(3), key=lambda _: uniform())
        return _sentence("LIST", grammar | {name: spoken[at] for name, at in zip("ABC", order, strict=True)}, uniform)
    grammar |= dict(zip("ABC", spoken, strict=True))
    first, third = scene.relations
    return _sentence("CORNER", grammar | {"REL": ((first.upper(),),), "SIDE": ((third.upper(),),)}, uniform)


def text(pool: Sequence[Combination], rng: np.random.Generator) -> str:
    """A text without an image that names no combination outside `pool`."""
    uniform = _uniforms(rng)
    first, second = (pool[int(uniform() * len(pool))] for _ in range(2))
    grammar = _GRAMMAR | _OF_COLOUR[first[0]] | _OF_SHAPE[first[1]]
    for name, combination in (("A", first), ("B", second)):
        size = list(_SIZES)[int(uniform() * len(_SIZES))]
        grammar[name] = _spoken(_GRAMMAR, combination, size, uniform)
    return _sentence("TEXT", grammar, uniform)


def prompt(template: str, name: str) -> str:
    """A template such as "a picture of a {}" with a class name put in: "a picture of an orange star"."""
    return _joined(template.format(name).split())


def _spoken(grammar: Grammar, combination: Combination, size: str, uniform: Uniform) -> Alternatives:
    words = grammar | _OF_COLOUR[combination[0]] | _OF_SHAPE[combination[1]] | _OF_SIZE[size]
    return (tuple(_expanded("THING", words, uniform)),)


def _sentence(rule: str, grammar: Grammar, uniform: Uniform) -> str:
    return _joined(_expanded(rule, grammar, uniform))


def _expanded(rule: str, grammar: Grammar, uniform: Uniform) -> list[str]:
    alternatives = grammar[rule]
    words: list[str] = []
    for word in alternatives[int(uniform() * len(alternatives))]:
        if word in grammar:
            words += _expanded(word, grammar, uniform)
        else:
            words.append(word)
    return words


def _joined(words: Sequence[str]) -> str:
    """Words -> a text: `a` before a vowel becomes `an`, and punctuation stands at the word before it."""
    following = [*words[1:], ""]
    spelled = [
        "an" if word == "a" and after[:1] in tuple("aeiou") else word
        for word, after in zip(words, following, strict=True)
    ]
    return " ".join(spelled).replace(" ,", ",").replace(" ?", "?")


def _uniforms(rng: np.random.Generator) -> Uniform:
    """Numbers in [0, 1), one a call."""

    def stream() -> Iterator[float]:
        while True:
            yield from rng.random(32).tolist()

    return stream().__next__
