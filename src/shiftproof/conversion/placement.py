"""Where to align: the last tensor that everything computed later depends on alone.

All branches behind such a tensor see one shift of the same content, and what joins again fits
together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from shiftproof.analysis.calls import least_common_multiple
from shiftproof.analysis.errors import ConversionError, IndivisibleError
from shiftproof.analysis.findings import Finding, Findings
from shiftproof.analysis.graph import Value, values_in
from shiftproof.analysis.outputs import MapForm, map_form
from shiftproof.conversion.sites import Site, find_site

Periods = dict[int, Fraction]


@dataclass(frozen=True)
class Cut:
    """A tensor that everything computed later depends on alone.

    Attributes:
        value: The tensor.
        form: How it holds the map.
        where: How the call that made it is called in messages.
        is_even: Whether each pixel was brought to one norm, which leaves little to choose by.
        site: Where it can be aligned.
    """

    value: Value
    form: MapForm
    where: str
    is_even: bool
    site: Site


@dataclass
class Placement:
    """An alignment, which holds for everything behind it up to the next one.

    Attributes:
        cut: The tensor that is aligned.
        periods: By how many pixels of the input, per axis.
        readers: The calls that need it.
        reasons: Why, in words.
    """

    cut: Cut
    periods: Periods
    readers: list[Finding] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def strides(self) -> tuple[int, ...]:
        """By how many positions of the tensor."""
        strides: list[int] = []
        form = self.cut.form
        for axis, (step, size) in enumerate(zip(form.steps, form.sizes, strict=True)):
            period = least_common_multiple(self.periods.get(axis, step), step)
            strides.append(int(period / step))
            if size % strides[-1]:
                names = " and ".join(reader.place for reader in self.readers)
                raise IndivisibleError(names, form.sizes, strides, {axis: period})
        return tuple(strides)

    @property
    def is_full(self) -> bool:
        """Whether it is by the full size of the map, because nothing less is known to do."""
        unknown = any(reader.is_unknown for reader in self.readers)
        return unknown and self.strides == self.cut.form.sizes

    def satisfies(self, periods: Periods) -> bool:
        """Whether what is needed holds already."""
        steps = self.cut.form.steps
        return all(
            (self.periods.get(axis, steps[axis]) / period).denominator == 1
            for axis, period in periods.items()
        )

    def add(self, periods: Periods) -> None:
        """Align by more."""
        for axis, period in periods.items():
            known = self.periods.get(axis, Fraction(1))
            self.periods[axis] = least_common_multiple(known, period)


def find_cuts(findings: Findings) -> list[Cut]:
    """Tensors that everything computed later depends on alone, and that can be aligned.

    Args:
        findings: What is known about the network.

    Returns:
        The tensors, in order.
    """
    graph, num_axes = findings.graph, len(findings.spans)
    returned = set(values_in(graph.output))
    end = len(graph.calls)
    last = {
        value: end if value in returned else max(value.users, default=-1)
        for value in findings.layouts
        if findings.moves(value)
    }
    born: dict[int, list[Value]] = {}
    for value in last:
        born.setdefault(value.birth, []).append(value)
    cuts: list[Cut] = []
    live: list[Value] = []
    for index in range(-1, end):
        live = [value for value in live if last[value] > index]
        new = born.get(index, [])
        for value in new:
            form = map_form(findings.layout(value), num_axes)
            alone = not live and not any(last[other] > index for other in new if other is not value)
            alone = alone or value is graph.inputs[0]  # images are aligned together
            if alone and form is not None and value.is_float:
                site = find_site(graph, value, last[value] == end)
                if site is not None:
                    record = graph.calls[index] if index >= 0 else None
                    where = "the input" if record is None else record.place
                    cuts.append(Cut(value, form, where, _is_even(findings, value), site))
        live += [value for value in new if last[value] > index]
    return cuts


def _is_even(findings: Findings, value: Value) -> bool:
    if value.birth < 0:
        return False
    record = findings.graph.calls[value.birth]
    words = f"{record.function} {record.owner.type} {record.owner.name.rpartition('.')[2]}"
    words = words.lower().replace("_", "")
    return any(name in words for name in ("layernorm", "rmsnorm", "normalize "))


def place(findings: Findings) -> list[Placement]:
    """Decide where to align, and by what.

    Args:
        findings: What is known about the network.

    Returns:
        The alignments, in order.

    Raises:
        IndivisibleError: If what must be aligned by does not divide the map.
        ConversionError: If the input itself cannot be aligned.
    """
    cuts = find_cuts(findings)
    placements: list[Placement] = []
    demands: list[tuple[int, Periods]] = []
    for finding in findings.calls:
        if not finding.periods:
            continue
        position = len(findings.graph.calls) if finding.record is None else finding.record.index
        demands.append((position, finding.periods))
        if not (placements and placements[-1].satisfies(finding.periods)):
            _open(placements, cuts, demands, position, findings)
        placements[-1].readers.append(finding)
        reasons = placements[-1].reasons
        reasons += [reason for reason in finding.reasons if reason not in reasons]
    for placement in placements:
        assert placement.strides
    return placements


def _open(
    placements: list[Placement],
    cuts: Sequence[Cut],
    demands: Sequence[tuple[int, Periods]],
    position: int,
    findings: Findings,
) -> None:
    """Add an alignment in front of a call, or enlarge the last one."""
    first = placements[-1].cut.value.birth if placements else -1
    possible = [cut for cut in cuts if first <= cut.value.birth < position]
    if not possible:
        place = findings.graph.calls[position].place
        raise ConversionError(
            "convert: what is aligned must be made of real floating-point numbers, got others in "
            f"front of {place}; convert the network behind the place where they become real"
        )
    latest = possible[-1]
    if placements and latest.form.steps == placements[-1].cut.form.steps:
        placements[-1].add(demands[-1][1])  # the resolution is that of the last alignment
        return
    needed = dict(demands[-1][1])
    for _, periods in (demand for demand in demands if demand[0] > latest.value.birth):
        needed = {
            axis: least_common_multiple(
                needed.get(axis, Fraction(1)), periods.get(axis, Fraction(1))
            )
            for axis in {*needed, *periods}
        }
    others = [index for index, _ in demands if index <= latest.value.birth]
    joins = [
        finding.record.index
        for finding in findings.calls
        if finding.record is not None
        and len(finding.reads) > 1
        and finding.record.index <= latest.value.birth
    ]
    start = max([*others, *joins], default=-1)
    same = [c for c in possible if c.value.birth >= start and c.form.steps == latest.form.steps]
    same = same or [latest]
    smallest = min(math.prod(cut.value.shape) for cut in same)
    same = [cut for cut in same if math.prod(cut.value.shape) == smallest]
    same = [cut for cut in same if not cut.is_even] or same
    same = [cut for cut in same if cut.site.is_boundary] or same
    placements.append(Placement(same[-1], needed))
