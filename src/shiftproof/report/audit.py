"""The page of an audit."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from shiftproof.report.drawing import (
    Legend,
    Series,
    describe_map,
    describe_strip,
    draw_curves,
    draw_map,
    draw_marker,
    draw_strip,
    legend_of,
)
from shiftproof.report.page import embedded, environment_rows, render, safe
from shiftproof.report.words import TITLES, headline, lead, number, summary
from shiftproof.results import RateResult
from shiftproof.results.audit import AuditResult, Motion, NetworkAudit, ShiftMap, Strip

MOTIONS: dict[Motion, str] = {"crop": "the window moves", "circular": "around the circle"}


@dataclass(frozen=True)
class Figure:
    """A figure of one network for one picture, or the reason why there is none.

    Attributes:
        title: Name of the network.
        network: Number of the network.
        motion: What moves.
        svg: The drawing.
        text: What it shows, in words.
        rows: The table behind it; the first row holds headings.
        reason: Why it is missing.
        is_hole: Whether it could not be measured, or else there is nothing to show by nature.
    """

    title: str
    network: int
    motion: str
    svg: Any = ""
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    reason: str = ""
    is_hole: bool = True


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _strip_figure(network: NetworkAudit, index: int, picture: int, legend: Legend) -> Figure:
    title = TITLES[network.kind]
    found = next((strip for strip in network.strips if strip.picture == picture), None)
    if found is None:
        reason = network.missing.get("strips", "not measured")
        return Figure(title, index, "crop", reason=reason)
    strip: Strip = found
    svg = safe(draw_strip(strip, legend))
    return Figure(title, index, "crop", svg, describe_strip(strip, legend, title))


def _strip_entries(
    result: AuditResult, picture: int, legend: Legend
) -> tuple[tuple[int, str, str], ...]:
    """The reference, and the answers that occur in the strips of a picture."""
    found = {result.pictures[picture].reference}
    for network in result.networks:
        found.update(c for s in network.strips if s.picture == picture for c in s.classes)
    pairs = zip(legend.classes, legend.entries, strict=True)
    return tuple(entry for number, entry in pairs if number in found)


def _strip_rows(result: AuditResult, picture: int, legend: Legend) -> list[tuple[str, ...]]:
    """One row per frame, one column per network."""
    strips = {
        TITLES[network.kind]: strip
        for network in result.networks
        for strip in network.strips
        if strip.picture == picture
    }
    if not strips:
        return []
    shifts = next(iter(strips.values())).shifts
    rows = [("pixels to the right", *strips)]
    for place, shift in enumerate(shifts):
        cells = [
            f"{legend.name(s.classes[place])} ({_value(s.probabilities[place])})"
            for s in strips.values()
        ]
        rows.append((str(shift), *cells))
    return rows


def _map_figure(
    network: NetworkAudit, index: int, picture: int, motion: Motion, legend: Legend
) -> Figure:
    title = TITLES[network.kind]
    found = next((m for m in network.maps if (m.picture, m.motion) == (picture, motion)), None)
    if found is None:
        if motion == "circular" and "circular" in network.inapplicable:
            reason = network.inapplicable["circular"]
            return Figure(title, index, motion, reason=reason, is_hole=False)
        names = ("maps", "circular maps") if motion == "crop" else ("circular maps", "maps")
        reasons = [network.missing[name] for name in names if name in network.missing]
        return Figure(title, index, motion, reason=next(iter(reasons), "not measured"))
    return Figure(
        title,
        index,
        motion,
        safe(draw_map(found, legend)),
        describe_map(found, legend, title),
        _map_rows(found, legend),
    )


def _map_rows(found: ShiftMap, legend: Legend) -> tuple[tuple[str, ...], ...]:
    rows = [("down / right", *map(str, found.shifts))]
    for shift, classes, values in zip(
        found.shifts, found.classes, found.probabilities, strict=True
    ):
        cells = [f"{legend.letter(c)} {_value(v)}" for c, v in zip(classes, values, strict=True)]
        rows.append((str(shift), *cells))
    return tuple(rows)


@dataclass(frozen=True)
class Shown:
    """All figures of one picture."""

    index: int
    name: str
    jpeg: str
    size: int
    reference: str
    is_label: bool
    legend: Legend
    strips: tuple[Figure, ...]
    strip_entries: tuple[tuple[int, str, str], ...]
    strip_rows: tuple[tuple[str, ...], ...]
    maps: tuple[tuple[str, tuple[Figure, ...]], ...]


def _shown(result: AuditResult, index: int) -> Shown:
    picture, legend = result.pictures[index], legend_of(result, index)
    networks = list(enumerate(result.networks))
    strips = tuple(_strip_figure(n, place, index, legend) for place, n in networks)
    maps = tuple(
        (words, tuple(_map_figure(n, place, index, motion, legend) for place, n in networks))
        for motion, words in MOTIONS.items()
    )
    return Shown(
        index,
        picture.name,
        picture.jpeg,
        picture.size,
        legend.name(picture.reference) if picture.reference in legend.classes else "no answer",
        picture.label is not None,
        legend,
        strips,
        _strip_entries(result, index, legend),
        tuple(_strip_rows(result, index, legend)),
        maps,
    )


@dataclass(frozen=True)
class Chart:
    """Curves against the distance of a shift."""

    title: str
    svg: Any
    text: str
    rows: tuple[tuple[str, ...], ...]
    reason: str = ""


def _charts(result: AuditResult) -> list[Chart]:
    charts = []
    for motion, words in MOTIONS.items():
        for what, title in (
            ("consistency", "Same answer as unshifted"),
            ("accuracy", "Right answer"),
        ):
            charts.append(_chart(result, motion, what, f"{title}, {words}"))
    return charts


def _chart(result: AuditResult, motion: Motion, what: str, title: str) -> Chart:
    series: list[Series] = []
    cells: dict[int, dict[str, str]] = defaultdict(dict)
    for network in result.networks:
        points = []
        for distance in network.distances:
            rate: RateResult | None = getattr(distance, what)
            if distance.motion == motion and rate is not None:
                place = math.log2(distance.pixels)
                points.append((place, rate.percent, 100 * rate.low, 100 * rate.high))
                text = f"{number(rate.percent)} % ({rate.successes} of {rate.n}; "
                text += f"{number(100 * rate.low)} to {number(100 * rate.high)})"
                cells[distance.pixels][network.kind] = text
        series.append(Series(TITLES[network.kind], tuple(points)))
    if not cells:
        reason = result.labels_missing if what == "accuracy" else ""
        reasons = [r for n in result.networks for k, r in n.missing.items() if "distances" in k]
        return Chart(title, "", "", (), reason or next(iter(reasons), "not measured"))
    last = max(1.0, *(math.log2(pixels) for pixels in cells))
    scaled = [
        Series(s.name, tuple((x / last, y, low, high) for x, y, low, high in s.points))
        for s in series
    ]
    ticks = [(math.log2(pixels) / last, str(pixels)) for pixels in sorted(cells)]
    absent = {
        n.kind: "none" if motion == "circular" and "circular" in n.inapplicable else "missing"
        for n in result.networks
    }
    rows = [("pixels", *(TITLES[kind] for kind in absent))]
    rows += [
        (str(pixels), *(cells[pixels].get(kind, word) for kind, word in absent.items()))
        for pixels in sorted(cells)
    ]
    text = f"{title}: " + "; ".join(
        f"{s.name} {number(s.points[0][1])} % at 1 pixel, {number(s.points[-1][1])} % at "
        f"{max(cells)} pixels"
        for s in scaled
        if s.points
    )
    return Chart(title, safe(draw_curves(scaled, ticks, "pixels")), text, tuple(rows))


def _choices(result: AuditResult) -> list[tuple[str, list[tuple[str, ...]], str]]:
    """Per network the table of choices, or why there is none."""
    found = []
    for network in result.networks:
        rows: list[tuple[str, ...]] = [
            (
                c.stage or "the network itself",
                result.pictures[c.picture].name,
                f"{number(c.phase[0], 2)} down, {number(c.phase[1], 2)} right",
                f"{c.stride[0]} x {c.stride[1]}",
                number(c.gap, 3),
            )
            for c in network.choices
        ]
        reason = network.missing.get("choices", "")
        reason = f"Missing: {reason}" if reason else network.inapplicable.get("choices", "")
        found.append((TITLES[network.kind], rows, reason))
    return found


def _data(result: AuditResult, shown: list[Shown]) -> dict[str, Any]:
    """What the script needs: small JSON."""
    return {
        "size": result.size,
        "names": {str(key): name for key, name in result.class_names.items()},
        "titles": [TITLES[network.kind] for network in result.networks],
        "pictures": [
            {
                "side": result.pictures[s.index].size,
                "reference": result.pictures[s.index].reference,
                "colours": {str(c): s.legend.colour(c) for c in s.legend.classes},
            }
            for s in shown
        ],
        "strips": [
            [
                {"shifts": s.shifts, "classes": s.classes, "probabilities": s.probabilities}
                for s in network.strips
            ]
            for network in result.networks
        ],
        "maps": [
            [
                {
                    "picture": m.picture,
                    "motion": m.motion,
                    "shifts": m.shifts,
                    "classes": m.classes,
                    "probabilities": m.probabilities,
                }
                for m in network.maps
            ]
            for network in result.networks
        ],
    }


def audit_page(result: AuditResult) -> str:
    """The page of an audit, one self-contained HTML file.

    Args:
        result: The audit.

    Returns:
        The page.

    Raises:
        RuntimeError: If jinja2 is not installed.
    """
    shown = [_shown(result, index) for index in range(len(result.pictures))]
    names = [TITLES[network.kind] for network in result.networks]
    config = [
        (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in result.config.items()
    ]
    return render(
        "audit.html",
        result=result,
        headline=headline(result),
        lead=lead(result),
        names=names,
        titles=TITLES,
        summary=summary(result),
        shown=shown,
        charts=_charts(result),
        markers=[safe(draw_marker(index)) for index in range(len(names))],
        choices=_choices(result),
        config=config,
        environment=environment_rows(result.environment),
        data=embedded(_data(result, shown)),
    )
