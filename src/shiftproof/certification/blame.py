"""Which module does not follow a shift, and why: what the rules of the analysis say of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from shiftproof.analysis import IndivisibleError, analyse, capture
from shiftproof.analysis.errors import shown
from shiftproof.analysis.findings import Finding, Findings
from shiftproof.analysis.graph import values_in
from shiftproof.analysis.layout import factors
from shiftproof.certification.certificate import Blame
from shiftproof.inputs import Inputs, at_least_two

_MAX_SUSPECTS = 10


def _blame(finding: Finding) -> Blame:
    record = finding.record
    assert record is not None
    owner = record.owner
    if record.is_module or owner.is_layer:
        return Blame(owner.name, owner.type, finding.faults)
    parameter = next((v.name for v in record.inputs if v.name and v not in finding.reads), "")
    call = f"{record.function} with {parameter}" if parameter else record.function
    return Blame(owner.name, owner.type, f"{finding.faults} (in {call})")


def _is_hit(finding: Finding, shifts: Sequence[Sequence[int]]) -> bool:
    """Whether one of the shifts does not pass through a call."""
    if finding.border or finding.misfit:
        return True
    return any(shift[axis] % period for axis, period in finding.periods.items() for shift in shifts)


def find_suspects(
    model: nn.Module, inputs: Inputs, shifts: Sequence[Sequence[int]]
) -> tuple[Blame | None, tuple[Blame, ...]]:
    """Look for what does not follow a shift of the images.

    Args:
        model: The model, in eval mode, in the precision of the images.
        inputs: Its arguments, with images of the size that it is made for.
        shifts: Circular shifts that changed the output by more than rounding.

    Returns:
        The first module that does not pass one of the shifts on, and all that do not pass any
        shift on, in order of execution, at most ten.

    Raises:
        ConversionError: If the model cannot be followed.
    """
    graph, aligned = capture(model, at_least_two(inputs)), None
    try:
        findings = analyse(graph)
        found, aligned = findings.calls, _left_aligned(findings)
    except IndivisibleError as error:
        found = error.findings
        sizes, stride = shown(error.sizes, " x "), shown(sorted(set(error.strides)), " x ")
        found[-1].misfit = f"stride {stride} on a map of {sizes}, which it does not divide"
    guilty = [f for f in found if f.faults and f.record is not None]
    # What has a rule is certain; of what has none, nothing is known.
    certain = [f for f in guilty if f.is_explained] or guilty
    blames = [_blame(f) for f in certain if _is_hit(f, shifts)]
    suspects = list(dict.fromkeys(map(_blame, guilty)))
    if aligned is not None:
        blames, suspects = [*blames, aligned], [*suspects, aligned]
    return next(iter(blames), None), tuple(suspects[:_MAX_SUSPECTS])


def _left_aligned(findings: Findings) -> Blame | None:
    """What aligned a map of the input's size that is returned as it lies then."""
    for value in values_in(findings.graph.output):
        for factor in factors(findings.layout(value) or ()):
            for choice, _ in factor.frame if factor.step <= 1 else ():
                users = [
                    call for call in findings.graph.calls if call.function == "ops.align_phase"
                ]
                owner = next(c.owner for c in users if any(v.birth == choice for v in c.inputs))
                reason = "its output lies where the phase was chosen, not where the input moved to"
                return Blame(owner.name, owner.type, reason)
    return None
