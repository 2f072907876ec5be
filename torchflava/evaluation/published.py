"""What the paper prints (arXiv:2112.04482v3, tables 3 to 6 and C.1), as rows of the scorecard.

The numbers were read in a transcription of the paper. What vouches for them: where all cells of a domain are here, their mean is
the average that the paper prints, to the last digit, but for FLAVA's language (78.20, printed 78.19). A cell that was not to be
had is left empty. MRPC and QQP are the means of the accuracy and the F1 printed.
"""

from collections.abc import Mapping, Sequence

from torchflava.evaluation.scorecard import AVERAGES, COLUMNS, Domain, Key, Row, shown_averages

_FLAVA_VISION = (
    75.54, 88.51, 92.87, 77.68, 70.87, 47.31, 77.29, 84.82, 95.74, 96.37, 98.42,
    98.89, 97.26, 79.46, 89.04, 85.31, 83.32, 79.66, 61.12, 82.17, 57.11, 28.92,
)  # fmt: skip
_CLIP_PMD_VISION = (
    72.95, 85.49, 91.25, 74.40, 62.84, 40.02, 73.40, 79.61, 93.76, 94.94, 97.38,
    97.29, 95.70, 76.34, 84.89, 83.99, 77.85, 73.64, 57.04, 79.96, 56.84, 25.12,
)  # fmt: skip
_CLIP_400M_VISION = (
    80.20, 91.56, 94.93, 81.10, 85.92, 51.40, 78.46, 91.66, 95.51, 97.12, 99.01,
    99.09, 95.38, 88.61, 86.56, 83.72, 85.17, 75.89, 68.36, 82.05, 74.68, 30.10,
)  # fmt: skip
_FLAVA_NLP = (80.33, 50.65, (81.4 + 86.9) / 2, (90.4 + 87.2) / 2, 90.94, 87.31, 57.76, 85.67)
_CLIP_400M_NLP = (33.52, 25.37, (74.9 + 65.0) / 2, (76.8 + 53.9) / 2, 88.19, 50.54, 55.23, 15.98)
_BERT_NLP = (84.4, 54.6, (81.9 + 87.6) / 2, (90.6 + 87.4) / 2, 92.5, 91.0, 62.5, 88.1)
_FLAVA_MULTIMODAL = (72.49, 78.89, 76.09, 67.70, 94.00, 65.22, 89.38, 42.74, 76.76, 38.38, 67.47)
_CLIP_PMD_MULTIMODAL = (59.81, 73.53, 56.59, 60.90, 88.90, 56.48, 83.60, 37.12, 69.48, 33.29, 62.47)
_CLIP_400M_MULTIMODAL = (54.83, 74.27, 63.93, 82.20, 96.60, 62.08, 85.68, 52.48, 76.68, 33.07, 58.37)


def _of(domain: Domain, numbers: Sequence[float]) -> dict[Key, float]:
    """A domain's cells, in the order of its columns."""
    keys = [column.key for column in COLUMNS if column.domain == domain]
    return dict(zip(keys, numbers, strict=True))


def _reasoning(vqa: float, snli_ve: float | None = None, hateful_memes: float | None = None) -> dict[Key, float]:
    numbers = zip(COLUMNS[30:33], (vqa, snli_ve, hateful_memes), strict=True)
    return {column.key: number for column, number in numbers if number is not None}


def _first(flickr: tuple[float, float], coco: tuple[float, float]) -> dict[Key, float]:
    """Recall@1 of texts and images."""
    found = {"flickr30k": flickr, "coco": coco}
    return {
        (task, way): number for task, two in found.items() for way, number in zip(("tr@1", "ir@1"), two, strict=True)
    }


def _averages(
    vision: float | None, nlp: float | None, multimodal: float | None, macro: float | None = None
) -> dict[str, float]:
    told = {"vision": vision, "nlp": nlp, "multimodal": multimodal, "macro": macro}
    return {name: number for name, number in told.items() if number is not None}


_MULTIMODAL_MODELS: Mapping[str, tuple[float, float | None, float | None]] = {
    "VisualBERT": (70.8, 77.3, 74.1),
    "UNITER base": (72.7, 78.3, None),
    "VL-BERT base": (71.2, None, None),
    "ViLBERT": (70.6, 75.7, 74.1),
    "LXMERT": (72.4, None, None),
    "UniT": (67.0, 73.1, None),
}

PUBLISHED: tuple[Row, ...] = (
    Row(
        "FLAVA",
        _of("vision", _FLAVA_VISION) | _of("nlp", _FLAVA_NLP) | _of("multimodal", _FLAVA_MULTIMODAL),
        _averages(79.44, 78.19, 69.92, 75.85),
        "the paper, table 4",
    ),
    Row("MIM only", {}, _averages(57.46, None, None, 19.15), "table 3; the macro average counts what is missing as 0"),
    Row("MLM only", {}, _averages(None, 71.55, None, 23.85), "table 3; the macro average counts what is missing as 0"),
    Row(
        "FLAVA_C",
        _first((68.30, 60.56), (43.08, 37.59)),
        _averages(79.14, 64.80, 66.25, 70.06),
        "table 4: the contrastive loss alone, on PMD",
    ),
    Row(
        "FLAVA_MM",
        _first((69.30, 63.16), (43.48, 38.46)),
        _averages(79.35, 74.22, 69.11, 74.23),
        "table 4: the multimodal losses, on PMD",
    ),
    Row(
        "FLAVA without initialisation",
        {},
        _averages(78.29, 75.55, 67.32, 73.72),
        "table 4: all losses from the start, no encoder trained before",
    ),
    Row(
        "FLAVA, BEiT initialisation",
        {},
        _averages(78.65, 77.40, 69.23),
        "table C.1, whose 78.03 (and 78.82 for DINO, which is FLAVA here) is the mean of vision and language alone",
    ),
    Row(
        "CLIP, PMD",
        _of("vision", _CLIP_PMD_VISION) | _of("multimodal", _CLIP_PMD_MULTIMODAL),
        _averages(76.12, None, 62.02),
        "table 4: ViT-B/16 on the paper's 70M pairs",
    ),
    Row(
        "CLIP, 400M",
        _of("vision", _CLIP_400M_VISION) | _of("nlp", _CLIP_400M_NLP) | _of("multimodal", _CLIP_400M_MULTIMODAL),
        _averages(82.57, None, 67.29),
        "tables 4 and 5: OpenAI's ViT-B/16",
    ),
    Row("BERT base", _of("nlp", _BERT_NLP), {}, "table 5"),
    *(Row(name, _reasoning(*numbers), {}, "table 5") for name, numbers in _MULTIMODAL_MODELS.items()),
    Row("FLAVA, table 5", _reasoning(72.8, 79.0, 76.7), {}, "table 5, where it stands beside the models before it"),
)
"""Every row of the paper that has a number here."""

EFFECTS: tuple[tuple[str, str, str], ...] = (
    ("MMM and ITM", "FLAVA_C", "FLAVA_MM"),
    ("unimodal images and texts", "FLAVA_MM", "FLAVA without initialisation"),
    ("trained encoders to start from", "FLAVA without initialisation", "FLAVA"),
)
"""What each step of the paper's ablation adds: its name, the row before it and the row after."""


def effects(rows: Sequence[Row]) -> str:
    """What each step adds to the averages, as a Markdown table; of the steps whose two rows are there."""
    shown = {row.name: shown_averages(row) for row in rows}
    lines = []
    for name, before, after in EFFECTS:
        if before in shown and after in shown:
            gains = (shown[after][key] - shown[before][key] for key in AVERAGES)
            lines.append(f"| {name} | {' | '.join(f'{gain:+.2f}' for gain in gains)} |")
    head = [f"| what it adds | {' | '.join(AVERAGES)} |", f"|---|{'---:|' * len(AVERAGES)}"]
    return "\n".join([*head, *lines]) + "\n" if lines else ""
