"""Adaptive pooling and interpolation."""

from __future__ import annotations

from dataclasses import replace

from shiftproof.analysis.calls import Call, rule
from shiftproof.analysis.changes import CircularInterpolation
from shiftproof.analysis.errors import UnknownError, shown
from shiftproof.analysis.graph import Value
from shiftproof.analysis.layout import Dimension, Factor, Layout, plain, still, whole
from shiftproof.analysis.rules.reductions import plan_mean

_REACH = {
    "nearest": 0,
    "nearest-exact": 0,
    "linear": 1,
    "bilinear": 1,
    "trilinear": 1,
    "bicubic": 2,
}
"""How many pixels interpolation looks beyond the border, per mode."""


@rule("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", "input output_size")
@rule(
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    "input output_size return_indices",
)
def adaptive_pool(call: Call) -> Layout:
    """Adaptive pooling to one pixel, or to cells that divide the map."""
    if not isinstance(call.record.result, Value):
        raise UnknownError("positions of maxima")
    layout = call.source
    call.require_no_margin(layout)
    sizes = call.shape[2:]
    if len(layout) != len(call.shape):
        raise UnknownError("pooling over positions that are not an axis of the map")
    call.require_free(layout[1], "channels that move")
    if "avg" in call.name and not any(size - 1 for size in sizes):
        plan_mean(call, layout, list(range(2, len(layout))), True)
    cells = f"adaptive pooling to {shown(sizes, ' x ')} cells, which stay where they are"
    dims = [_cells(call, part, size, cells) for part, size in zip(layout[2:], sizes, strict=True)]
    return (*layout[:2], *dims)


def _cells(call: Call, dimension: Dimension, target: int, reason: str) -> Dimension:
    factor = whole(dimension)
    if factor is None:
        if target == 1:  # the order of positions does not matter
            call.require_no_samples(dimension)
            call.require_inner(dimension)
            return ()
        call.require_free(dimension, "pooling over positions that are not an axis of the map")
        return plain(target)
    if target == factor.size:
        return dimension
    if factor.size % target:
        raise UnknownError(reason)
    if target == 1:
        return ()
    cell = factor.size // target
    call.require(factor, factor.step * cell, reason)
    return (replace(factor, size=target, step=factor.step * cell),)


@rule("interpolate", "input size scale_factor mode align_corners recompute_scale_factor antialias")
def interpolation(call: Call) -> Layout:
    """Interpolation by whole factors, up or down."""
    layout = call.source
    call.require_no_margin(layout)
    if any(still(dimension) for dimension in layout[2:]) and not all(map(still, layout[2:])):
        raise UnknownError("interpolation over positions that are not an axis of the map")
    call.require_free(layout[1], "channels that move")
    mode = call.given.get("mode") or "nearest"
    if all(map(still, layout[2:])):
        return _constant(call, layout)
    axes = [whole(dimension) for dimension in layout[2:]]
    sizes = [factor.size if factor else 0 for factor in axes]
    shape = call.shape[2:]
    dims = tuple(
        _resized(factor, size, sizes, shape) for factor, size in zip(axes, shape, strict=True)
    )
    ratios = [new / old for new, old in zip(shape, sizes, strict=True)]
    if all(ratio == 1 for ratio in ratios):
        return layout
    if call.given.get("antialias"):
        raise UnknownError("interpolation with a filter of its own")
    if mode not in (*_REACH, "area") or call.given.get("align_corners"):
        raise UnknownError("interpolation whose corners stay in place")
    if min(ratios) >= 1 and mode != "area":
        if _REACH[mode]:
            call.border = f"{mode} interpolation repeats the pixels at the border"
            call.change = CircularInterpolation(_REACH[mode], mode)
    elif max(ratios) <= 1 and mode != "bicubic":
        reason = (
            f"interpolation from {shown(sizes, ' x ')} to {shown(shape, ' x ')} keeps a fixed grid"
        )
        for factor, ratio in zip(axes, ratios, strict=True):
            assert factor is not None
            call.require(factor, factor.step * round(1 / ratio), reason)
    else:
        raise UnknownError(f"{mode} interpolation by such factors")
    return (*layout[:2], *dims)


def _constant(call: Call, layout: Layout) -> Layout:
    """What does not move is resized; one pixel becomes the same value everywhere."""
    call.require_layout(layout)
    result: list[Dimension] = []
    for dimension, size in zip(layout[2:], call.shape[2:], strict=True):
        call.require_free(dimension, "samples")
        result.append(() if size == 1 else (Factor(size, None if dimension else "constant"),))
    return (*layout[:2], *result)


def _resized(
    factor: Factor | None, size: int, sizes: list[int], shape: tuple[int, ...]
) -> Dimension:
    if factor is None:
        raise UnknownError("interpolation over positions that are not an axis of the map")
    if size % factor.size and factor.size % size:
        ends = f"from {shown(sizes, ' x ')} to {shown(shape, ' x ')}"
        raise UnknownError(f"interpolation {ends}, which is no multiple")
    return (replace(factor, size=size, step=factor.step * factor.size / size),)
