"""Reading and writing a different regular lattice of points in each sample of a batch.

Keeping a phase reads a lattice of step S, putting back writes one, cropping reads one of step 1.  A
lattice visits each point at most once, so reading and writing are exact adjoints of each other, and
each is the other's backward pass.  Native indexing would accumulate into the same memory one
element after the other, which on CPU costs more than a convolution.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from shiftproof.ops.channels import has_channels_last
from shiftproof.ops.overrides import (
    is_jit_tracing,
    may_launch,
    may_read_values,
    needs_gradient,
)

_Sizes = tuple[int, ...]


def batch_rows(positions: Tensor, size: int) -> Tensor:
    """Positions in each sample as row numbers of the flattened batch of pixels.

    Args:
        positions: Flat positions, ``(N, M)``.
        size: Number of pixels of a sample.

    Returns:
        Row numbers, ``(N * M,)``.
    """
    first = size * torch.arange(positions.shape[0], device=positions.device)
    return (positions + first[:, None]).flatten()


# Reshaping with full shapes, because `flatten` has no rule for batched gradients, and -1 none for
# empty batches.


def read_positions(x: Tensor, positions: Tensor, counts: Sequence[int]) -> Tensor:
    """Read the values at the given positions of each sample; autograd sees torch's own indexing.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        positions: Flat positions, ``(N, M)``.
        counts: Spatial sizes of the result, of product ``M``.

    Returns:
        The values, ``(N, C, *counts)``, in the memory format of ``x``.
    """
    batch, channels = x.shape[:2]
    size = math.prod(x.shape[2:])
    if has_channels_last(x):
        pixels = x.movedim(1, -1).reshape(batch * size, channels)
        kept = pixels.index_select(0, batch_rows(positions, size))
        return kept.view(batch, *counts, channels).movedim(-1, 1)
    index = positions[:, None].expand(-1, channels, -1)
    return x.reshape(batch, channels, size).gather(2, index).view(batch, channels, *counts)


_LARGE = 1 << 19
"""Samples of at least so many bytes are faster to copy as strided slices than point by point."""


def _copies_samples(x: Tensor, sample: Sequence[int]) -> bool:
    """Whether to copy sample by sample, which needs the starts as numbers."""
    large = math.prod(sample) * x.element_size() >= _LARGE if may_read_values(x) else False
    return large and x.device.type == "cpu"


def _slices(first: Sequence[int], step: Sequence[int], counts: Sequence[int]) -> tuple[slice, ...]:
    ends = [
        at + spacing * (count - 1) + 1
        for at, spacing, count in zip(first, step, counts, strict=True)
    ]
    return (slice(None), *map(slice, first, ends, step))


def _inner_positions(
    start: Tensor, step: Sequence[int], sizes: Sequence[int], counts: Sequence[int]
) -> Tensor:
    """Flat positions of a lattice that lies inside the map, ``(N, prod(counts))``."""
    first, points = start[:, 0], step[0] * torch.arange(counts[0], device=start.device)
    for axis in range(1, len(sizes)):
        first = first * sizes[axis] + start[:, axis]
        steps = step[axis] * torch.arange(counts[axis], device=start.device)
        points = (points[:, None] * sizes[axis] + steps).flatten()
    return first[:, None] + points


def _read(x: Tensor, start: Tensor, step: _Sizes, counts: _Sizes) -> Tensor:
    if not has_channels_last(x) and _copies_samples(x, x.shape[1:]):
        kept = x.new_empty((*x.shape[:2], *counts))
        for target, source, first in zip(kept, x, start.tolist(), strict=True):
            target.copy_(source[_slices(first, step, counts)])
        return kept
    if may_launch(x):
        from shiftproof.ops import copy_kernels  # which needs Triton

        return copy_kernels.read(x, start, step, counts)
    return read_positions(x, _inner_positions(start, step, x.shape[2:], counts), counts)


def _write(y: Tensor, start: Tensor, step: _Sizes, sizes: _Sizes) -> Tensor:
    batch, channels, *counts = y.shape
    in_rows = has_channels_last(y)
    if _copies_samples(y, (channels, *sizes)):
        shape = (batch, *sizes, channels) if in_rows else (batch, channels, *sizes)
        zeros = y.new_zeros(shape)
        placed = zeros.movedim(-1, 1) if in_rows else zeros
        for target, source, first in zip(placed, y, start.tolist(), strict=True):
            target[_slices(first, step, counts)].copy_(source)
        return placed
    if may_launch(y):
        from shiftproof.ops import copy_kernels  # which needs Triton

        return copy_kernels.add(y, start, step, sizes)
    positions = _inner_positions(start, step, sizes, counts)
    count, size = math.prod(counts), math.prod(sizes)
    # Writing in place saves a copy of the zeros; transforms have a rule for the other form only.
    in_place = may_read_values(y)
    if in_rows:
        pixels = y.movedim(1, -1).reshape(batch * count, channels)
        zeros = y.new_zeros((batch * size, channels))
        rows = batch_rows(positions, size)
        copy = zeros.index_copy_ if in_place else zeros.index_copy
        placed = copy(0, rows, pixels)
        return placed.view(batch, *sizes, channels).movedim(-1, 1)
    index = positions[:, None].expand(-1, channels, -1)
    zeros = y.new_zeros((batch, channels, size))
    values = y.reshape(batch, channels, count)
    placed = zeros.scatter_(2, index, values) if in_place else zeros.scatter(2, index, values)
    return placed.view(batch, channels, *sizes)


class _Read(torch.autograd.Function):
    """Values on the lattice; the backward pass writes the gradient to the same points."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, start: Tensor, step: _Sizes, counts: _Sizes) -> Tensor:
        return _read(x, start, step, counts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, start, ctx.step, ctx.counts = inputs
        ctx.sizes = tuple(x.shape[2:])
        ctx.save_for_backward(start)
        ctx.save_for_forward(start)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (start,) = ctx.saved_tensors
        return write_lattice(grad, start, ctx.step, ctx.sizes), None, None, None


class _ForwardRead(_Read):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (start,) = ctx.saved_tensors
        return _read(tangent, start, ctx.step, ctx.counts)


class _Write(torch.autograd.Function):
    """Zeros but for the values on the lattice; the backward pass reads them again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, start: Tensor, step: _Sizes, sizes: _Sizes) -> Tensor:
        return _write(y, start, step, sizes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        y, start, ctx.step, ctx.sizes = inputs
        ctx.counts = tuple(y.shape[2:])
        ctx.save_for_backward(start)
        ctx.save_for_forward(start)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (start,) = ctx.saved_tensors
        return read_lattice(grad, start, ctx.step, ctx.counts), None, None, None


class _ForwardWrite(_Write):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (start,) = ctx.saved_tensors
        return _write(tangent, start, ctx.step, ctx.sizes)


def has_short_floats(x: Tensor) -> bool:
    """Whether values are floats of 8 bits, which torch can move as bytes alone.

    Args:
        x: The tensor.

    Returns:
        Whether to move ``x.view(torch.uint8)`` instead.
    """
    return x.is_floating_point() and x.element_size() == 1


def read_lattice(x: Tensor, start: Tensor, step: Sequence[int], counts: Sequence[int]) -> Tensor:
    """Read the points ``start + step * i`` of each sample; the memory format is kept.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        start: First point of each sample, ``(N, D)`` integers; all points lie inside the map.
        step: Distance between neighbours in pixels, per axis.
        counts: Number of points, per axis.

    Returns:
        The values, ``(N, C, *counts)``.
    """
    if has_short_floats(x):
        return read_lattice(x.view(torch.uint8), start, step, counts).view(x.dtype)
    steps, shape = tuple(step), tuple(counts)
    if is_jit_tracing() or not needs_gradient(x):
        return _read(x, start, steps, shape)
    function = _Read if torch.compiler.is_compiling() else _ForwardRead
    return cast(Tensor, function.apply(x, start, steps, shape))


def write_lattice(y: Tensor, start: Tensor, step: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Write values to points of a map of zeros: the adjoint of ``read_lattice``.

    Args:
        y: Values, ``(N, C, *counts)``.
        start: First point of each sample, ``(N, D)`` integers; all points lie inside the map.
        step: Distance between neighbours in pixels, per axis.
        sizes: Spatial sizes of the result.

    Returns:
        The map, ``(N, C, *sizes)``.
    """
    if has_short_floats(y):
        return write_lattice(y.view(torch.uint8), start, step, sizes).view(y.dtype)
    steps, shape = tuple(step), tuple(sizes)
    if is_jit_tracing() or not needs_gradient(y):
        return _write(y, start, steps, shape)
    function = _Write if torch.compiler.is_compiling() else _ForwardWrite
    return cast(Tensor, function.apply(y, start, steps, shape))
