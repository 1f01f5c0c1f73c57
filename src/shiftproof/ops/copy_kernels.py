"""Lattices and windows of maps on a GPU: a copy, or its adjoint, in one launch of a Triton kernel.

The adjoints ask of each pixel which pixels of the result were read from it, so that nothing is
added to memory in an order that varies.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from shiftproof.ops.channels import has_channels_last
from shiftproof.ops.kernels import strides_of, three, tile_of


def _like(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Memory for a map of other sizes, in the format of this one."""
    batch, channels = x.shape[:2]
    if has_channels_last(x):
        return x.new_empty((batch, *sizes, channels)).movedim(-1, 1)
    return x.new_empty((batch, channels, *sizes))


@triton.jit
def _here(channels, pixels, P: tl.constexpr, C: tl.constexpr):
    """Pixels, channels and sample of a program, and what of them is there."""
    flat = tl.program_id(0) * P + tl.arange(0, P)
    channel = tl.program_id(2) * C + tl.arange(0, C)
    inside = (flat < pixels)[:, None] & (channel < channels)[None, :]
    return flat, channel, inside, tl.program_id(1).to(tl.int64)


@triton.jit
def _start(start, sample, axis, axes):
    """First pixel of a sample along one of three axes; 0 along a missing one."""
    real = axis - 3 + axes
    return tl.load(start + sample * axes + real, real >= 0, other=0)


@triton.jit
def _read(
    x, y, start, axes, channels, xn, xc, x0, x1, x2, yn, yc, y0, y1, y2,
    size0, size1, size2, count0, count1, count2, step0, step1, step2,
    P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    flat, channel, inside, sample = _here(channels, count0 * count1 * count2, P, C)
    rest = flat // count2
    i0, i1, i2 = rest // count1, rest % count1, flat % count2
    j0 = (_start(start, sample, 0, axes) + i0 * step0) % size0
    j1 = (_start(start, sample, 1, axes) + i1 * step1) % size1
    j2 = (_start(start, sample, 2, axes) + i2 * step2) % size2
    j0, j1, j2 = j0 + size0 * (j0 < 0), j1 + size1 * (j1 < 0), j2 + size2 * (j2 < 0)
    row = sample * xn + j0 * x0 + j1 * x1 + j2 * x2
    value = tl.load(x + row[:, None] + channel[None, :].to(tl.int64) * xc, inside)
    row = sample * yn + i0.to(tl.int64) * y0 + i1 * y1 + i2 * y2
    tl.store(y + row[:, None] + channel[None, :].to(tl.int64) * yc, value, inside)


@triton.jit
def _gather(
    y, x, start, axes, channels, xn, xc, x0, x1, x2, yn, yc, y0, y1, y2,
    size0, size1, size2, count0, count1, count2, step0, step1, step2,
    R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, WIDE: tl.constexpr,
    P: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Each pixel gets the sum of the pixels that ``_read`` takes from it."""
    flat, channel, inside, sample = _here(channels, size0 * size1 * size2, P, C)
    rest = flat // size2
    j0, j1, j2 = rest // size1, rest % size1, flat % size2
    i0 = (j0 - _start(start, sample, 0, axes)) % size0
    i1 = (j1 - _start(start, sample, 1, axes)) % size1
    i2 = (j2 - _start(start, sample, 2, axes)) % size2
    i0, i1, i2 = i0 + size0 * (i0 < 0), i1 + size1 * (i1 < 0), i2 + size2 * (i2 < 0)
    total = tl.zeros((P, C), WIDE)
    for r0 in tl.static_range(R0):
        for r1 in tl.static_range(R1):
            for r2 in tl.static_range(R2):
                k0, k1, k2 = i0 + r0 * size0, i1 + r1 * size1, i2 + r2 * size2
                there = (k0 % step0 == 0) & (k1 % step1 == 0) & (k2 % step2 == 0)
                k0, k1, k2 = k0 // step0, k1 // step1, k2 // step2
                there = there & (k0 < count0) & (k1 < count1) & (k2 < count2)
                row = sample * yn + k0 * y0 + k1 * y1 + k2 * y2
                place = y + row[:, None] + channel[None, :].to(tl.int64) * yc
                total += tl.load(place, inside & there[:, None], other=0).to(WIDE)
    row = sample * xn + j0.to(tl.int64) * x0 + j1 * x1 + j2 * x2
    place = x + row[:, None] + channel[None, :].to(tl.int64) * xc
    tl.store(place, total.to(x.dtype.element_ty), inside)


def _numbers(x: Tensor, y: Tensor, start: Tensor, step: Sequence[int]) -> list[Any]:
    """What both kernels are told of a map and of what is read from it."""
    return [
        *(start.contiguous(), start.shape[1], x.shape[1], *strides_of(x), *strides_of(y)),
        *(*three(x.shape[2:], 1), *three(y.shape[2:], 1), *three(step, 1)),
    ]


def _grid(x: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    P, C = tile_of(x)
    pixels = math.prod(x.shape[2:])
    return (triton.cdiv(pixels, P), x.shape[0], triton.cdiv(x.shape[1], C)), {"P": P, "C": C}


def read(x: Tensor, start: Tensor, step: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Read the points ``start + step * i`` of each sample, modulo the size of the map.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        start: First point of each sample, ``(N, D)`` int64.
        step: Distance between neighbours in pixels, per axis.
        counts: Number of points, per axis.

    Returns:
        The values, ``(N, C, *counts)``, in the memory format of ``x``.
    """
    y = _like(x, counts)
    grid, tile = _grid(y)
    with torch.cuda.device_of(x):
        _read[grid](x, y, *_numbers(x, y, start, step), **tile)
    return y


def add(y: Tensor, start: Tensor, step: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Add each value to the pixel of a map of zeros that it was read from: the adjoint of ``read``.

    Args:
        y: Values, ``(N, C, *counts)``.
        start: First point of each sample, ``(N, D)`` int64.
        step: Distance between neighbours in pixels, per axis.
        sizes: Spatial sizes of the map.

    Returns:
        The map, ``(N, C, *sizes)``, in the memory format of ``y``.
    """
    x = _like(y, sizes)
    grid, tile = _grid(x)
    spans = [(n - 1) * s + 1 for n, s in zip(y.shape[2:], step, strict=True)]
    times = three([max(1, -(-span // n)) for span, n in zip(spans, sizes, strict=True)], 1)
    wide = tl.float64 if y.dtype == torch.float64 else tl.float32
    wide = wide if y.is_floating_point() else tl.int64
    repeats = dict(zip(("R0", "R1", "R2"), times, strict=True))
    with torch.cuda.device_of(x):
        _gather[grid](y, x, *_numbers(x, y, start, step), **repeats, WIDE=wide, **tile)
    return x
