"""The statements that the suite is there to check, as data."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.entries_conversion import (
    CERTIFY_CONVERTED,
    CERTIFY_ORIGINAL,
    CIRCULAR,
    CONVERTED,
    ORIGINAL,
)
from benchmarks.entries_motion import NETWORK, OFFSET, OFFSET_COMPILED, WHOLE
from benchmarks.entries_training import DEFAULT, NAME
from benchmarks.maps import FORMATS
from benchmarks.measured import Measured, Report, Spread

RECIPE_IMAGES = 2 * 45_000
"""Images of the short recipe, over which compiling must pay for itself."""

FLOOR = "the floor"

ROUNDING = 1e-5
"""Largest error that counts as rounding, over the standard deviation of the output."""


@dataclass(frozen=True)
class Bar:
    """A ratio and its limit.

    Attributes:
        what: The statement, for the reader.
        entry: Name of the entry.
        group: Formulation, in its best layout.
        over: Formulation it is compared with, in its best layout; or ``FLOOR``.
        limit: Largest ratio allowed, or the smallest.
        quantity: ``"time"`` or ``"memory"``.
        at_least: Whether the limit is the smallest ratio allowed.
        or_floor: Ratio to the floor that will do as well.
    """

    what: str
    entry: str
    group: str
    over: str
    limit: float
    quantity: str = "time"
    at_least: bool = False
    or_floor: float | None = None

    @property
    def demand(self) -> str:
        """The limit in words."""
        words = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
        return words if self.or_floor is None else f"{words}, or {self.or_floor:g} of the floor"


@dataclass(frozen=True)
class Verdict:
    """A bar and what was measured.

    Attributes:
        bar: The bar.
        spread: The ratio.
        to_floor: Ratio to the floor, where it matters too.
    """

    bar: Bar
    spread: Spread
    to_floor: Spread | None = None

    @property
    def met(self) -> bool:
        median, other = self.spread.median, self.bar.or_floor
        if other is not None and self.to_floor is not None and self.to_floor.median <= other:
            return True
        return median >= self.bar.limit if self.bar.at_least else median <= self.bar.limit


def _bars() -> Iterator[Bar]:
    passes = {"forward": "forward", "training_step": "training step"}
    for trunk in ("resnet18", "cifar_resnet18"):
        for name, shown in passes.items():
            entry, group = f"models/{trunk}/{name}", f"{trunk}_pa"
            yield Bar(f"{group} / {trunk}, {shown}", entry, group, trunk, 1.05)
            what = f"{group} / {trunk}, {shown}, peak memory"
            yield Bar(what, entry, group, trunk, 1.05, "memory")
    for layout in FORMATS:
        what = f"converted resnet50 / original with circular padding, forward, {layout}"
        entry = f"conversion/resnet50/forward_{layout}"
        yield Bar(what, entry, CONVERTED, CIRCULAR, 1.05)
    for group, over, limit in (
        (CERTIFY_CONVERTED, CONVERTED, 40.0),
        (CERTIFY_ORIGINAL, ORIGINAL, 60.0),
    ):
        what = f"{group} resnet50 / forward of 2 images"
        yield Bar(what, "conversion/resnet50/certify", group, over, limit)
    yield Bar("offset of a grid lock / resnet18, forward", "motion/offset", OFFSET, NETWORK, 0.05)
    what = "offset of a grid lock, compiled / resnet18, forward"
    yield Bar(what, "motion/offset", OFFSET_COMPILED, NETWORK, 0.03)
    yield Bar("move by whole pixels / floor", "motion/move", WHOLE, FLOOR, 2.5)
    exact, naive = "resnet18_pa", "resnet18_pa, naive scores"
    what = "exact / naive scores in resnet18_pa, forward"
    yield Bar(what, "models/resnet18/forward", exact, naive, 1.02)
    for name, limit in (("forward", 0.7), ("training_step", 0.8)):
        entry, shown = f"models/resnet18/{name}", passes[name]
        what = f"resnet18_aps1 / resnet18_lpf1, {shown}"
        yield Bar(what, entry, "resnet18_aps1", "resnet18_lpf1", 1.10)
        what = f"resnet18_aps1 / published formulation, {shown}"
        yield Bar(what, entry, "resnet18_aps1", "published resnet18_aps1", limit)
    for shape in ("32x64x112x112", "32x128x28x28"):
        entry = f"ops/select_and_take/{shape}/float32"
        yield Bar(f"select and take {shape} / floor", entry, "ours", FLOOR, 2.0)
        what = f"select and take {shape}, published / ours"
        yield Bar(what, entry, "published", "ours", 5.0, at_least=True, or_floor=1.5)
        entry = f"ops/take_backward/{shape}/float32"
        yield Bar(f"backward of take {shape} / floor", entry, "ours", FLOOR, 2.5)


BARS = tuple(_bars())


def ratio(entry: Measured, bar: Bar) -> Spread | None:
    """What a bar speaks of, from an entry; None if it was not measured."""
    if bar.group not in entry.groups:
        return None
    row = entry.best(bar.group)
    if bar.over == FLOOR:
        return entry.floor_ratio(row)
    if bar.over not in entry.groups:
        return None
    other = entry.best(bar.over)
    if bar.quantity == "time":
        return row.over(other)
    if row.peak_bytes is None or not other.peak_bytes:
        return None
    return Spread.of([row.peak_bytes / other.peak_bytes])


def recipe_throughput(entry: Measured) -> dict[str, list[float]]:
    """Images per second of each combination over the short recipe, round by round.

    Compiling counts, once.
    """
    assert entry.images is not None
    found = {}
    for row in entry.rows:
        once = row.compile_seconds if "compiled" in row.group else 0.0
        epochs = RECIPE_IMAGES / entry.images
        found[row.group] = [RECIPE_IMAGES / (epochs * each + once) for each in row.seconds]
    return found


def _default_over_best(report: Report) -> Verdict | None:
    entry = report.entry(NAME)
    if entry is None or DEFAULT not in entry.groups:
        return None
    speeds = recipe_throughput(entry)
    default = speeds.pop(DEFAULT)
    best = max(speeds, key=lambda name: statistics.median(speeds[name]))
    what = f"images/s of the recipe as it is / best ({best})"
    bar = Bar(what, NAME, DEFAULT, best, 0.95, at_least=True)
    pairs = zip(default, speeds[best], strict=True)
    return Verdict(bar, Spread.of([ours / theirs for ours, theirs in pairs]))


def _keeps_the_law(group: str) -> bool:
    """Whether a formulation of ours claims invariance."""
    return group in ("ours", CONVERTED) or (
        ("_aps" in group or "_pa" in group) and "published" not in group and "naive" not in group
    )


def _largest_error(report: Report) -> Verdict | None:
    errors = [
        (row.error, entry.name, row.group)
        for entry in report.entries
        for row in entry.rows
        if row.error is not None and _keeps_the_law(row.group)
    ]
    if not errors:
        return None
    error, entry, group = max(errors)
    what = "largest error of any aps, pa or op of ours"
    return Verdict(Bar(what, entry, group, group, ROUNDING, "error"), Spread.of([error]))


def verdicts(report: Report) -> list[Verdict]:
    """Every bar whose entry the run measured."""
    found = []
    for bar in BARS:
        entry = report.entry(bar.entry)
        spread = None if entry is None else ratio(entry, bar)
        if spread is not None:
            assert entry is not None
            floor = None if bar.or_floor is None else entry.floor_ratio(entry.best(bar.over))
            found.append(Verdict(bar, spread, floor))
    others = (_default_over_best(report), _largest_error(report))
    return found + [verdict for verdict in others if verdict is not None]
