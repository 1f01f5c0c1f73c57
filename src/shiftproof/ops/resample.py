"""Windows of images that start between pixels, and at another scale."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.ops.overrides import may_branch
from shiftproof.ops.padding import PaddingMode, pad
from shiftproof.ops.phases import constants
from shiftproof.ops.shift import crop_shift
from shiftproof.ops.torus import exact_products, positions

EdgeMode = PaddingMode | Literal["replicate"]
EDGE_MODES: tuple[EdgeMode, ...] = ("reflect", "replicate", "zeros", "circular")
Kernel = Literal["bilinear", "bicubic"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)


def in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in another dtype; to whole numbers they are rounded, and kept in their range.

    Args:
        x: Values of a floating-point dtype.
        dtype: The other one.

    Returns:
        The values in it.
    """
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        x = x.round().clamp(limits.min, limits.max)
    return x.to(dtype)


def extended(x: Tensor, reach: Sequence[int], padding_mode: EdgeMode) -> Tensor:
    """Images with a border on every side.

    Args:
        x: Images, ``(N, C, *spatial)``.
        reach: Pixels on either side, per spatial axis.
        padding_mode: What is there.

    Returns:
        The larger images.

    Raises:
        ValueError: If a border is as wide as the image, which has nothing to show there.
    """
    if not any(reach):
        return x
    if padding_mode in ("reflect", "circular") and any(
        r >= n for r, n in zip(reach, x.shape[2:], strict=True)
    ):
        raise ValueError(
            "grid lock: the image must be larger than what is shown beyond its edge, got "
            f"{'x'.join(map(str, x.shape[2:]))} for {'x'.join(map(str, reach))} pixels; pass "
            "larger images or padding_mode='replicate'"
        )
    if padding_mode != "replicate":
        return pad(x, reach, reach, padding_mode)
    widths = [width for pixels in reversed(reach) for width in (pixels, pixels)]
    return F.pad(x, widths, "replicate")


def kernel_weights(fraction: Tensor, taps: int, cutoff: float) -> Tensor:
    """Weights of the pixels around a place between two of them: a windowed sinc.

    ``sinc(c t) cos^2(pi t / taps)``, normalised to sum 1 for every fraction; a place on a pixel is
    that pixel.

    Args:
        fraction: Distance from the pixel before, ``(...)`` in [0, 1).
        taps: Even number of pixels.
        cutoff: Where the response falls, as a share of the highest frequency that pixels can hold;
            0 for linear interpolation.

    Returns:
        The weights, ``(..., taps)``; those of the pixels from ``1 - taps / 2`` on.
    """
    t = positions(taps, fraction) - (taps // 2 - 1) - fraction[..., None]
    if cutoff:
        weights = torch.sinc(cutoff * t) * torch.cos(math.pi * t / taps).square()
    else:
        weights = (1 - t.abs()).clamp_min(0)
    weights = weights / weights.sum(-1, keepdim=True)
    on_pixel = torch.where(t == 0, torch.ones_like(t), torch.zeros_like(t))
    return torch.where(fraction[..., None] == 0, on_pixel, weights)


def read_between(
    x: Tensor,
    start: Tensor,
    size: Sequence[int],
    *,
    taps: int,
    cutoff: float,
    reach: Sequence[int],
    padding_mode: EdgeMode,
) -> Tensor:
    """Cut windows that start between pixels.

    Args:
        x: Images, ``(N, C, *spatial)``.
        start: First place of each window, ``(N, D)`` pixels.
        size: Size of the windows.
        taps: Pixels that every place is computed from, per axis.
        cutoff: See ``kernel_weights``.
        reach: How far the windows may leave the image, in whole pixels per axis.
        padding_mode: What is beyond the edge.

    Returns:
        The windows, ``(N, C, *size)``; whole numbers are rounded.

    Equivariance:
        Approximate: the response of the kernel differs between fractions only close to the highest
        frequency.  Checked by ``tests/ops/test_resample.py``.
    """
    dtype = x.dtype
    x = x if dtype.is_floating_point else x.to(torch.float32)
    before = taps // 2 - 1
    borders = [width + taps // 2 for width in reach]
    whole = start.floor()
    wide = extended(x, borders, padding_mode)
    first = whole.to(torch.int64)
    first = first + constants([width - before for width in borders], first)
    window = crop_shift(wide, first, [count + taps - 1 for count in size])
    fraction = start - whole
    with exact_products(x):
        for axis in range(len(size)):
            weights = kernel_weights(fraction[:, axis], taps, cutoff).to(x.dtype)
            window = _filtered(window, weights, axis)
    return in_dtype(window, dtype)


def _filtered(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Filter an axis of each image with weights of its own, ``(N, taps)``."""
    n, channels, *sizes = x.shape
    taps, dims = weights.shape[1], len(sizes)
    # A batch whose size is open is no number of groups, nor is an empty one.
    if torch.compiler.is_compiling() or n == 0:
        count = sizes[axis] - taps + 1
        columns = weights.reshape(n, taps, *[1] * (dims + 1)).unbind(1)
        parts = (x.narrow(2 + axis, i, count) * column for i, column in enumerate(columns))
        return functools.reduce(torch.add, parts)
    shape = [taps if i == axis else 1 for i in range(dims)]
    weights = weights[:, None].expand(n, channels, taps).reshape(n * channels, 1, *shape)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    result = convolve(x.reshape(1, n * channels, *sizes), weights, groups=n * channels)
    return result.reshape(n, channels, *result.shape[2:])


def _cubic(t: Tensor) -> Tensor:
    near = (1.5 * t - 2.5) * t.square() + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def _linear(t: Tensor) -> Tensor:
    return (1 - t).clamp_min(0)


_SHAPES: dict[Kernel, Callable[[Tensor], Tensor]] = {"bilinear": _linear, "bicubic": _cubic}
_REACH: dict[Kernel, int] = {"bilinear": 1, "bicubic": 2}
_PART = 32
"""Places that are computed at once, from the pixels around them."""


def _rows(size: int, start: Tensor, step: float, count: int, kernel: Kernel) -> tuple[Tensor, int]:
    """Weights of the pixels of an axis for each place, ``(N, count, M)``, and the first of them.

    What lies beyond the edge is reflected.
    """
    spread = max(step, 1.0)
    places = start[:, None] + (positions(count, start) + 0.5) * step - 0.5
    radius = math.ceil(_REACH[kernel] * spread)
    base = places.floor() - radius
    offsets = positions(2 * radius + 2, start)
    taps = base[..., None] + offsets
    weights = _SHAPES[kernel]((taps - places[..., None]).abs() / spread)
    weights = weights / weights.sum(-1, keepdim=True)
    index = torch.remainder(taps, 2 * size)
    index = torch.minimum(index, 2 * size - 1 - index).to(torch.int64)
    # Where the host would have to wait for the ends, the rows are as long as the axis.
    low, high = (int(index.min()), int(index.max()) + 1) if may_branch(index) else (0, size)
    rows = start.new_zeros((*places.shape, high - low))
    return rows.scatter_add_(-1, index - low, weights), low


def resample(
    x: Tensor, start: Tensor, step: Sequence[float], size: Sequence[int], kernel: Kernel
) -> Tensor:
    """Cut windows at another scale and between pixels, in one antialiased resampling.

    Args:
        x: Images, ``(N, C, H, W)``, of a floating-point dtype.
        start: Upper left corner of each window, ``(N, 2)`` pixels of ``x`` from its corner.
        step: Pixels of ``x`` per pixel of the result, per axis; above 1 the kernel is wider by as
            much.
        size: Size of the windows in pixels of the result.
        kernel: ``"bilinear"`` or ``"bicubic"``.

    Returns:
        The windows, ``(N, C, *size)``; beyond the edge the image is reflected.

    Raises:
        ValueError: If the kernel is another.
    """
    if kernel not in KERNELS:
        raise ValueError(
            f"resample: kernel must be one of {', '.join(KERNELS)}, got {kernel!r}; bicubic keeps "
            "more detail"
        )
    start = start.to(x)
    with exact_products(x):
        for axis in (0, 1):
            parts = []
            for first in range(0, size[axis], _PART):
                count = min(_PART, size[axis] - first)
                begin = start[:, axis] + first * step[axis]
                rows, low = _rows(x.shape[2 + axis], begin, step[axis], count, kernel)
                part = x.narrow(2 + axis, low, rows.shape[-1])
                if axis == 0:
                    parts.append(torch.matmul(rows[:, None], part))
                else:
                    parts.append(torch.matmul(part, rows.mT[:, None]))
            x = torch.cat(parts, 2 + axis)
    return x
