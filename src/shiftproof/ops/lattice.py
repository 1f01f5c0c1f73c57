"""Reading and writing a different regular lattice of points in each sample of a batch.

Every move of this project is one of these two, with other starts and steps: keeping a phase reads
a lattice of step S, putting back writes one, aligning and shifting read all points from another
start.  A lattice visits each point at most once, so reading and writing are exact adjoints of each
other, and each is the other's backward pass.  Native indexing would accumulate into the same memory
one element after the other, which on CPU costs more than a convolution.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from shiftproof.ops.channels import has_channels_last
from shiftproof.ops.overrides import is_jit_tracing, may_read_values, needs_gradient


def lattice_positions(
    start: Tensor,
    step: Sequence[int],
    sizes: Sequence[int],
    counts: Sequence[int],
    pitch: Sequence[int] | None = None,
) -> Tensor:
    """Flat positions of the points ``start + step * i``, wrapped around the map.

    Args:
        start: First point of each sample, ``(N, D)`` integers, any value.
        step: Distance between neighbours in pixels, per axis.
        sizes: Size of the map, per axis.
        counts: Number of points, per axis.
        pitch: Size, per axis, of the map whose positions these are, where it is larger than
            ``sizes``; the first ``sizes`` of its pixels are meant.

    Returns:
        Row-major positions into the flattened map, ``(N, prod(counts))`` int64.
    """
    positions = start.new_zeros((start.shape[0], 1), dtype=torch.int64)
    lengths = sizes if pitch is None else pitch
    for axis, (spacing, size, count) in enumerate(zip(step, sizes, counts, strict=True)):
        steps = spacing * torch.arange(count, device=start.device)
        # The exporter to ONNX cannot divide by a size that it does not know.
        divisor = size if isinstance(size, int) else torch.full_like(steps, size)
        coordinates = torch.remainder(start[:, axis, None] + steps, divisor)
        positions = positions[:, :, None] * lengths[axis] + coordinates[:, None, :]
        positions = positions.flatten(1)
    return positions


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


def _write_positions(y: Tensor, positions: Tensor, sizes: Sequence[int]) -> Tensor:
    batch, channels = y.shape[:2]
    count, size = math.prod(y.shape[2:]), math.prod(sizes)
    # Writing in place saves a copy of the zeros; transforms have a rule for the other form only.
    in_place = may_read_values(y)
    if has_channels_last(y):
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
    """Values at the positions; the backward pass writes the gradient to the same positions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, positions: Tensor, counts: tuple[int, ...]) -> Tensor:
        return read_positions(x, positions, counts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, positions, ctx.counts = inputs
        ctx.sizes = tuple(x.shape[2:])
        ctx.save_for_backward(positions)
        ctx.save_for_forward(positions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return write_lattice(grad, positions, ctx.sizes), None, None


class _ForwardRead(_Read):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (positions,) = ctx.saved_tensors
        return read_positions(tangent, positions, ctx.counts)


class _Write(torch.autograd.Function):
    """Zeros but for the values at the positions; the backward pass reads them again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, positions: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return _write_positions(y, positions, sizes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        y, positions, ctx.sizes = inputs
        ctx.counts = tuple(y.shape[2:])
        ctx.save_for_backward(positions)
        ctx.save_for_forward(positions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return read_lattice(grad, positions, ctx.counts), None, None


class _ForwardWrite(_Write):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (positions,) = ctx.saved_tensors
        return _write_positions(tangent, positions, ctx.sizes)


def read_lattice(x: Tensor, positions: Tensor, counts: Sequence[int]) -> Tensor:
    """Read the values at the given positions of each sample; the memory format is kept.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        positions: Flat positions, ``(N, M)``, without repetition within a sample.
        counts: Spatial sizes of the result, of product ``M``.

    Returns:
        The values, ``(N, C, *counts)``.
    """
    if is_jit_tracing() or not needs_gradient(x):
        return read_positions(x, positions, counts)
    function = _Read if torch.compiler.is_compiling() else _ForwardRead
    return cast(Tensor, function.apply(x, positions, tuple(counts)))


def write_lattice(y: Tensor, positions: Tensor, sizes: Sequence[int]) -> Tensor:
    """Write values to the given positions of a map of zeros: the adjoint of ``read_lattice``.

    Args:
        y: Values, ``(N, C, *counts)``.
        positions: Flat positions, ``(N, M)``, without repetition within a sample.
        sizes: Spatial sizes of the result.

    Returns:
        The map, ``(N, C, *sizes)``.
    """
    if is_jit_tracing() or not needs_gradient(y):
        return _write_positions(y, positions, sizes)
    function = _Write if torch.compiler.is_compiling() else _ForwardWrite
    return cast(Tensor, function.apply(y, positions, tuple(sizes)))
