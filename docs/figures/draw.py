"""The figures of the guides: `python docs/figures/draw.py` writes them beside itself.

Pictures in a page follow no theme, so all text stands in boxes with a ground of their own, or in a grey that has the same
contrast, 4.2 to 1, against a white page as against a dark one.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

GREY = "#7b7f85"
IMAGE, TEXT, FUSION, LOSS, PLAIN = "#ffd8a8", "#a5d8ff", "#b2f2bb", "#e5dbff", "#e9ecef"
"""Grounds: of images, of texts, of both together, of losses, of all else."""
EDGES = {IMAGE: "#d9480f", TEXT: "#1864ab", FUSION: "#2b8a3e", LOSS: "#5f3dc4", PLAIN: "#495057"}


class Box(NamedTuple):
    """A box with lines of text in its middle."""

    x: float
    y: float
    width: float
    height: float
    words: str
    ground: str = PLAIN


def box(b: Box, *, code: bool = False) -> str:
    """Its first line is bold where there are several."""
    lines = b.words.split("\n")
    family = ' font-family="ui-monospace, monospace"' if code else ""
    top = b.y + b.height / 2 - 9 * (len(lines) - 1) + 5
    told = "".join(
        f'<text x="{b.x + b.width / 2:g}" y="{top + 18 * i:g}" fill="#212529" text-anchor="middle"{family}'
        f"{' font-weight=' + chr(34) + '600' + chr(34) if i == 0 and len(lines) > 1 else ''}>{escape(line)}</text>"
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{b.x:g}" y="{b.y:g}" width="{b.width:g}" height="{b.height:g}" rx="8" fill="{b.ground}" '
        f'stroke="{EDGES[b.ground]}" stroke-width="1.5"/>{told}'
    )


def arrow(*points: tuple[float, float], both: bool = False) -> str:
    """A line through points with a head at its end."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    start = ' marker-start="url(#head)"' if both else ""
    return f'<polyline points="{path}" fill="none" stroke="{GREY}" stroke-width="2"{start} marker-end="url(#head)"/>'


def label(x: float, y: float, words: str, *, anchor: str = "middle") -> str:
    """Text on the page itself."""
    return f'<text x="{x:g}" y="{y:g}" fill="{GREY}" font-weight="600" text-anchor="{anchor}">{escape(words)}</text>'


def svg(width: int, height: int, title: str, parts: list[str]) -> str:
    """A whole file."""
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" fill="{GREY}"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="14" role="img" aria-label="{escape(title)}">\n'
        f"<title>{escape(title)}</title>\n<defs>{head}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def flava() -> str:
    """Three encoders and where the six losses look."""
    parts = [
        box(Box(20, 330, 200, 50, "image\n14 x 14 patches of 16 px", IMAGE)),
        box(Box(500, 330, 200, 50, "text\nup to 512 word pieces", TEXT)),
        box(Box(20, 230, 200, 60, "image encoder\nViT, 12 layers, 768 wide", IMAGE)),
        box(Box(500, 230, 200, 60, "text encoder\nthe same trunk, 12 layers", TEXT)),
        box(Box(240, 90, 240, 60, "fusion encoder\n6 layers over both", FUSION)),
        arrow((120, 330), (120, 292)),
        arrow((600, 330), (600, 292)),
        arrow((160, 230), (160, 190), (300, 190), (300, 152)),
        arrow((560, 230), (560, 190), (420, 190), (420, 152)),
        arrow((222, 260), (268, 260), both=True),
        arrow((452, 260), (498, 260), both=True),
        box(Box(270, 235, 180, 50, "contrastive\nCLS_I against CLS_T", LOSS)),
        arrow((70, 230), (70, 152)),
        arrow((650, 230), (650, 152)),
        box(Box(20, 100, 130, 50, "mim\nhidden patches", LOSS)),
        box(Box(570, 100, 130, 50, "mlm\nhidden words", LOSS)),
        arrow((280, 90), (205, 52)),
        arrow((360, 90), (360, 52)),
        arrow((440, 90), (515, 52)),
        box(Box(120, 5, 150, 45, "mmm_image", LOSS)),
        box(Box(285, 5, 150, 45, "itm\non CLS_M", LOSS)),
        box(Box(450, 5, 150, 45, "mmm_text", LOSS)),
    ]
    return svg(
        720, 390, "FLAVA: an image encoder, a text encoder, a fusion encoder, and where its six losses look", parts
    )


_HIDDEN = {(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)}
_CODES = (41, 41, 7, 7, 41, 93, 95, 7, 12, 93, 95, 88, 12, 12, 60, 60)


def _grid(x: float, y: float, *, masked: bool, codes: bool) -> list[str]:
    """Four by four patches of one picture: as they are, hidden in part, or as codes."""
    drawn = [f'<rect x="{x:g}" y="{y:g}" width="160" height="160" fill="#fff4e6"/>']
    drawn += [f'<circle cx="{x + 84:g}" cy="{y + 84:g}" r="48" fill="#e03131"/>'] if not codes else []
    for row in range(4):
        for column in range(4):
            left, top = x + 40 * column, y + 40 * row
            hidden = masked and (row, column) in _HIDDEN
            ground = "#495057" if hidden else "none"
            asked = codes and (row, column) in _HIDDEN
            ground = LOSS if asked else ground
            drawn.append(
                f'<rect x="{left:g}" y="{top:g}" width="40" height="40" fill="{ground}" stroke="#adb5bd" stroke-width="1"/>'
            )
            if codes:
                weight = ' font-weight="700"' if asked else ""
                drawn.append(
                    f'<text x="{left + 20:g}" y="{top + 25:g}" fill="#212529" text-anchor="middle"{weight}>'
                    f"{_CODES[4 * row + column]}</text>"
                )
    return drawn


def masking() -> str:
    """What is hidden from the model, and what it has to say about it."""
    words = ["a", "red", "circle", "on", "paper"]
    parts = [label(100, 22, "the clean view"), *_grid(20, 35, masked=False, codes=False)]
    parts += [label(310, 22, "the masked view"), *_grid(230, 35, masked=True, codes=False)]
    parts += [label(520, 22, "what is asked: codes"), *_grid(440, 35, masked=False, codes=True)]
    parts += [arrow((184, 115), (226, 115)), arrow((394, 115), (436, 115))]
    for i, word in enumerate(words):
        parts.append(box(Box(20 + 76 * i, 225, 68, 34, word, TEXT)))
        hidden = word == "red"
        parts.append(box(Box(20 + 76 * i, 270, 68, 34, "[MASK]" if hidden else word, LOSS if hidden else TEXT)))
    parts += [label(408, 247, "clean text: for contrastive", anchor="start")]
    parts += [label(408, 292, "masked text: for mlm, mmm_text, itm", anchor="start")]
    return svg(
        730, 320, "One picture and its caption: clean, masked, and the codes and words that are asked for", parts
    )


def passes() -> str:
    """The type of a batch says which passes run, and these which losses there are."""
    rows = [(20, "ImageBatch", IMAGE), (90, "TextBatch", TEXT), (200, "PairBatch", FUSION)]
    parts = [box(Box(10, y, 120, 50, name, ground), code=True) for y, name, ground in rows]
    parts += [
        box(Box(190, 20, 190, 50, "image encoder\nmasked image", IMAGE)),
        box(Box(190, 90, 190, 50, "text encoder\nmasked text", TEXT)),
        box(Box(190, 165, 190, 50, "both encoders\nclean image, clean text", FUSION)),
        box(Box(190, 235, 190, 50, "both encoders\nmasked image and text", FUSION)),
        box(Box(430, 235, 130, 50, "fusion encoder", FUSION)),
    ]
    parts += [arrow((132, y), (188, y)) for y in (45, 115)]
    parts += [
        arrow((132, 215), (160, 215), (160, 190), (188, 190)),
        arrow((132, 235), (160, 235), (160, 260), (188, 260)),
    ]
    parts += [arrow((382, 260), (428, 260))]
    for y, name in (
        (28, "mim"),
        (98, "mlm"),
        (173, "contrastive"),
        (225, "mmm_image"),
        (264, "mmm_text"),
        (303, "itm"),
    ):
        parts.append(box(Box(600, y, 120, 32, name, LOSS), code=True))
    parts += [arrow((382, y), (598, y)) for y in (45, 115, 190)]
    parts += [arrow((562, 252), (598, 242)), arrow((562, 262), (598, 278)), arrow((562, 272), (580, 319), (598, 319))]
    return svg(730, 345, "Which passes each kind of batch takes, and which losses come of them", parts)


def parts_of_a_model() -> str:
    """Parts of three widths go together: sizes are read off them."""
    drawn = [
        box(Box(20, 40, 180, 60, "ConvEncoder(128)\n.width = 128", IMAGE), code=True),
        box(Box(20, 130, 180, 60, "flava_text_encoder\n.width = 192", TEXT), code=True),
        box(Box(20, 220, 180, 60, "flava_fusion_encoder\n.width = 256", FUSION), code=True),
        box(Box(262, 115, 206, 90, "Flava\nprojections 128 to 256,\n192 to 256, both to 512")),
        box(Box(522, 30, 206, 40, "mim: 128 to codes", LOSS)),
        box(Box(522, 78, 206, 40, "mlm: 192 to words", LOSS)),
        box(Box(522, 126, 206, 40, "mmm_image: 256 to codes", LOSS)),
        box(Box(522, 174, 206, 40, "mmm_text: 256 to words", LOSS)),
        box(Box(522, 222, 206, 40, "itm: 256 to yes, no", LOSS)),
        box(Box(522, 270, 206, 40, "contrastive: temperature", LOSS)),
        label(365, 100, "read off the parts"),
        label(625, 22, "FlavaForPreTraining's heads"),
    ]
    drawn += [arrow((202, y), (260, to)) for y, to in ((70, 135), (160, 160), (250, 185))]
    drawn += [arrow((470, 160), (520, y)) for y in (50, 98, 146, 194, 242, 290)]
    return svg(740, 320, "Three encoders of three widths, the projections between them and the heads upon them", drawn)


def step() -> str:
    """From a file to the optimizer's step."""
    stages = [
        ("source\na file, a scene", PLAIN), ("row\ncrops, masks, ids", PLAIN), ("RawPairBatch\nuint8, on the CPU", FUSION),
        ("PairBatch\nfloat, codes", FUSION), ("losses\nby name", LOSS), ("one number\nbackward", LOSS),
    ]  # fmt: skip
    hows = ["its key", "Collate", "prepare", "model", "weights"]
    drawn = []
    for i, (words, ground) in enumerate(stages):
        row, column = divmod(i, 3)
        x, y = 20 + 255 * column, 20 + 120 * row
        drawn.append(box(Box(x, y, 150, 60, words, ground)))
        if i < 5:
            if column < 2:
                drawn += [arrow((x + 152, y + 30), (x + 253, y + 30)), label(x + 203, y + 18, hows[i])]
            else:
                drawn.append(arrow((x + 75, y + 62), (x + 75, y + 92), (95, y + 92), (95, y + 118)))
                drawn.append(label(x - 180, y + 86, hows[i]))
    return svg(700, 215, "The way of a sample: source, row, raw batch, batch, losses, one number", drawn)


FIGURES = {"flava": flava, "masking": masking, "passes": passes, "parts": parts_of_a_model, "step": step}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        Path(__file__).with_name(f"{name}.svg").write_text(draw(), encoding="utf-8")
