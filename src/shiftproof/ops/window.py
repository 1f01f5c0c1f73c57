"""Windows that wrap around: each sample read from a start of its own, borders included.

Shifting a map, aligning it with a phase, and aligning and padding it for the convolution that
follows are all this one reading, in one copy.  Going back, every pixel of the window is added to
the pixel it was read from: one copy of the map again, and the narrow border on top.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from shiftproof.ops.channels import has_channels_last
from shiftproof.ops.lattice import batch_rows, has_short_floats, read_positions
from shiftproof.ops.overrides import (
    is_jit_tracing,
    may_launch,
    may_read_values,
    needs_gradient,
)

_Sizes = tuple[int, ...]

_NARROW = 64
"""Pixels of fewer bytes than this are slower to copy one by one than as rows of an image."""

_LARGE = 1 << 20
"""Samples of at least so many bytes are faster to copy as rectangles than row by row."""


def _copies_rows(x: Tensor) -> bool:
    """Whether rows of an image are the largest pieces that a copy can move at once."""
    wide = has_channels_last(x) and x.shape[1] * x.element_size() >= _NARROW
    return not wide and x.device.type == "cpu" and may_read_values(x) and x.numel() > 0


def _positions(
    start: Tensor, sizes: Sequence[int], counts: Sequence[int], pitch: Sequence[int] | None = None
) -> Tensor:
    """Flat positions of the pixels of each window.

    Args:
        start: First pixel of each window.
        sizes: Size of the map, after which a window wraps around.
        counts: Size of the windows.
        pitch: Size of the map whose positions these are, where it is larger than ``sizes``; the
            first ``sizes`` of its pixels are meant.

    Returns:
        Row-major positions, ``(N, prod(counts))`` int64.
    """
    positions = start.new_zeros((start.shape[0], 1), dtype=torch.int64)
    lengths = sizes if pitch is None else pitch
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        steps = torch.arange(count, device=start.device)
        # The exporter to ONNX cannot divide by a size that it does not know.
        divisor = size if isinstance(size, int) else torch.full_like(steps, size)
        coordinates = torch.remainder(start[:, axis, None] + steps, divisor)
        positions = positions[:, :, None] * lengths[axis] + coordinates[:, None, :]
        positions = positions.flatten(1)
    return positions


def _read_rows(x: Tensor, start: Tensor, low: int, reach: int, counts: _Sizes) -> Tensor:
    """Read windows row by row: each is a run of memory in a map that is wide enough.

    Args:
        x: Feature map.
        start: First pixel of each window.
        low: Least first pixel along the last axis.
        reach: How far beyond it the first pixel may lie.
        counts: Size of the windows.

    Returns:
        The windows.
    """
    batch, channels, *sizes = x.shape
    in_rows = has_channels_last(x)
    rows = x.movedim(1, -1) if in_rows else x
    axis, unit = (x.ndim - 2, channels) if in_rows else (x.ndim - 1, 1)
    begin, length = low % sizes[-1], reach + counts[-1]
    parts = []
    while length > 0:
        taken = min(sizes[-1] - begin, length)
        parts.append(rows.narrow(axis, begin, taken))
        begin, length = 0, length - taken
    wide = torch.cat(parts, axis).contiguous()
    pitch = (reach + counts[-1]) * unit
    # The first element of every row of every window, and all runs of memory that long.
    outer = _positions(start[:, :-1], sizes[:-1], counts[:-1])
    maps = torch.arange(batch * (1 if in_rows else channels), device=x.device).view(batch, -1, 1)
    first = (outer[:, None] + maps * math.prod(sizes[:-1])) * pitch
    first = first + ((start[:, -1] - low) * unit)[:, None, None]
    span = counts[-1] * unit
    runs = wide.view(-1).as_strided((wide.numel() - span + 1, span), (1, 1))
    kept = runs.index_select(0, first.flatten())
    if in_rows:
        return kept.view(batch, *counts, channels).movedim(-1, 1)
    return kept.view(batch, channels, *counts)


def _read_pieces(x: Tensor, start: Tensor, counts: _Sizes) -> Tensor:
    """Read windows sample by sample, each as the few rectangles into which the border cuts it."""
    windows = x.new_empty((*x.shape[:2], *counts))
    for source, target, first in zip(x, windows, start.tolist(), strict=True):
        spans = [
            _runs(at % size, size, count)
            for at, size, count in zip(first, x.shape[2:], counts, strict=True)
        ]
        for piece in itertools.product(*spans):
            read, written = source, target
            for axis, (begin, place, length) in enumerate(piece, 1):
                read = read.narrow(axis, begin, length)
                written = written.narrow(axis, place, length)
            written.copy_(read)
    return windows


def _runs(begin: int, size: int, count: int) -> list[tuple[int, int, int]]:
    """Runs of a window along an axis that wraps around: start, place in the window, length."""
    runs = []
    place = 0
    while place < count:
        length = min(size - begin, count - place)
        runs.append((begin, place, length))
        begin, place = 0, place + length
    return runs


def _copies_pieces(x: Tensor) -> bool:
    large = math.prod(x.shape[1:]) * x.element_size() >= _LARGE
    return large and _copies_rows(x) and not has_channels_last(x)


def _read(x: Tensor, start: Tensor, low: int, reach: int, counts: _Sizes) -> Tensor:
    if _copies_pieces(x):
        return _read_pieces(x, start, counts)
    if _copies_rows(x):
        return _read_rows(x, start, low, reach, counts)
    if may_launch(x):
        from shiftproof.ops import copy_kernels  # which needs Triton

        return copy_kernels.read(x, start, (1,) * len(counts), counts)
    return read_positions(x, _positions(start, x.shape[2:], counts), counts)


def _add_at(x: Tensor, positions: Tensor, values: Tensor) -> None:
    """Add values to pixels of a map, in place; each pixel of a sample at most once."""
    batch, channels = x.shape[:2]
    size, count = math.prod(x.shape[2:]), math.prod(values.shape[2:])
    if has_channels_last(x):
        rows = values.movedim(1, -1).reshape(batch * count, channels)
        pixels = x.movedim(1, -1).view(batch * size, channels)
        pixels.index_add_(0, batch_rows(positions, size), rows)
    else:
        index = positions[:, None].expand(-1, channels, -1)
        pixels = x.view(batch, channels, size)
        pixels.scatter_add_(2, index, values.reshape(batch, channels, count))


def _fold(window: Tensor, start: Tensor, low: int, reach: int, sizes: _Sizes) -> Tensor:
    """Add every pixel of a window to the pixel it was read from: the adjoint of ``_read``."""
    counts = window.shape[2:]
    if may_launch(window):
        from shiftproof.ops import copy_kernels  # which needs Triton

        return copy_kernels.add(window, start, (1,) * len(sizes), sizes)
    # A window begins with the whole map, turned; what follows repeats pixels of it.
    if _copies_rows(window):
        whole = window
        for axis, size in enumerate(sizes, 2):
            whole = whole.narrow(axis, 0, size)
        folded = (
            _read_pieces(whole, -start, sizes)
            if _copies_pieces(window)
            else _read_rows(whole, -start, -low - reach, reach, sizes)
        )
    else:
        turned = _positions(-start, sizes, sizes, pitch=counts)
        folded = read_positions(window, turned, sizes)
    spans = [
        [(at, min(size, count - at)) for at in range(0, count, size)]
        for size, count in zip(sizes, counts, strict=True)
    ]
    for piece in itertools.islice(itertools.product(*spans), 1, None):
        part = window
        for axis, (begin, length) in enumerate(piece, 2):
            part = part.narrow(axis, begin, length)
        _add_at(folded, _positions(start, sizes, part.shape[2:]), part)
    return folded


class _ReadWindow(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, start: Tensor, low: int, reach: int, counts: _Sizes) -> Tensor:
        return _read(x, start, low, reach, counts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, start, ctx.low, ctx.reach, ctx.counts = inputs
        ctx.sizes = tuple(x.shape[2:])
        ctx.save_for_backward(start)
        ctx.save_for_forward(start)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (start,) = ctx.saved_tensors
        return _fold_window(grad, start, ctx.low, ctx.reach, ctx.sizes), None, None, None, None


class _ForwardReadWindow(_ReadWindow):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (start,) = ctx.saved_tensors
        return _read(tangent, start, ctx.low, ctx.reach, ctx.counts)


class _FoldWindow(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(window: Tensor, start: Tensor, low: int, reach: int, sizes: _Sizes) -> Tensor:
        return _fold(window, start, low, reach, sizes)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        window, start, ctx.low, ctx.reach, ctx.sizes = inputs
        ctx.counts = tuple(window.shape[2:])
        ctx.save_for_backward(start)
        ctx.save_for_forward(start)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (start,) = ctx.saved_tensors
        return read_window(grad, start, ctx.low, ctx.reach, ctx.counts), None, None, None, None


class _ForwardFoldWindow(_FoldWindow):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (start,) = ctx.saved_tensors
        return _fold(tangent, start, ctx.low, ctx.reach, ctx.sizes)


def _fold_window(window: Tensor, start: Tensor, low: int, reach: int, sizes: _Sizes) -> Tensor:
    if not needs_gradient(window):
        return _fold(window, start, low, reach, sizes)
    function = _FoldWindow if torch.compiler.is_compiling() else _ForwardFoldWindow
    return cast(Tensor, function.apply(window, start, low, reach, sizes))


def read_window(x: Tensor, start: Tensor, low: int, reach: int, counts: Sequence[int]) -> Tensor:
    """Read a window of each sample, wrapping around the map as often as needed.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        start: First pixel of each window, ``(N, D)`` integers; along the last axis from ``low`` to
            ``low + reach``.
        low: Least first pixel along the last axis.
        reach: How far beyond it the first pixel may lie.
        counts: Size of the windows, per axis; no smaller than the map.

    Returns:
        The windows, ``(N, C, *counts)``, in the memory format of ``x``.
    """
    if has_short_floats(x):
        return read_window(x.view(torch.uint8), start, low, reach, counts).view(x.dtype)
    sizes = tuple(counts)
    if is_jit_tracing() or not needs_gradient(x):
        return _read(x, start, low, reach, sizes)
    function = _ReadWindow if torch.compiler.is_compiling() else _ForwardReadWindow
    return cast(Tensor, function.apply(x, start, low, reach, sizes))
