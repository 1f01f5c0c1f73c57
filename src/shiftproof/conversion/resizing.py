"""Adaptive pooling, means over the whole map, and interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from shiftproof import ops
from shiftproof.conversion.calls import Call, UnknownError, dims_of
from shiftproof.conversion.elementwise import reduction
from shiftproof.conversion.layout import (
    BATCH,
    Dimension,
    Factor,
    Layout,
    has_margin,
    plain,
    still,
    whole,
)
from shiftproof.conversion.transposed import crop
from shiftproof.ops.overrides import overridable

_REACH = {
    "nearest": 0,
    "nearest-exact": 0,
    "linear": 1,
    "bilinear": 1,
    "trilinear": 1,
    "bicubic": 2,
}
"""How many pixels interpolation looks beyond the border, per mode."""


@overridable
def mean_over(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """Average over dimensions, with a result that no permutation of their positions can change.

    Args:
        x: Tensor with samples in its first dimension, which is not averaged.
        dims: One to three dimensions.
        keepdim: Whether they stay, with size 1.

    Returns:
        The means, in the dtype of ``x``.

    Equivariance:
        Invariant, exact (bitwise), under permutations within ``dims``, see ``ops.global_mean``.
        Checked by ``tests/conversion/test_resizing.py``.
    """
    rest = [dim for dim in range(1, x.ndim) if dim not in dims]
    moved = x.permute(0, *rest, *dims)
    if len(rest) != 1:
        moved = moved.reshape(x.shape[0], -1, *[x.shape[dim] for dim in dims])
    mean = ops.global_mean(moved)
    if len(rest) == 1 and not keepdim:
        return mean
    kept = [1 if dim in dims else x.shape[dim] for dim in range(x.ndim)]
    return mean.reshape(kept if keepdim else [x.shape[0], *[x.shape[dim] for dim in rest]])


@dataclass
class MeanPlan:
    """A mean over whole axes, computed so that not a bit of it depends on where they start.

    Attributes:
        dims: The dimensions.
        keepdim: Whether they stay.
    """

    dims: tuple[int, ...]
    keepdim: bool
    paddings: tuple[str, str] | None = None
    geometry: str = ""

    @property
    def pads(self) -> bool:
        """Whether it changes what is padded with."""
        return False

    def run(self, call: Call) -> Tensor:
        """Compute what the call will give."""
        return mean_over(call.value(call.args[0]), self.dims, self.keepdim)

    def rewrite(self, node: fx.Node, model: nn.Module) -> None:
        """Change the graph."""
        node.op, node.target = "call_function", mean_over
        node.args, node.kwargs = (node.args[0], self.dims, self.keepdim), {}


def mean(call: Call) -> Layout:
    """Means over dimensions; exact ones where they are whole axes."""
    given = call.bound("input", "dim", "keepdim")
    layout = call.layout(given["input"])
    typed = given.get("dtype") is not None
    if given.get("dim") is not None and layout and call.node.args and not typed:
        dims = dims_of(given["dim"], len(layout))
        plan_mean(call, layout, dims, bool(given.get("keepdim", False)))
    return reduction(call)


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
        call.plan = MeanPlan(tuple(dims), keepdim)


def adaptive_pool(call: Call) -> Layout:
    """``adaptive_avg_pool2d`` and its maximum, as function or layer."""
    if call.module is not None:
        size: Any = getattr(call.module, "output_size", None)
        if getattr(call.module, "return_indices", False):
            raise UnknownError("positions of maxima")
        source = call.args[0]
        is_mean = isinstance(call.module, nn.modules.pooling._AdaptiveAvgPoolNd)
    else:
        given = call.bound("input", "output_size", "return_indices")
        if given.get("return_indices"):
            raise UnknownError("positions of maxima")
        size, source, is_mean = call.value(given["output_size"]), given["input"], "avg" in call.name
    layout = call.layout(source)
    count = len(layout) - 2
    sizes = list(size) if isinstance(size, (tuple, list)) else [size] * count
    if has_margin(layout) or not still(layout[1]):
        raise UnknownError("a padded map that no window reads")
    dims = []
    for dimension, target in zip(layout[2:], sizes, strict=True):
        dims.append(_cells(call, dimension, target))
    if is_mean and sizes == [1] * count:
        plan_mean(call, layout, list(range(2, len(layout))), True)
    return (*layout[:2], *dims)


def _cells(call: Call, dimension: Dimension, target: int | None) -> Dimension:
    factor = whole(dimension)
    if factor is None:
        if not still(dimension):
            raise UnknownError("pooling over positions that are not an axis of the map")
        call.require_inner([factor for factor in dimension if factor.is_inner])
        return dimension if target is None else plain(target)
    if target is None or target == factor.size:
        return dimension
    if factor.size % target:
        raise UnknownError(f"adaptive pooling from {factor.size} to {target}, no divisor")
    if target == 1:
        return ()
    cell = factor.size // target
    call.require(factor, factor.step * cell, f"adaptive pooling in cells of {cell}")
    return (replace(factor, size=target, step=factor.step * cell),)


@dataclass
class InterpolationPlan:
    """Interpolation that wraps around: computed with a border, which is cut off.

    Attributes:
        reach: Pixels of border of the input, on every side.
        times: Factor of each axis.
        mode: Kind of interpolation.
    """

    reach: int
    times: tuple[int, ...]
    mode: str
    paddings: tuple[str, str] | None = ("replicate", "circular")
    geometry: str = ""

    @property
    def pads(self) -> bool:
        """Whether it changes what is padded with."""
        return True

    def run(self, call: Call) -> Tensor:
        """Compute what the call will give."""
        return interpolate(call.value(call.args[0]), self.reach, self.times, self.mode)

    def rewrite(self, node: fx.Node, model: nn.Module) -> None:
        """Change the graph."""
        node.op, node.target = "call_function", interpolate
        node.args, node.kwargs = (node.args[0], self.reach, self.times, self.mode), {}


@overridable
def interpolate(x: Tensor, reach: int, times: Sequence[int], mode: str) -> Tensor:
    """Enlarge a map that continues on its other side.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        reach: Pixels that the interpolation looks beyond the border.
        times: Factor of each axis.
        mode: Kind of interpolation, see ``torch.nn.functional.interpolate``.

    Returns:
        The larger map.

    Equivariance:
        A circular shift by ``d`` shifts the result by ``d`` times the factor, to rounding.  Checked
        by ``tests/conversion/test_resizing.py``.
    """
    border = (reach,) * (x.ndim - 2)
    padded = ops.pad(x, border, border, "circular")
    larger = F.interpolate(padded, scale_factor=tuple(map(float, times)), mode=mode)
    ends = tuple(reach * factor for factor in times)
    return crop(larger, ends, ends)


def interpolation(call: Call) -> Layout:
    """``interpolate`` and ``Upsample``: by whole factors, up or down."""
    if call.module is not None:
        module: Any = call.module
        given = {name: getattr(module, name) for name in ("mode", "align_corners")}
        layout = call.layout(call.args[0])
    else:
        given = call.bound(
            "input", "size", "scale_factor", "mode", "align_corners", "x", "antialias"
        )
        layout = call.layout(given["input"])
    if has_margin(layout) or not still(layout[1]):
        raise UnknownError("a padded map that no window reads")
    shape = call.run().shape[2:]
    factors = [whole(dimension) for dimension in layout[2:]]
    dims = tuple(_resized(factor, int(size)) for factor, size in zip(factors, shape, strict=True))
    mode = given.get("mode", "nearest")
    if given.get("antialias"):
        raise UnknownError("interpolation with a filter of its own")
    ratios = [new[0].size / old.size for new, old in zip(dims, factors, strict=True) if old]
    if all(ratio == 1 for ratio in ratios):
        return layout
    if mode not in (*_REACH, "area") or given.get("align_corners"):
        raise UnknownError("interpolation whose corners stay in place")
    if min(ratios) >= 1 and mode != "area":
        if _REACH[mode]:
            times = tuple(int(ratio) for ratio in ratios)
            call.plan = InterpolationPlan(_REACH[mode], times, mode)
    elif max(ratios) <= 1 and mode != "bicubic":
        for factor, ratio in zip(factors, ratios, strict=True):
            assert factor is not None
            stride = round(1 / ratio)
            call.require(factor, factor.step * stride, f"interpolation with stride {stride}")
    else:
        raise UnknownError(f"{mode} interpolation by such factors")
    assert tuple(call.result.shape[2:]) == tuple(shape)
    return (*layout[:2], *dims)


def _resized(factor: Factor | None, size: int) -> Dimension:
    if factor is None:
        raise UnknownError("interpolation over positions that are not an axis of the map")
    if size % factor.size and factor.size % size:
        raise UnknownError(f"interpolation from {factor.size} to {size}, which is no multiple")
    return (replace(factor, size=size, step=factor.step * factor.size / size),)
