"""Sums, means, norms and extrema over dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from shiftproof.analysis.calls import Call, Known, Unreadable, rule
from shiftproof.analysis.changes import ExactMean
from shiftproof.analysis.graph import Value
from shiftproof.analysis.layout import BATCH, Layout, factors, has_margin, still
from shiftproof.analysis.rules.elementwise import elementwise

POSITION = "the position of an extremum"


@rule(
    "sum amax amin aminmax std var prod logsumexp any all nansum nanmean", "input dim keepdim dtype"
)
@rule("norm", "input p dim keepdim dtype")
@rule("linalg_vector_norm linalg_norm", "input ord dim keepdim dtype")
@rule("var_mean std_mean", "input dim keepdim unbiased correction")
@rule("count_nonzero", "input dim")
def reduction(call: Call) -> Layout | list[Layout]:
    """Sums and the like, in which the order of positions does not matter."""
    if call.name in ("std", "var", "std_mean", "var_mean") and isinstance(
        call.given.get("dim"), bool
    ):
        call.given["dim"] = None  # the old form, ``unbiased`` first
    layout = reduced(call)
    several = not isinstance(call.record.result, Value)
    return [layout] * len(call.record.result) if several else layout


def reduced(call: Call) -> Layout:
    """The layout of the input without the dimensions that are reduced."""
    layout = call.source
    call.require_no_margin(layout)
    dims = call.dims("dim", layout)
    for dim in dims:
        call.require_no_samples(layout[dim])
    call.require_layout(layout)
    keep = bool(call.given.get("keepdim", False))
    return tuple(
        () if index in dims else dimension
        for index, dimension in enumerate(layout)
        if keep or index not in dims
    )


@rule("max min", "input dim keepdim")
@rule("argmax argmin median mode nanmedian", "input dim keepdim")
@rule("kthvalue", "input k dim keepdim")
def extremum(call: Call) -> Known | list[Known]:
    """Extrema; positions that belong to an axis that moves must not be read."""
    if isinstance(call.given.get("dim", call.record.kwargs.get("other")), Value):  # max(x, y)
        combined: Layout = elementwise(call)
        return combined
    source, layout = call.source, reduced(call)
    dims = call.dims("dim", source)
    places: Known = layout
    if not all(still(source[dim]) for dim in dims):
        axes = {f.axis for f in factors(source) if f.moves and isinstance(f.axis, int)}
        places = Unreadable(POSITION, frozenset(axes))
    if call.name.startswith("arg"):
        return places
    return layout if isinstance(call.record.result, Value) else [layout, places]


@rule("mean", "input dim keepdim dtype")
def mean(call: Call) -> Layout:
    """Means over dimensions; exact ones where they are whole axes."""
    layout = call.source
    if call.given.get("dim") is not None and call.given.get("dtype") is None:
        dims = call.dims("dim", layout)
        plan_mean(call, layout, dims, bool(call.given.get("keepdim", False)))
    return reduced(call)


@rule("ops.global_mean", "input")
def global_mean(call: Call) -> Layout:
    """The mean of this package over all positions."""
    call.require_no_margin(call.source)
    call.require_layout(call.source)
    return call.source[:2]


@rule("ops.mean_over", "input dim keepdim")
def mean_over(call: Call) -> Layout:
    """The mean of this package over some dimensions."""
    return reduced(call)


def plan_mean(call: Call, layout: Layout, dims: Sequence[int], keepdim: bool) -> None:
    """Plan an exact mean, where the dimensions are moving ones and the samples come first.

    Args:
        call: The call.
        layout: Layout of its input.
        dims: The dimensions.
        keepdim: Whether they stay.
    """
    samples = bool(layout[0]) and layout[0][0].axis == BATCH and 0 not in dims
    moving = all(not still(layout[dim]) for dim in dims)
    if samples and moving and 1 <= len(dims) <= 3 and not has_margin(layout):
        call.change = ExactMean(tuple(dims), keepdim)
