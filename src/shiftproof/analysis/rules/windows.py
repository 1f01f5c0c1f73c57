"""Convolutions, pools and filters: sliding windows, made to wrap around the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

from shiftproof.analysis.calls import NO_AXIS, Call, per_dim, rule
from shiftproof.analysis.changes import CircularTransposed, CircularWindow, NewArguments
from shiftproof.analysis.errors import IndivisibleError, UnknownError, shown
from shiftproof.analysis.layout import (
    BATCH,
    Dimension,
    Factor,
    Layout,
    merged,
    plain,
    size_of,
    still,
    whole,
)
from shiftproof.analysis.rules.pads import BORDERS, pixels
from shiftproof.analysis.rules.reductions import plan_mean
from shiftproof.nested import leaves_of

_CONVOLUTION = "input weight bias stride padding dilation groups"
_MAX_POOL = "input kernel_size stride padding dilation ceil_mode return_indices"
_AVERAGE_POOL = "input kernel_size stride padding ceil_mode count_include_pad divisor_override"


@dataclass(frozen=True)
class Window:
    """A sliding window along one dimension.

    Attributes:
        kernel: Its size, dilation included.
        stride: Its step.
        before: What the call pads before the first pixel.
        after: What it pads after the last.
        ceil: Whether windows may hang over the end.
    """

    kernel: int
    stride: int
    before: int
    after: int
    ceil: bool = False

    def count(self, size: int) -> int:
        """Number of windows on a map of some size, as torch counts them."""
        room = size + self.before + self.after - self.kernel
        if not self.ceil:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        return count - ((count - 1) * self.stride >= size + self.before)


@rule("conv1d conv2d conv3d", _CONVOLUTION)
def convolution(call: Call) -> Layout:
    """A convolution."""
    weight = call.given["weight"]
    if not all(map(still, call.layout(weight))):
        raise UnknownError("weights that depend on the input")
    count = len(weight.shape) - 2
    dilation = per_dim(call.given.get("dilation") or 1, count)
    kernel = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilation, strict=True)]
    return slide(call, kernel, call.given.get("stride") or 1, weight.shape[0], "zeros")


@rule("max_pool1d max_pool2d max_pool3d", _MAX_POOL)
@rule("avg_pool1d avg_pool2d avg_pool3d", _AVERAGE_POOL)
@rule("lp_pool1d lp_pool2d lp_pool3d", "input norm_type kernel_size stride ceil_mode")
def pool(call: Call) -> Layout:
    """A pool."""
    if call.given.get("return_indices"):
        raise UnknownError("positions of maxima")
    count = len(call.source) - 2
    kernel = per_dim(call.given["kernel_size"], count)
    dilation = per_dim(call.given.get("dilation") or 1, count)
    spread = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    stride = call.given.get("stride") or call.given["kernel_size"]
    if _is_global(call, kernel) and not call.name.startswith("lp"):
        if list(kernel) != list(map(size_of, call.source[2:])):
            call.limit = f"{call.place} is one window over a map of this size"
        if call.name.startswith("avg"):
            plan_mean(call, call.source, range(2, 2 + count), keepdim=True)
        return (*call.source[:2], *((),) * count)
    mode = "minus infinity" if call.name.startswith("max") else "zeros"
    return slide(call, spread, stride, None, mode)


def _is_global(call: Call, kernel: Sequence[int]) -> bool:
    """Whether a pool has one window, which is the whole map, so that no order matters."""
    other = [call.given.get(name) or 0 for name in ("padding", "divisor_override")]
    gaps = [step > 1 for step in leaves_of(call.given.get("dilation") or 1)]
    axes = [whole(dimension) for dimension in call.source[2:]]
    return not any((*leaves_of(other), *gaps)) and all(
        factor is not None and not factor.has_margin and size >= factor.size
        for factor, size in zip(axes, kernel, strict=True)
    )


@rule("ops.lowpass", "input kernel padding_mode stride")
def lowpass(call: Call) -> Layout:
    """The filter of this package, with or without a stride."""
    layout, kernel = call.source, call.given["kernel"]
    mode = call.given.get("padding_mode", "circular")
    strides = per_dim(call.given.get("stride", 1), len(layout) - 2)
    dims: list[Dimension] = []
    for dimension, size, stride in zip(layout[2:], kernel.shape, strides, strict=True):
        factor = whole(dimension)
        if factor is None or factor.has_margin:
            raise UnknownError(NO_AXIS)
        dims.append(_strided(call, layout, factor, stride, factor.size, strides))
        if size > 1 and mode != "circular":
            call.border = f"{BORDERS[mode]} {pixels([size // 2])}"
            call.change = NewArguments(("padding_mode",), ("circular",))
    return (*layout[:2], *dims)


def _strided(
    call: Call, layout: Layout, factor: Factor, stride: int, size: int, strides: Sequence[int]
) -> Dimension:
    step = factor.step * stride
    if size % stride:
        whole_axes = [sum(f.size - f.before - f.after for f in part) for part in layout[2:]]
        sizes = [whole_size or 1 for whole_size in whole_axes]
        assert isinstance(factor.axis, int)
        raise IndivisibleError(call.place, sizes, strides, {factor.axis: step})
    if stride > 1:
        text = shown(strides, " x ") if len(set(strides)) > 1 else str(stride)
        call.require(factor, step, f"stride {text} keeps phase 0 whatever the content")
    coarse = replace(factor, size=size // stride, step=step, before=0, after=0)
    return merged([coarse])


def _widths(value: Any, kernel: Sequence[int]) -> list[tuple[int, int]]:
    if value == "valid" or value is None:
        return [(0, 0)] * len(kernel)
    if value == "same":
        return [((size - 1) // 2, size // 2) for size in kernel]
    return [(width, width) for width in per_dim(value, len(kernel))]


def slide(
    call: Call, kernel: Sequence[int], stride: Any, channels: int | None, mode: str
) -> Layout:
    """The layout behind a convolution or a pool.

    Args:
        call: The call; its window becomes circular where that is needed.
        kernel: Size of the window per dimension, dilation included.
        stride: Step of the window.
        channels: Channels of the output; those of the input if None.
        mode: What is padded with.

    Returns:
        The layout.

    Raises:
        UnknownError: If the channels move, or the border cannot be made circular.
        IndivisibleError: If the stride does not divide the map.
    """
    layout = call.source
    if len(layout) != len(kernel) + 2:
        raise UnknownError(NO_AXIS)
    out = _channels(call, layout, channels)
    strides = per_dim(stride, len(kernel))
    widths = _widths(call.given.get("padding"), kernel)
    windows = [
        Window(size, step, *pair, bool(call.given.get("ceil_mode", False)))
        for size, step, pair in zip(kernel, strides, widths, strict=True)
    ]
    dims: list[Dimension] = []
    borders: list[_Border] = []
    stays, natural = [], []
    for axis, (dimension, window) in enumerate(zip(layout[2:], windows, strict=True)):
        factor = whole(dimension)
        if factor is None:
            call.require_free(dimension, NO_AXIS)
            dims.append(plain(int(call.shape[2 + axis])))
            borders.append(_Border(0, 0, (0, 0), False))
            stays.append(window.before)
            natural.append(0)
            if window.before != window.after:
                raise UnknownError("padding of one side")
            continue
        size = factor.size - factor.before - factor.after
        if window.ceil and (size - window.kernel) % window.stride:
            call.border = "ceil_mode adds a window that hangs over the border"
        dims.append(_strided(call, layout, factor, window.stride, size, strides))
        borders.append(_border(window, factor, size))
        stays.append(0)
        given = replace(
            window, before=window.before + factor.before, after=window.after + factor.after
        )
        natural.append(given.count(size))
    _describe(call, layout, windows, natural, dims, mode)
    if any(border.is_new for border in borders):
        before, after, cropped, _ = zip(*borders, strict=True)
        cropped = cropped if any(map(any, cropped)) else ()
        call.change = CircularWindow(before, after, tuple(stays), cropped)
    return (layout[0], out, *dims)


def _channels(call: Call, layout: Layout, channels: int | None) -> Dimension:
    """Channels of the output; groups may keep samples apart that were joined to the channels."""
    first = layout[1][0] if layout[1] else None
    groups = call.given.get("groups") or 1
    if channels and first is not None and first.axis == BATCH and groups % first.size == 0:
        call.require_free(layout[1][1:], NO_AXIS)
        return (first, *plain(channels // first.size))
    call.require_free(layout[1], NO_AXIS)
    return layout[1] if channels is None else plain(channels)


class _Border(NamedTuple):
    """What a window reads around the map, what is cut off first, and whether that is new."""

    before: int
    after: int
    cropped: tuple[int, int]
    is_new: bool


def _border(window: Window, factor: Factor, size: int) -> _Border:
    """The circular border with which there is one window per step."""
    before = window.before + factor.before
    after = max(window.kernel - window.stride - before, 0)
    count = size // window.stride
    if replace(window, before=before, after=after, ceil=False).count(size) != count:
        raise UnknownError("padding wider than the window")
    if factor.is_wrapped and not window.before and factor.after >= after:
        padded = replace(window, before=before, after=factor.after, ceil=False)
        if padded.count(size) == count:  # what was padded is what is needed
            return _Border(0, 0, (0, 0), False)
    hangs = window.ceil and bool((size - window.kernel) % window.stride)
    is_padded = bool(before or after or window.after or factor.after)
    return _Border(before, after, (factor.before, factor.after), is_padded or hangs)


def _describe(
    call: Call,
    layout: Layout,
    windows: Sequence[Window],
    natural: Sequence[int],
    dims: Sequence[Dimension],
    mode: str,
) -> None:
    """Say what is padded with, and how the size of the result changes."""
    padded = [max(w.before, w.after) for w in windows]
    same = call.given.get("padding") == "same"
    if any(padded):
        call.border = f"{BORDERS[mode]} ('same')" if same else f"{BORDERS[mode]} {pixels(padded)}"
    pairs = list(zip(natural, map(size_of, dims), strict=True))
    moving = [not still(dimension) for dimension in layout[2:]]
    changes = [
        f"{a} to {b}" for (a, b), moved in zip(pairs, moving, strict=True) if moved and a != b
    ]
    if not changes:
        return
    before, after = shown([a for a, _ in pairs], " x "), shown([b for _, b in pairs], " x ")
    kernel = shown([window.kernel for window in windows], " x ")
    call.misfit = f"a window of {kernel} that gives {before} in the place of {after}"
    if not any(padded) and all(a <= b for a, b in pairs):
        call.misfit = f"a window of {kernel} without padding leaves {before} of {after}"
    call.geometry = f"{call.place}: {' and '.join(dict.fromkeys(changes))}"
    if max(natural) < call.fewest:
        raise UnknownError(f"a window that leaves out the border ({call.geometry})")


@rule(
    "conv_transpose1d conv_transpose2d conv_transpose3d",
    "input weight bias stride padding output_padding groups dilation",
)
def transposed(call: Call) -> Layout:
    """A transposed convolution."""
    layout, weight = call.source, call.given["weight"]
    if len(layout) != len(weight.shape) or not all(map(still, call.layout(weight))):
        raise UnknownError(NO_AXIS)
    call.require_free(layout[1], NO_AXIS)
    count = len(weight.shape) - 2
    stride, padding, dilation, extra = (
        per_dim(call.given.get(name) or default, count)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("output_padding", 0))
    )
    before, after, starts, ends, changes = [], [], [], [], []
    dims: list[Dimension] = []
    for axis, dimension in enumerate(layout[2:]):
        factor = whole(dimension)
        if factor is None or factor.has_margin:
            raise UnknownError(NO_AXIS)
        reach = dilation[axis] * (weight.shape[2 + axis] - 1)
        first = max(0, -(-(reach - padding[axis]) // stride[axis]))
        last = max(0, (stride[axis] - 1 + padding[axis]) // stride[axis])
        size = factor.size * stride[axis]
        full = (factor.size + first + last - 1) * stride[axis] + reach + 1
        natural = (factor.size - 1) * stride[axis] - 2 * padding[axis] + reach + extra[axis] + 1
        if natural != size:
            changes.append(f"{natural} to {size}")
        before.append(first)
        after.append(last)
        starts.append(first * stride[axis] + padding[axis])
        ends.append(full - size - first * stride[axis] - padding[axis])
        step = Fraction(factor.step, stride[axis])
        dims.append((replace(factor, size=size, step=step),))
    if min(ends) < 0:
        raise UnknownError("a kernel smaller than its stride")
    if any(before) or any(after) or changes:
        kernel = f"a transposed convolution of {shown(weight.shape[2:], ' x ')}"
        call.border = f"{kernel} cuts its overlapping windows off at the border"
        call.change = CircularTransposed(tuple(before), tuple(after), tuple(starts), tuple(ends))
    if changes:
        call.geometry = f"{call.place}: {' and '.join(dict.fromkeys(changes))}"
        if call.fewest > 2:
            raise UnknownError(f"a window that leaves out the border ({call.geometry})")
    groups = call.given.get("groups") or 1
    return (layout[0], plain(weight.shape[1] * groups), *dims)
