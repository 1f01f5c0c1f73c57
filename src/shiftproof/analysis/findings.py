"""What every tensor inside a network does when the input is shifted, and what must be aligned."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from fractions import Fraction

import shiftproof.analysis.rules  # noqa: F401 (registers the rules)
from shiftproof.analysis.calls import RULES, Known, Unreadable, read
from shiftproof.analysis.changes import Change, ExactMean
from shiftproof.analysis.errors import IndivisibleError, UnknownError
from shiftproof.analysis.graph import CallRecord, Graph, Value, values_in
from shiftproof.analysis.layout import (
    SCORES,
    Layout,
    factors,
    input_layout,
    repeated,
    size_of,
)
from shiftproof.analysis.outputs import output_form

_ENLARGING = ("interpolate", "expand", "expand_as", "broadcast_to", "repeat", "getitem")
_FILLED = ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")


@dataclass
class Finding:
    """What was found out about a call.

    Attributes:
        record: The call; None for the output of the network.
        place: How it is called in messages.
        reads: The tensors it reads that move with the input.
        periods: By how many pixels the input must be aligned for it, per axis.
        reasons: Why, in words.
        change: What to do in its place, given that alignment, while the map still moves.
        border: What it puts around the map that moves, in words.
        geometry: How the size of its result changes, in words.
        misfit: What it leaves out of the map, or adds to it, in words.
        limit: Why that holds for this size only, in words.
        is_explained: Whether a rule says so; of what has none nothing is known.
        is_unknown: Whether only an alignment by the full size of the map is known to help.
        arguments: Its arguments that are no tensors, by name, where there is a change.
    """

    record: CallRecord | None
    place: str
    reads: tuple[Value, ...] = ()
    periods: dict[int, Fraction] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    change: Change | None = None
    border: str = ""
    geometry: str = ""
    misfit: str = ""
    limit: str = ""
    is_explained: bool = True
    is_unknown: bool = False
    arguments: dict[str, object] = field(default_factory=dict)

    @property
    def faults(self) -> str:
        """Why a shift does not pass through, in words; empty if it does."""
        return "; ".join(part for part in (self.border, *self.reasons, self.misfit) if part)


@dataclass
class Findings:
    """What was found out about a network.

    Attributes:
        graph: The recorded forward pass.
        calls: A finding for each call that reads something that moves, in order; the output last.
        layouts: What each tensor does when the input is shifted.
        spans: Size of the input per axis.
    """

    graph: Graph
    calls: list[Finding]
    layouts: dict[Value, Known]
    spans: dict[int, int]

    def layout(self, value: Value) -> Layout | None:
        """Layout of a tensor whose positions are known."""
        known = self.layouts.get(value)
        return None if isinstance(known, Unreadable) else known

    def moves(self, value: Value) -> bool:
        """Whether a shift of the input moves anything in a tensor."""
        return bool(_axes(self.layouts.get(value)))


def _axes(known: Known | None) -> frozenset[int]:
    if known is None:
        return frozenset()
    if isinstance(known, Unreadable):
        return known.axes
    return frozenset(f.axis for f in factors(known) if f.moves and isinstance(f.axis, int))


def analyse(
    graph: Graph,
    *,
    keep_padding: bool = False,
    fewest: float = 1,
    equivariant: Collection[str] = (),
) -> Findings:
    """Find out what must be aligned, and where.

    Args:
        graph: The recorded forward pass.
        keep_padding: Whether paddings stay as they are, although borders then depend on the shift.
        fewest: How many positions a window that leaves out the border must give to be made to wrap
            around it, which gives more of them; infinity for none.
        equivariant: Names of modules, known as a whole, that move with their input.

    Returns:
        The findings.

    Raises:
        IndivisibleError: If a stride does not divide a map.
    """
    analysis = _Analysis(graph, keep_padding, math.inf if keep_padding else fewest, equivariant)
    for record in graph.calls:
        analysis.visit(record)
    analysis.visit_output()
    return Findings(graph, analysis.findings, analysis.layouts, analysis.spans)


class _Analysis:
    def __init__(
        self, graph: Graph, keep_padding: bool, fewest: float, equivariant: Collection[str]
    ) -> None:
        self.graph = graph
        self.keep_padding = keep_padding
        self.fewest = fewest
        self.equivariant = equivariant
        self.spans = {axis: graph.inputs[0].shape[d] for axis, d in enumerate(graph.dims[0])}
        self.layouts: dict[Value, Known] = {
            value: input_layout(value.shape, dims)
            for value, dims in zip(graph.inputs, graph.dims, strict=True)
        }
        self.findings: list[Finding] = []

    def visit(self, record: CallRecord) -> None:
        """Apply the rule of a call."""
        reads = tuple(v for v in record.inputs if _axes(self.layouts.get(v)))
        if not reads:
            self._note_constant(record)
            return
        finding = Finding(record, record.place, reads)
        self.findings.append(finding)
        try:
            if record.is_module:
                self._note_module(record)
            else:
                self._apply(record, finding)
        except UnknownError as error:
            finding.is_explained = record.function in RULES
            self._require_all(finding, str(error))
        except IndivisibleError as error:
            error.findings = self.findings
            raise

    def _apply(self, record: CallRecord, finding: Finding) -> None:
        call = read(record, self.layouts, self.fewest)
        try:
            found = RULES[record.function](call)
            if self.keep_padding and not isinstance(call.change, ExactMean):
                call.change, call.border = None, ""
            self._note(record, found, resized=bool(call.geometry))
        finally:
            finding.border, finding.misfit, finding.limit = call.border, call.misfit, call.limit
        finding.periods, finding.reasons = call.periods, tuple(call.reasons)
        finding.change, finding.geometry = call.change, call.geometry
        if call.change is not None:
            finding.arguments = call.change.compared(call.given)

    def _note(self, record: CallRecord, found: object, *, resized: bool) -> None:
        values = values_in(record.result)
        layouts = found if isinstance(found, list) else [found]
        assert len(values) == len(layouts), (record.function, len(values), len(layouts))
        for value, layout in zip(values, layouts, strict=True):
            fits = isinstance(layout, Unreadable) or tuple(map(size_of, layout)) == value.shape
            assert fits or resized or self._is_resized, (record.place, layout, value.shape)
            self.layouts[value] = layout

    @property
    def _is_resized(self) -> bool:
        """Whether a map upstream has another size than it was recorded with."""
        return any(finding.geometry for finding in self.findings)

    def _note_constant(self, record: CallRecord) -> None:
        """What reads nothing that moves; an enlarged value is the same in every position."""
        values = values_in(record.result)
        if any(value.is_written for value in values):
            return
        if record.function in ("zeros", "ones", "full"):
            self.layouts.update({v: tuple(map(repeated, v.shape)) for v in values})
        elif record.function in (*_ENLARGING, *_FILLED) or self._is_choice(record):
            try:
                found = RULES[record.function](read(record, self.layouts, math.inf))
                self._note(record, found, resized=False)
            except (UnknownError, LookupError):
                return

    def _is_choice(self, record: CallRecord) -> bool:
        """Whether a call computes with scores of phases."""
        known = [self.layouts.get(value) for value in record.inputs]
        return any(f.axis == SCORES for k in known if isinstance(k, tuple) for f in factors(k))

    def _note_module(self, record: CallRecord) -> None:
        """A module that is known as a whole: it moves with its input, or nothing is known."""
        values = values_in(record.result)
        moving = [self.layouts[v] for v in record.inputs if _axes(self.layouts.get(v))]
        if record.owner.name not in self.equivariant or len(moving) != 1:
            raise UnknownError(f"what {record.owner.type} does to positions")
        (layout,) = moving
        if isinstance(layout, Unreadable) or len(values) != 1:
            raise UnknownError(f"what {record.owner.type} does to positions")
        if values[0].shape != tuple(map(size_of, layout)):
            raise UnknownError(f"what {record.owner.type} does to positions")
        self.layouts[values[0]] = layout

    def _require_all(self, finding: Finding, reason: str) -> None:
        """Ask for an alignment by the full size of the map, behind which anything may be done."""
        finding.reasons = (reason,)
        finding.is_unknown = True
        finding.change, finding.geometry = None, ""
        finding.periods = {
            axis: Fraction(self.spans[axis])
            for value in finding.reads
            for axis in _axes(self.layouts.get(value))
        }

    def visit_output(self) -> None:
        """An output whose positions are not those of a map can only stay the same."""
        for value in dict.fromkeys(values_in(self.graph.output)):
            if not _axes(self.layouts.get(value)):
                continue
            finding = Finding(None, "the output", (value,))
            self.findings.append(finding)
            known = self.layouts[value]
            if isinstance(known, Unreadable) or output_form(known, [*self.spans.values()]) is None:
                self._require_all(finding, "an output that is no map")
