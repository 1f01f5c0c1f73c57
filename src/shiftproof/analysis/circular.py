"""Functions that wrap around the map, or do not care where it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof import ops
from shiftproof.ops.overrides import overridable


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
        Checked by ``tests/analysis/test_changes.py``.
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
        by ``tests/analysis/test_changes.py``.
    """
    border = (reach,) * (x.ndim - 2)
    padded = ops.pad(x, border, border, "circular")
    larger = F.interpolate(padded, scale_factor=tuple(map(float, times)), mode=mode)
    ends = tuple(reach * factor for factor in times)
    return crop(larger, ends, ends)


def on_floats(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function that moves or averages values to a map that may be quantised.

    Args:
        function: The function, of maps of floating-point numbers.
        x: The map.

    Returns:
        What it gives; quantised like the map, if that is.
    """
    if getattr(x, "is_quantized", False) is not True:  # a symbol of torch.fx does not know
        return function(x)
    y = function(x.dequantize())
    return torch.quantize_per_tensor(y, x.q_scale(), x.q_zero_point(), x.dtype)


def crop(x: Tensor, starts: Sequence[int], ends: Sequence[int]) -> Tensor:
    """Cut the border off a map.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        starts: Pixels to leave out before the first, per spatial axis.
        ends: Pixels to leave out after the last, per spatial axis.

    Returns:
        The inner part.
    """
    for axis, (start, end) in enumerate(zip(starts, ends, strict=True), 2):
        x = x[(slice(None),) * axis + (slice(start, x.shape[axis] - end),)]
    return x
