"""From what was found to a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce

from torch import nn

from shiftproof.analysis.calls import least_common_multiple, per_dim
from shiftproof.analysis.changes import CircularWindow, Edit, ExactMean, bind, plain_values
from shiftproof.analysis.errors import ConversionError, shown
from shiftproof.analysis.findings import Finding, Findings
from shiftproof.analysis.graph import Value, values_in
from shiftproof.analysis.outputs import MapForm, output_form, readings, steps_of
from shiftproof.conversion.forward import MovedOutput
from shiftproof.conversion.placement import Placement, place
from shiftproof.conversion.plan import (
    Alignment,
    ConversionPlan,
    PaddingChange,
    fingerprint,
    tensor_shapes,
)
from shiftproof.conversion.sites import Site
from shiftproof.inputs import Inputs
from shiftproof.nested import leaves_of

_WINDOWS = [f"{kind}{dims}d" for kind in ("conv", "max_pool", "avg_pool") for dims in (1, 2, 3)]


@dataclass(frozen=True)
class Decided:
    """What follows from the findings alone: everything that a plan does to the network.

    Attributes:
        forms: How each tensor that the network returns holds a map that moves with the input; None
            for one that stays the same.
        limits: Why it holds for this size only, in words.
        told: What is to be known of them, in words.
    """

    alignments: tuple[Alignment, ...]
    edits: tuple[Edit, ...]
    paddings: tuple[PaddingChange, ...]
    geometry: tuple[str, ...]
    outputs: tuple[MovedOutput, ...]
    remainders: tuple[float, ...]
    forms: tuple[MapForm | None, ...]
    limits: tuple[str, ...]
    told: tuple[str, ...]

    @property
    def comparable(self) -> list[object]:
        """What must be the same for another size."""
        alignments = [(a.where, a.stride, a.site, a.dims) for a in self.alignments]
        return [alignments, self.edits, self.outputs]


def decide(findings: Findings) -> Decided:
    """Decide where to align, what to change, and which outputs to move back.

    Args:
        findings: What is known about the network.

    Returns:
        The decisions.

    Raises:
        IndivisibleError: If what must be aligned by does not divide the map.
        ConversionError: If the input cannot be aligned, or one layer would have to do two things.
    """
    _refuse_outside(findings)
    placements = place(findings) if any(f.periods for f in findings.calls) else []
    changed = [f for f in findings.calls if f.change is not None and not _is_outside(f)]
    applied = [f for f in changed if _is_applied(f, placements)]
    edits = _edits(applied)
    alignments = []
    for placement in placements:
        site, edit = _finest_site(placement, findings)
        if edit is not None and edit not in edits:
            edits.append(edit)
        form = placement.cut.form
        alignments.append(
            Alignment(
                where=placement.cut.where,
                stride=placement.strides,
                full=placement.is_full,
                readers=tuple(dict.fromkeys(reader.place for reader in placement.readers)),
                reasons=tuple(placement.reasons),
                site=site,
                dims=form.dims,
                sizes=form.sizes,
                ndim=len(placement.cut.value.shape),
                steps=tuple(map(float, form.steps)),
            )
        )
    returned = values_in(findings.graph.output)
    forms = tuple(_output_form(value, findings, placements) for value in returned)
    outputs = _moved_outputs(forms, placements)
    _refuse_regrouped(findings, outputs, forms)
    steps = [kept.steps for o in outputs if (kept := forms[o.index]) is not None]
    return Decided(
        alignments=tuple(alignments),
        edits=tuple(edits),
        paddings=tuple(
            PaddingChange(f.place, _kind(f.border))
            for f in findings.calls
            if f.border and not f.is_unknown and _is_applied(f, placements)
        ),
        geometry=tuple(dict.fromkeys(f.geometry for f in applied if f.geometry)),
        outputs=outputs,
        remainders=tuple(
            float(reduce(least_common_multiple, axis)) for axis in zip(*steps, strict=True)
        ),
        forms=forms,
        limits=tuple(finding.limit for finding in findings.calls if finding.limit),
        told=tuple(
            f"output {index}, of shape {shown(value.shape)}, {told}"
            for index, value in enumerate(returned)
            if placements
            and (told := _told(index, value, findings, outputs, placements[-1].is_full))
        ),
    )


def _is_outside(finding: Finding) -> bool:
    return finding.record is not None and finding.record.is_outside


def _refuse_outside(findings: Findings) -> None:
    """Refuse what would have to be done in hooks of the network itself, around its forward pass.

    Raises:
        ConversionError: If something would; that the last bits of a mean stay the same need not.
    """
    calls = findings.graph.calls
    for finding in filter(_is_outside, findings.calls):
        assert finding.record is not None
        is_before = all(call.is_outside for call in calls[: finding.record.index])
        is_changed = finding.change is not None and not isinstance(finding.change, ExactMean)
        if is_changed or (finding.periods and is_before):
            raise ConversionError(
                "convert: hooks of the network itself must not do what has to be changed or "
                f"aligned, got {finding.record.function} in one; wrap the network in a module, "
                "whose part it is then"
            )


def _refuse_regrouped(
    findings: Findings, outputs: Sequence[MovedOutput], forms: Sequence[MapForm | None]
) -> None:
    """Refuse hooks of the network itself that make other outputs of maps to be moved back.

    Raises:
        ConversionError: If one gives others than the forward pass, around which maps are moved.
    """
    graph, sizes = findings.graph, tuple(findings.spans.values())
    given, returned = values_in(graph.visits[0].given), values_in(graph.output)
    for output in outputs:
        before = given[output.index] if len(given) == len(returned) else None
        if before is returned[output.index]:
            continue
        form = None if before is None else output_form(findings.layout(before), sizes)
        if form is None or form != forms[output.index]:
            raise ConversionError(
                "convert: hooks of the network itself must return outputs like those they are "
                f"given, got other ones for output {output.index}, which is moved back; wrap the "
                "network in a module, whose part it is then"
            )


def _kind(border: str) -> str:
    return border.partition(" of ")[0] if "padding" in border else border


def _frame_of(index: int, placements: Sequence[Placement]) -> Placement | None:
    """The alignment that holds at a call."""
    before = [placement for placement in placements if placement.cut.value.birth < index]
    return before[-1] if before else None


def _is_applied(finding: Finding, placements: Sequence[Placement]) -> bool:
    assert finding.record is not None
    frame = _frame_of(finding.record.index, placements)
    return bool(finding.geometry) or frame is None or not frame.is_full


def _edits(applied: Sequence[Finding]) -> list[Edit]:
    """One edit per module and kind of call.

    Raises:
        ConversionError: If calls that look alike would have to be changed in two ways.
    """
    edits: list[Edit] = []
    for finding in applied:
        assert finding.record is not None
        assert finding.change is not None
        record = finding.record
        edit = Edit(record.owner.name, record.function, finding.arguments, finding.change)
        for other in edits:
            if replace(other, change=edit.change) == edit:
                if other.change != finding.change:
                    raise ConversionError(
                        "convert: a layer must be padded in the same way wherever it is called, "
                        f"got {finding.place}, which is called on maps that were padded "
                        "differently; give the network a layer for each"
                    )
                break
        else:
            edits.append(edit)
    return edits


def resizing_edits(findings: Findings) -> dict[str, list[Edit]]:
    """Changes that give maps another size, on which what follows depends.

    Args:
        findings: What is known about the network.

    Returns:
        The edits of each module, by its name.
    """
    edits: dict[str, list[Edit]] = {}
    for edit in _edits([f for f in findings.calls if f.geometry]):
        edits.setdefault(edit.module, []).append(edit)
    return edits


def _finest_site(placement: Placement, findings: Findings) -> tuple[Site, Edit | None]:
    """Let a window that is all that reads the tensor choose where it reads from, in one copy."""
    cut, graph = placement.cut, findings.graph
    value, strides = cut.value, placement.strides
    shared = len(value.users) != 1 or value in values_in(graph.output)
    shared = shared or (value.birth < 0 and len(graph.inputs) > 1)
    standard = tuple(range(2, 2 + len(cut.form.sizes)))
    if shared or cut.form.dims != standard or len(value.shape) != 2 + len(standard):
        return cut.site, None
    record = graph.calls[value.users[0]]
    finding = next((f for f in findings.calls if f.record is record), None)
    owner, given = record.owner, record.args[0] if record.args else None
    if finding is None or record.function not in _WINDOWS or given is not value:
        return cut.site, None
    arguments = plain_values(bind(record.function, record.args, record.kwargs))
    change, zeros = finding.change, (0,) * len(strides)
    if change is None and not any(leaves_of(arguments.get("padding", 0))):
        change = CircularWindow(zeros, zeros, zeros)  # else a border that is kept
    number = sum(n for (name, _), n in owner.counts.items() if name == record.function)
    once = graph.is_called_once(owner.name) and number == 1
    # What is finer than the input is aligned by whole pixels of it, which may be several strides.
    steps = per_dim(arguments.get("stride") or arguments.get("kernel_size") or 1, len(strides))
    if finding.is_unknown or not isinstance(change, CircularWindow) or not once or steps != strides:
        return cut.site, None
    edit = Edit(owner.name, record.function, arguments, change)
    return Site("window", owner.name, (), record.function), edit


def _moved_outputs(
    forms: Sequence[MapForm | None], placements: Sequence[Placement]
) -> tuple[MovedOutput, ...]:
    """Output maps that shall lie where the content of the input lies."""
    moved = []
    cuts = [placement.cut.form for placement in placements]
    for index, form in enumerate(forms if placements else ()):
        if form is not None and _is_whole(form, placements):
            unit = math.lcm(*(s.denominator for f in (form, *cuts) for s in f.steps))
            scales = tuple(tuple(int(step * unit) for step in cut.steps) for cut in cuts)
            cells = tuple(int(step * unit) for step in form.steps)
            common = math.gcd(*cells, *(number for scale in scales for number in scale))
            moved.append(
                MovedOutput(
                    index,
                    form.dims,
                    tuple(tuple(number // common for number in scale) for scale in scales),
                    tuple(cell // common for cell in cells),
                )
            )
    return tuple(moved)


def _output_form(
    value: Value, findings: Findings, placements: Sequence[Placement]
) -> MapForm | None:
    """How an output holds a map, if it does: by its shape behind an alignment of everything."""
    sizes = tuple(findings.spans.values())
    form = output_form(findings.layout(value), sizes)
    if form is not None or not (placements and placements[-1].is_full) or value.birth < 0:
        return form
    found = _readings(value, findings)
    if () in found:
        return None
    shape = tuple(value.shape[dim] for dim in found[0])
    return MapForm(found[0], shape, steps_of(value.shape, found[0], sizes))


def _told(
    index: int,
    value: Value,
    findings: Findings,
    outputs: Sequence[MovedOutput],
    is_settled: bool,
) -> str:
    """What is to be known of where an output lies, if it is a map only by its shape."""
    ways = _readings(value, findings)
    if index in [output.index for output in outputs]:
        known = output_form(findings.layout(value), tuple(findings.spans.values()))
        taken = "is taken for a map by its shape, and moved back to where the content is"
        return "" if known else taken
    if not any(ways) or value.birth < 0 or not (findings.moves(value) or is_settled):
        return ""  # what is known to stay the same has no place
    tells = "call_with_offset tells where"
    if outputs:
        tells = f"{tells} if it is returned without the maps beside it"
    return f"stays where the content was aligned, for it cannot be moved back; {tells}"


def _readings(value: Value, findings: Findings) -> tuple[tuple[int, ...], ...]:
    graph = findings.graph
    return readings(value.shape, graph.inputs[0].shape, graph.dims[0])


def _is_whole(form: MapForm, placements: Sequence[Placement]) -> bool:
    """Whether the input is aligned by whole pixels of the output, which can be told apart."""
    pairs = enumerate(zip(form.sizes, form.steps, strict=True))
    return all(size == 1 or _total(axis, placements) % step == 0 for axis, (size, step) in pairs)


def _total(axis: int, placements: Sequence[Placement]) -> Fraction:
    """By how many pixels of the input all alignments together align, along an axis."""
    total = Fraction(1)
    for placement in placements:
        period = placement.strides[axis] * placement.cut.form.steps[axis]
        total = least_common_multiple(total, period)
    return total


def make_plan(
    model: nn.Module,
    inputs: Inputs,
    decided: Decided,
    *,
    least_size: Sequence[int] | None,
    accepted: Sequence[str],
    notes: Sequence[str],
    selector: str,
) -> ConversionPlan:
    """Put a plan together.

    Args:
        model: The network.
        inputs: The arguments of the example.
        decided: What is done to it.
        least_size: The smallest sizes that the plan holds for; None if for this size only.
        accepted: Modules that passed a trial.
        notes: What else is to be known.
        selector: What scores the phases.

    Returns:
        The plan.
    """
    done = {
        key: value for key, value in vars(decided).items() if key not in ("forms", "limits", "told")
    }
    return ConversionPlan(
        **done,
        model=type(model).__qualname__,
        size=inputs.sizes,
        images=inputs.images,
        any_size=least_size is not None,
        least_size=tuple(inputs.sizes if least_size is None else least_size),
        accepted=tuple(accepted),
        notes=tuple(notes),
        selector=selector,
        tensors=tensor_shapes(model),
        fingerprint=fingerprint(model),
    )
