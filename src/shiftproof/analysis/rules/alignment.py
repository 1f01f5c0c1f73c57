"""The functions of this package: choices, alignments and filters that move with the content."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from shiftproof.analysis.calls import NO_AXIS, Call, per_dim, rule
from shiftproof.analysis.errors import IndivisibleError, UnknownError
from shiftproof.analysis.graph import Value
from shiftproof.analysis.layout import (
    CHOICE,
    CONSTANT,
    SCORES,
    Dimension,
    Factor,
    Layout,
    factors,
    merged,
    plain,
    repeated,
    whole,
)


@rule("ops.phase_scores", "input stride norm")
@rule("ops.largest_values", "input stride")
def scores(call: Call) -> Layout:
    """Scores that permute with the components."""
    layout = call.source
    call.require_no_margin(layout)
    return (layout[0], (Factor(call.shape[1], SCORES),))


@rule("ops.first_phase", "input stride")
def first_phase(call: Call) -> Layout:
    """Scores that never change."""
    return (call.source[0], (Factor(call.shape[1], CONSTANT),))


@rule("ops.select_phase", "input stride scores")
def selection(call: Call) -> Layout:
    """One phase per sample; it moves with the content if its scores do."""
    given = call.given.get("scores")
    axes = [f.axis for f in call.layout(given)[-1]] if isinstance(given, Value) else [SCORES]
    if axes == [SCORES]:
        return ((Factor(call.shape[0], CHOICE),),)
    return (repeated(call.shape[0]) if axes == [CONSTANT] else plain(call.shape[0]),)


def _chosen(call: Call) -> Value | None:
    """The phase that a call is given; None if it is the same whatever the content."""
    phase = call.given["phase"]
    axes = {f.axis for f in factors(call.layout(phase))}
    if not isinstance(phase, Value) or axes not in ({CHOICE}, {CONSTANT}):
        raise UnknownError(f"{call.name.removeprefix('ops.')} is given a phase of unknown origin")
    return phase if axes == {CHOICE} else None


def _axis(call: Call, dimension: Dimension, stride: int) -> Factor:
    factor = whole(dimension)
    if factor is None or factor.has_margin:
        raise UnknownError(NO_AXIS)
    if factor.size % stride:
        assert isinstance(factor.axis, int)
        period = {factor.axis: factor.step * stride}
        raise IndivisibleError(call.place, [factor.size], [stride], period)
    return factor


def _framed(factor: Factor, phase: Value | None, period: Fraction) -> Factor:
    if phase is None:
        return factor
    return replace(factor, frame=(*factor.frame, (phase.birth, period)))


@rule("ops.take_phase", "input phase stride")
def taken(call: Call) -> Layout:
    """Every ``stride``-th position, from a start that moves with the content."""
    phase = _chosen(call)
    batch, channels, *axes = call.source
    coarse = []
    for dimension, stride in zip(axes, per_dim(call.given["stride"], len(axes)), strict=True):
        factor = _axis(call, dimension, stride)
        step = factor.step * stride
        if phase is None:
            call.require(factor, step, f"stride {stride} keeps one phase whatever the content")
        factor = _framed(factor, phase, step)
        coarse.append(merged([replace(factor, size=factor.size // stride, step=step)]))
    return (batch, channels, *coarse)


@rule("ops.place_phase", "input phase stride")
def placed(call: Call) -> Layout:
    """Put back on the grid it was taken from."""
    phase = _chosen(call)
    batch, channels, *axes = call.source
    fine = []
    for dimension, stride in zip(axes, per_dim(call.given["stride"], len(axes)), strict=True):
        factor = _axis(call, dimension, 1)
        if phase is None or factor.frame[-1:] != ((phase.birth, factor.step),):
            raise UnknownError("a phase that the map was not taken at")
        step = factor.step / stride
        finer = replace(factor, size=factor.size * stride, step=step, frame=factor.frame[:-1])
        fine.append((finer,))
    return (batch, channels, *fine)


@rule("ops.align_phase", "input phase stride before after")
def aligned(call: Call) -> Layout:
    """A map that is aligned with a phase that moves with its content, and padded."""
    phase = _chosen(call)
    batch, channels, *axes = call.source
    strides = per_dim(call.given["stride"], len(axes))
    before, after = (call.given.get(name) or (0,) * len(axes) for name in ("before", "after"))
    result = []
    for dimension, stride, first, last in zip(axes, strides, before, after, strict=True):
        factor = _framed(_axis(call, dimension, stride), phase, dimension[0].step * stride)
        size = factor.size + first + last
        result.append((replace(factor, size=size, before=first, after=last, is_wrapped=True),))
    return (batch, channels, *result)


@rule("ops.circular_shift", "input shift")
def shifted(call: Call) -> Layout:
    """A circular shift; one that differs between samples must not depend on the content."""
    if isinstance(call.given["shift"], Value):
        raise UnknownError("a shift by amounts that are not known")
    call.require_no_margin(call.source)
    return call.source


@rule("ops.require_size", "input name places")
@rule("ops.require_sizes", "input sizes dims")
def passed(call: Call) -> Layout:
    """Checks of a size."""
    return call.source
