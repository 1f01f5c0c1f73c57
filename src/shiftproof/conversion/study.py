"""Follow one network with one example, as often as it takes to know what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch import nn

from shiftproof.analysis.capture import capture
from shiftproof.analysis.changes import Edit
from shiftproof.analysis.errors import CaptureError, ConversionError, IndivisibleError, shown
from shiftproof.analysis.findings import Findings, analyse
from shiftproof.analysis.graph import CallRecord, Graph, values_in
from shiftproof.analysis.layout import BATCH, size_of, still, whole
from shiftproof.analysis.trial import Calls, moves_along, watch
from shiftproof.conversion.plan import multiples_of
from shiftproof.conversion.planning import Decided, decide, resizing_edits
from shiftproof.inputs import Inputs


class Study:
    """What is known about a network, from the sizes and the values of one example.

    Args:
        model: The network; it is left as it is.
        inputs: Its arguments.
        circular: Whether paddings become circular.
        trusted: Names of modules that move with their input.
        skip: Names of modules to leave alone.
        allow_shape_change: Whether outputs may get another shape.

    Attributes:
        accepted: Names of modules that moved with their input in every trial.
        notes: What else is to be known.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        circular: bool,
        trusted: Sequence[str],
        skip: Sequence[str],
        allow_shape_change: bool,
    ) -> None:
        self.model, self.inputs = model, inputs
        self.circular, self.allow_shape_change = circular, allow_shape_change
        self.trusted, self.skip = list(trusted), list(skip)
        self.accepted: list[str] = []
        self.notes: list[str] = []
        self._calls: Calls = {}  # of modules that cannot be followed without values
        self._graph: Graph | None = None
        if not circular:
            self.notes.append(
                "paddings were kept, so that borders still depend on where the content is: the "
                "guarantee holds away from them only"
            )

    def findings(self) -> Findings:
        """What is known about the network, in the sizes it has once it is converted."""
        self._graph = graph = self._capture()
        shapes = [value.shape for value in values_in(graph.output)]
        for fewest in (1, 2):  # a window onto one position is a flattening, where nothing pools
            try:
                findings = self._settled(graph, fewest)
            except CaptureError:  # what follows does not fit the other sizes
                continue
            after = [value.shape for value in values_in(findings.graph.output)]
            if after == shapes or self.allow_shape_change:
                return findings
        return self._settled(graph, math.inf)

    def _capture(self, edits: Mapping[str, Any] | None = None) -> Graph:
        """Follow the network; modules that cannot be looked into become one call each."""
        while True:
            replays = {name: [result for *_, result in c] for name, c in self._calls.items()}
            opaque = [*self.trusted, *self.skip]
            try:
                return capture(self.model, self.inputs, opaque=opaque, replays=replays, edits=edits)
            except CaptureError as error:
                known = not error.module or error.module in self._calls
                known = known or "scripted" in error.reason
                if edits is not None or (known and "raises" not in error.reason):
                    raise
                self._watch([*self._calls, error.module])
                if known:
                    raise

    def _watch(self, names: Sequence[str]) -> None:
        """Run the network on values, to see what modules give that cannot run without."""
        try:
            self._calls = watch(self.model, self.inputs, [n for n in names if n])
        except Exception as error:
            message = (str(error).splitlines() or [""])[0]
            raise ConversionError(
                f"convert: the network must accept the example, got {type(error).__name__} for "
                f"{shown(self.inputs.tensors[0].shape)}: {message}; pass images of the size that "
                "the network is made for"
            ) from error

    def _settled(self, graph: Graph, fewest: float) -> Findings:
        """Analyse, and follow again as long as windows change the sizes behind them."""
        edits: dict[str, list[Edit]] = {}
        for _ in range(20):
            findings = self._analyse(graph, fewest)
            needed = resizing_edits(findings)
            if not needed or needed == edits:
                return findings
            graph, edits = self._capture(needed), needed
        raise CaptureError("", "has sizes that do not settle")

    def _analyse(self, graph: Graph, fewest: float) -> Findings:
        """Analyse, and try the modules of which nothing is known."""
        while True:
            findings = analyse(
                graph,
                keep_padding=not self.circular,
                fewest=fewest,
                equivariant=[*self.trusted, *self.accepted],
            )
            unknown = [f.record for f in findings.calls if f.is_unknown and f.record is not None]
            names = [record.owner.name for record in unknown if record.is_module]
            passed = next((name for name in names if self._passes(name, findings)), None)
            if passed is None:
                return findings
            self.accepted.append(passed)

    def _passes(self, name: str, findings: Findings) -> bool:
        """Whether an opaque module moved with its input in every trial."""
        if name in (*self.accepted, *self.skip, *self.trusted) or name not in self._calls:
            return False
        calls = [r for r in findings.graph.calls if r.is_module and r.owner.name == name]
        return all(self._moves(record, findings) for record in calls)

    def _moves(self, record: CallRecord, findings: Findings) -> bool:
        results = values_in(record.result)
        layout = findings.layout(record.inputs[0]) if len(record.inputs) == 1 else None
        if layout is None or len(results) != 1 or [f.axis for f in layout[0]] != [BATCH]:
            return False
        if results[0].shape != tuple(map(size_of, layout)):
            return False
        name = record.owner.name
        dims = [dim for dim, dimension in enumerate(layout) if not still(dimension)]
        joined = any(whole(layout[dim]) is None for dim in dims)
        module = self.model.get_submodule(name)
        return moves_along(module, self._calls[name], dims, shuffled=joined)

    def least_size(self, decided: Decided) -> tuple[int, ...] | None:
        """The smallest sizes that the decisions hold for; None if for the example's only."""
        found = self._sizes(decided)
        if isinstance(found, tuple):
            return found
        self.notes.append(f"for this size only: {found}")
        return None

    def _sizes(self, decided: Decided) -> tuple[int, ...] | str:
        """The smallest sizes, or why there are none."""
        sizes = self.inputs.sizes
        for alignment in decided.alignments:
            if alignment.full and math.prod(alignment.stride) > 1:
                return "a map is aligned by its full size"
            if len(alignment.dims) < len(alignment.sizes):
                return "positions are flattened where the map is aligned"
        if decided.limits:
            return decided.limits[0]
        if self._calls:
            return "a module was followed on values, at this size"
        from shiftproof.analysis.sizes import least_sizes  # imports sympy

        periods = multiples_of(decided.alignments, sizes)
        least = least_sizes(self.model, self.inputs, periods)
        if least is None:
            return "the code decides by sizes, or cannot be followed without them"
        steps = zip(sizes, periods, range(1, 4), strict=False)
        larger = [size + period * times for size, period, times in steps]
        try:
            again = decide(self._at(larger).findings())
        except Exception as error:
            return f"{shown(larger)} cannot be followed ({type(error).__name__})"
        if again.comparable == decided.comparable:
            return least
        new = [edit.module for edit in again.edits if edit not in decided.edits]
        what = (
            f"{new[0] or 'the network'} would be changed otherwise" if new else "more would differ"
        )
        return f"at {shown(larger)} {what}; convert with an example of that size"

    def _at(self, sizes: Sequence[int]) -> Study:
        """The same network at another size."""
        inputs, trusted = self.inputs.resized(sizes), [*self.trusted, *self.accepted]
        allow = self.allow_shape_change
        return Study(self.model, inputs, self.circular, trusted, self.skip, allow)

    def sizes_near(self, error: IndivisibleError) -> str:
        """Name the nearest sizes that can be converted."""
        sizes = self.inputs.sizes
        periods = [1] * len(sizes)
        misfit: IndivisibleError | None = error
        while misfit is not None:
            for axis, period in misfit.period.items():
                periods[axis] = math.lcm(periods[axis], Fraction(period).numerator)
            above = [-(-size // p) * p for size, p in zip(sizes, periods, strict=True)]
            misfit = self._misfit(above)
        below = [size // period * period for size, period in zip(sizes, periods, strict=True)]
        valid = [shown(near) for near in (below, above) if min(near) > 0]
        return f"the nearest valid input sizes are {' and '.join(dict.fromkeys(valid))}"

    def _misfit(self, sizes: Sequence[int]) -> IndivisibleError | None:
        """Which map of an input of other sizes a stride does not divide."""
        try:
            decide(self._at(sizes).findings())
        except IndivisibleError as error:
            return error
        except Exception:  # a size that the network does not take
            return None
        return None

    def training_notes(self) -> list[str]:
        """Modules that are called in training only, at which nobody has looked."""
        assert self._graph is not None
        try:
            trained = capture(self.model, self.inputs, training=True)
        except ConversionError:  # a network that cannot be trained as it stands
            return []
        known = {visit.name for visit in self._graph.visits}
        added = {visit.name for visit in trained.visits} - known
        if not added:
            return []
        first = sorted(added, key=lambda name: (name.count("."), name))[:3]
        more = f" and {len(added) - 3} more" if len(added) > 3 else ""
        return [
            f"in training the network also runs {', '.join(first)}{more}; they stay as they are"
        ]
