"""Figures as SVG that is part of the page: it needs no script, and its colours follow the theme."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from shiftproof.results.audit import AuditResult, ShiftMap, Strip

NUM_COLOURS = 4
"""Answers of a picture that have a colour of their own; all others share one."""

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LEVELS = 5


@dataclass(frozen=True)
class Legend:
    """Which colour and letter each answer of a picture has.

    Attributes:
        classes: The answers, the reference first, then by how often they occur.
        names: Their names.
    """

    classes: tuple[int, ...]
    names: tuple[str, ...]

    def colour(self, number: int | None) -> int:
        """Number of the colour: 0 for the reference, the last for all without their own."""
        if number is None:
            return NUM_COLOURS + 1
        return min(self.classes.index(number), NUM_COLOURS)

    def letter(self, number: int | None) -> str:
        """The letter of an answer; a dash for none."""
        if number is None:
            return "-"
        place = self.classes.index(number)
        return _LETTERS[place] if place < len(_LETTERS) else f"Z{place - 24}"

    def name(self, number: int | None) -> str:
        """The name of an answer."""
        return "no answer" if number is None else self.names[self.classes.index(number)]

    @property
    def entries(self) -> list[tuple[int, str, str]]:
        """Colour, letter and name of each answer that occurs."""
        return [
            (self.colour(number), self.letter(number), name)
            for number, name in zip(self.classes, self.names, strict=True)
        ]


def legend_of(result: AuditResult, picture: int) -> Legend:
    """The legend of a picture, the same for all its figures.

    Args:
        result: The audit.
        picture: Number of the picture.

    Returns:
        The legend.
    """
    counts: Counter[int] = Counter()
    for network in result.networks:
        for strip in network.strips:
            if strip.picture == picture:
                counts.update(c for c in strip.classes if c is not None)
        for found in network.maps:
            if found.picture == picture:
                counts.update(c for row in found.classes for c in row if c is not None)
    reference = result.pictures[picture].reference
    others = [number for number, _ in counts.most_common() if number != reference]
    classes = others if reference is None else [reference, *others]
    names = [result.class_names.get(number, f"class {number}") for number in classes]
    return Legend(tuple(classes), tuple(names))


def _spans(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    return f"{min(known):.2f} to {max(known):.2f}"


def _counted(classes: Iterable[int | None], legend: Legend, noun: str) -> str:
    counts = Counter(classes)
    parts = [f"{legend.name(number)} in {count}" for number, count in counts.most_common(4)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(4))
    return ", ".join(parts) + (f", others in {rest}" if rest else "") + f" {noun}"


def describe_strip(strip: Strip, legend: Legend, title: str) -> str:
    """What a strip shows, for those who do not see it.

    Args:
        strip: The strip.
        legend: The legend of its picture.
        title: Name of the network.

    Returns:
        The text.
    """
    frames = len(strip.shifts)
    changes = strip.num_changes
    times = "once" if changes == 1 else f"{changes} times"
    return (
        f"{title}: in {frames} frames the answer changes {times if changes else 'never'}; "
        f"{_counted(strip.classes, legend, 'frames')}; probability of "
        f"{legend.name(legend.classes[0]) if legend.classes else 'the answer'} from "
        f"{_spans(strip.probabilities)}"
    )


def describe_map(found: ShiftMap, legend: Legend, title: str) -> str:
    """What a map shows, for those who do not see it.

    Args:
        found: The map.
        legend: The legend of its picture.
        title: Name of the network.

    Returns:
        The text.
    """
    side = len(found.shifts)
    classes = [number for row in found.classes for number in row]
    values = [value for row in found.probabilities for value in row]
    how = "the window moves" if found.motion == "crop" else "around the circle"
    return (
        f"{title}, {how}: {side * side} shifts from {found.shifts[0]} to {found.shifts[-1]} pixels "
        f"both ways; {_counted(classes, legend, 'shifts')}; probability of "
        f"{legend.name(legend.classes[0]) if legend.classes else 'the answer'} from "
        f"{_spans(values)}"
    )


def draw_strip(strip: Strip, legend: Legend) -> str:
    """A strip: one column per frame, its colour the answer, its bar the probability.

    Args:
        strip: The strip.
        legend: The legend of its picture.

    Returns:
        The SVG, without a description.
    """
    count = len(strip.shifts)
    tints: dict[int, list[str]] = defaultdict(list)
    bars: dict[int, list[str]] = defaultdict(list)
    marks = []
    for x, (number, value) in enumerate(zip(strip.classes, strip.probabilities, strict=True)):
        colour = legend.colour(number)
        tints[colour].append(f"M{x} 4h1v20h-1z")
        if value is not None:
            height = round(20 * value, 2)
            bars[colour].append(f"M{x} {round(24 - height, 2)}h1v{height}h-1z")
        if colour:
            marks.append(f"M{x}.2 .8h.6v2h-.6z")
    paths = [f'<path class="k{k} tint" d="{"".join(d)}"/>' for k, d in sorted(tints.items())]
    paths += [f'<path class="k{k}" d="{"".join(d)}"/>' for k, d in sorted(bars.items())]
    if marks:
        paths.append(f'<path class="mark" d="{"".join(marks)}"/>')
    return (
        f'<svg viewBox="0 0 {count} 24" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(paths)}</svg>"
    )


def draw_map(found: ShiftMap, legend: Legend) -> str:
    """A map: one cell per shift, its colour the answer, its strength the probability.

    Args:
        found: The map.
        legend: The legend of its picture.

    Returns:
        The SVG, without a description.
    """
    side = len(found.shifts)
    cells: dict[tuple[int, int], list[str]] = defaultdict(list)
    marks = []
    for y, (row, values) in enumerate(zip(found.classes, found.probabilities, strict=True)):
        for x, (number, value) in enumerate(zip(row, values, strict=True)):
            colour = legend.colour(number)
            level = 0 if value is None else min(int(_LEVELS * value), _LEVELS - 1)
            cells[colour, level].append(f"M{x} {y}h1v1h-1z")
            if colour:
                marks.append(f"M{x}.35 {y}.35h.3v.3h-.3z")
    paths = [
        f'<path class="k{colour} l{level}" d="{"".join(d)}"/>'
        for (colour, level), d in sorted(cells.items())
    ]
    if marks:
        paths.append(f'<path class="mark" d="{"".join(marks)}"/>')
    middle = found.shifts.index(0) if 0 in found.shifts else -1
    if middle >= 0:
        paths.append(f'<rect class="zero" x="{middle}" y="{middle}" width="1" height="1"/>')
    return f'<svg viewBox="0 0 {side} {side}" aria-hidden="true">{"".join(paths)}</svg>'


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        name: What it is called.
        points: Place along the axis, value, and the ends of its interval; None for no interval.
    """

    name: str
    points: tuple[tuple[float, float, float | None, float | None], ...]


_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.5l4.5 8h-9z",
    "M0 -5l5 5l-5 5l-5 -5z",
)


def draw_curves(
    series: Sequence[Series], ticks: Sequence[tuple[float, str]], label: str, unit: str = "%"
) -> str:
    """Curves over one axis, with whiskers for intervals.

    Args:
        series: The curves; places along the axis from 0 to 1.
        ticks: Places along the axis, and their labels.
        label: What the axis shows.
        unit: Of the values.

    Returns:
        The SVG, without a description.
    """
    values = [v for s in series for point in s.points for v in point[1:] if v is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 25, 50, 1e9) if high - low <= 5 * s)
    bottom = int(low // step) * step
    top = max(bottom + step, -int(-high // step) * step)
    left, width, height = 44, 300, 150

    def place(x: float, y: float) -> tuple[float, float]:
        return round(left + 12 + x * (width - 24), 1), round(
            10 + height * (1 - (y - bottom) / (top - bottom)), 1
        )

    parts = []
    for index in range(round((top - bottom) / step) + 1):
        value = bottom + index * step
        y = place(0, value)[1]
        parts.append(f'<path class="rule" d="M{left} {y}h{width}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="2" y="8">{escape(unit)}</text>')
    for x, text in ticks:
        parts.append(
            f'<text x="{place(x, bottom)[0]}" y="{height + 28}" text-anchor="middle">'
            f"{escape(text)}</text>"
        )
    middle = left + width / 2
    parts.append(
        f'<text x="{middle}" y="{height + 46}" text-anchor="middle">{escape(label)}</text>'
    )
    for index, curve in enumerate(series):
        if not curve.points:
            continue
        style = f"s{index % 4} d{min(index // 4, 2)}"
        has_whiskers = any(point[2] is not None for point in curve.points)
        shift = (index - (len(series) - 1) / 2) * 5 * has_whiskers  # or they hide each other
        spots = [(place(p[0], p[1])[0] + shift, place(p[0], p[1])[1]) for p in curve.points]
        for (x, _), point in zip(spots, curve.points, strict=True):
            if point[2] is not None and point[3] is not None:
                ends = place(0, point[2])[1], place(0, point[3])[1]
                parts.append(f'<path class="whisker {style}" d="M{x} {ends[0]}V{ends[1]}"/>')
        line = "L".join(f"{x} {y}" for x, y in spots)
        parts.append(f'<path class="curve {style}" d="M{line}"/>')
        for x, y in spots if len(spots) < 40 else ():
            parts.append(
                f'<path class="dot {style}" transform="translate({x} {y})" '
                f'd="{_MARKERS[index % 4]}"/>'
            )
    return (
        f'<svg viewBox="0 0 {left + width + 6} {height + 52}" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def draw_marker(index: int) -> str:
    """The marker of a curve, for its legend."""
    return (
        '<svg class="key" viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path class="dot s{index % 4}" d="{_MARKERS[index % 4]}"/></svg>'
    )


def draw_grid(values: Sequence[Sequence[float]], low: float, high: float) -> str:
    """Numbers in cells, the stronger the larger.

    Args:
        values: Rows of numbers.
        low: The least of all grids that are shown together.
        high: The largest.

    Returns:
        The SVG, without a description.
    """
    parts = []
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            share = 1.0 if high <= low else (value - low) / (high - low)
            level = min(int(_LEVELS * share), _LEVELS - 1)
            parts.append(
                f'<rect class="g{level}" x="{60 * x}" y="{44 * y}" width="59" height="43"/>'
                f'<text class="t{level}" x="{60 * x + 29.5}" y="{44 * y + 27}" '
                f'text-anchor="middle">{value:.1f}</text>'
            )
    width, height = 60 * max(map(len, values)), 44 * len(values)
    return f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{"".join(parts)}</svg>'
