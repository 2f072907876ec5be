"""The page itself: what was found, as HTML that needs nothing beside it (`browse.html` is its template).

Captions, keys and metadata are whatever somebody put into a file: the template escapes every one of them (jinja2, which
torch brings along, under autoescape).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import browse_histograms as drawing
from browse_histograms import Histogram, histogram
from browse_measures import Measures, Unread
from browse_plan import Plan
from browse_rejects import Rejects
from browse_samples import Shown
from browse_sources import rows_of
from jinja2 import Environment, StrictUndefined

_FREQUENT = 30  # words
_REPEATED = 15  # captions
_EXAMPLES = 10  # samples that cannot be read, of each reason
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Reason(NamedTuple):
    """Why some of the measured samples cannot be read."""

    reason: str
    num: int
    examples: list[Unread]


class Measured(NamedTuple):
    """What was measured in a kind, ready to be shown."""

    kind: str
    found: Measures
    histograms: list[Histogram]
    repeated: list[tuple[str, int]]
    """The captions that occur more than once, the most frequent first."""
    num_repeated: int
    """Texts that another one equals."""
    frequent: list[tuple[str, int]]
    unread: list[Reason]


def render(
    plan: Plan,
    shown: Mapping[str, Sequence[Shown]],
    measured: Mapping[str, Measures],
    *,
    rejects: Rejects,
    first_step: int,
) -> str:
    """The page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_written_out, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": size, "share": share, "number": drawing.number}
    template = environment.from_string(Path(__file__).with_name("browse.html").read_text(encoding="utf-8"))
    return template.render(
        plan=plan,
        rows=list(rows_of(plan.mixture, plan.steps)),
        shown=shown,
        measured=[_measured(name, found) for name, found in measured.items()],
        rejects=rejects,
        first_step=first_step,
        drawing=drawing,
    )


def _measured(kind: str, found: Measures) -> Measured:
    cut = None if found.max_length is None else (found.max_length + 1, f"cut at {found.max_length}")
    drawn = [
        histogram("Length in words", found.words, "words"),
        histogram("Length in tokens", found.tokens, "tokens", mark=cut),
        histogram("Width", [width for width, _ in found.sizes], "pixels"),
        histogram("Height", [height for _, height in found.sizes], "pixels"),
        histogram("Width / height", [width / height for width, height in found.sizes], "ratio"),
        histogram("Size of a file", [num_bytes / 1000 for num_bytes in found.num_bytes], "kB"),
    ]
    repeated = [(caption.begin, n) for caption, n in found.captions.most_common(_REPEATED) if n > 1]
    unread: dict[str, list[Unread]] = {}
    for sample in found.unread:
        unread.setdefault(sample.reason, []).append(sample)
    counts = Counter({reason: len(samples) for reason, samples in unread.items()})
    return Measured(
        kind,
        found,
        [each for each in drawn if each is not None],
        repeated,
        sum(n for n in found.captions.values() if n > 1),
        sorted(found.frequent.items(), key=lambda told: (-told[1], told[0]))[:_FREQUENT],
        [Reason(reason, n, unread[reason][:_EXAMPLES]) for reason, n in counts.most_common()],
    )


def size(num_bytes: float) -> str:
    """Bytes, as a person would write them."""
    power = next((n for n in range(4) if num_bytes < 999.5 * 1000**n), 4)
    value, unit = num_bytes / 1000**power, ("B", "kB", "MB", "GB", "TB")[power]
    return f"{value:,.0f} {unit}" if value >= 10 or not power else f"{value:.1f} {unit}"


def share(part: float) -> str:
    """A share in percent."""
    return f"{100 * part:.3g} %"


def _written_out(value: Any) -> Any:
    """A text whose control characters, those that turn the direction of writing included, are written out."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], value) if type(value) is str else value
