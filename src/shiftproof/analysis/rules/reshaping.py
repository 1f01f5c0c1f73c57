"""Functions that join, split, move and repeat the dimensions of a tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shiftproof.analysis.calls import PADDED_AGAIN, Call, per_dim, replaced, rule
from shiftproof.analysis.errors import UnknownError
from shiftproof.analysis.graph import Value
from shiftproof.analysis.layout import (
    Dimension,
    Layout,
    has_margin,
    plain,
    repeated,
    reshaped,
    size_of,
    split,
    still,
    whole,
)


@rule("reshape view", "input *shape")
@rule("flatten", "input start_dim end_dim")
@rule("unflatten", "input dim sizes")
@rule("squeeze unsqueeze", "input dim")
@rule("view_as reshape_as", "input other")
@rule("ravel", "input")
def reshape(call: Call) -> Layout:
    """Any reshape in row-major order."""
    layout = call.source
    if layout == () or tuple(map(size_of, layout)) == call.shape:
        return layout
    result = reshaped(layout, call.shape)
    if result is None:
        raise UnknownError("a reshape that cuts through positions")
    call.require_layout(result)
    return result


@rule("unfold", "input kernel_size dilation padding stride")
@rule("fold", "input output_size kernel_size dilation padding stride")
def patches(call: Call) -> Layout:
    """``torch.nn.functional.unfold`` to patches beside one another, and back."""
    kernel = per_dim(call.given["kernel_size"], 2)
    stride, padding, dilation = (
        per_dim(call.given.get(name, default), 2)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    layout, is_fold = call.source, call.name == "fold"
    fine = call.shape if is_fold else tuple(map(size_of, layout))
    if len(fine) != 4 or len(call.shape) != (4 if is_fold else 3):  # Tensor.unfold is another
        raise UnknownError(f"what {call.name} does to positions")
    counts = [size // step for size, step in zip(fine[2:], kernel, strict=True)]
    if stride != kernel or any(padding) or dilation != (1, 1) or has_margin(layout):
        raise UnknownError("patches that overlap")
    if is_fold:
        shape, order = (*fine[:2], *kernel, *counts), (0, 1, 4, 2, 5, 3)
    else:
        shape, order = (*fine[:2], counts[0], kernel[0], counts[1], kernel[1]), (0, 1, 3, 5, 2, 4)
    split_up = reshaped(layout, shape)
    result = split_up and reshaped(tuple(split_up[dim] for dim in order), call.shape)
    if not result:
        raise UnknownError("patches that cut through positions")
    call.require_layout(result)
    return result


@rule("permute", "input *dims")
def permute(call: Call) -> Layout:
    """Dimensions in another order."""
    layout = call.source
    return tuple(layout[int(dim)] for dim in call.given["dims"])


@rule("transpose swapaxes swapdims", "input dim0 dim1")
def transpose(call: Call) -> Layout:
    """Two dimensions exchanged."""
    layout = list(call.source)
    values = list(call.given.values())
    first, second = (int(dim) % len(layout) for dim in values[1:3])
    layout[first], layout[second] = layout[second], layout[first]
    return tuple(layout)


@rule("movedim moveaxis", "input source destination")
def move_dims(call: Call) -> Layout:
    """Dimensions moved to other places."""
    layout = call.source
    source, target = (call.dims(name, layout) for name in ("source", "destination"))
    rest = [dimension for index, dimension in enumerate(layout) if index not in source]
    for position, index in sorted(zip(target, source, strict=True)):
        rest.insert(position, layout[index])
    return tuple(rest)


@rule("T", "input")
def reverse(call: Call) -> Layout:
    """All dimensions in reverse order."""
    return call.source[::-1]


@rule("mT mH H t adjoint", "input")
def transpose_last(call: Call) -> Layout:
    """The last two dimensions exchanged."""
    layout = call.source
    return (*layout[:-2], layout[-1], layout[-2]) if len(layout) > 1 else layout


@rule("expand", "input *size implicit")
@rule("expand_as", "input other")
@rule("broadcast_to", "input size")
def expand(call: Call) -> Layout:
    """Dimensions of size 1 repeated, without a copy."""
    layout, shape = call.source, call.shape
    added = len(shape) - len(layout)
    return tuple(
        _repeated(call, size)
        if index < added or size_of(layout[index - added]) != size
        else layout[index - added]
        for index, size in enumerate(shape)
    )


def _repeated(call: Call, size: int) -> Dimension:
    result = call.record.result
    return plain(size) if isinstance(result, Value) and result.is_written else repeated(size)


@rule("repeat", "input *repeats")
@rule("tile", "input *dims")
def repeat(call: Call) -> Layout:
    """Tiles."""
    layout, shape = call.source, call.shape
    added = len(shape) - len(layout)
    result: list[Dimension] = []
    for index, size in enumerate(shape):
        dimension = layout[index - added] if index >= added else ()
        if size_of(dimension) == size:
            result.append(dimension)
        elif not dimension:
            result.append(_repeated(call, size))
        elif still(dimension):
            call.require_free(dimension, "a map that is repeated")
            result.append(plain(size))
        else:
            raise UnknownError("a map that is repeated")
    return tuple(result)


@rule("repeat_interleave", "input repeats dim output_size")
def repeat_interleave(call: Call) -> Layout:
    """Positions repeated, each next to itself: nearest-neighbour upsampling of one dimension."""
    layout, times = call.source, call.given["repeats"]
    if not isinstance(times, int) or call.given.get("dim") is None:
        raise UnknownError("positions repeated a different number of times")
    (dim,) = call.dims("dim", layout)
    factor = whole(layout[dim])
    if factor is not None and not factor.has_margin:
        finer: Dimension = (replace(factor, size=factor.size * times, step=factor.step / times),)
    else:
        call.require_free(layout[dim], "a map that is repeated")
        finer = plain(call.shape[dim])
    return replaced(layout, dim, finer)


@rule("chunk", "input chunks dim")
@rule("split split_with_sizes tensor_split", "input size dim")
def pieces(call: Call) -> list[Layout]:
    """A dimension that does not move cut into pieces."""
    layout = call.source
    (dim,) = call.dims("dim", layout, 0)
    call.require_free(layout[dim], "a map that is cut into pieces")
    return [replaced(layout, dim, plain(part.shape[dim])) for part in call.record.result]


@rule("unbind", "input dim")
def unbind(call: Call) -> list[Layout]:
    """A dimension taken apart."""
    layout = call.source
    (dim,) = call.dims("dim", layout, 0)
    call.require_free(layout[dim], "a map that is cut into pieces")
    return [replaced(layout, dim)] * len(call.record.result)


@rule("roll", "input shifts dims")
def roll(call: Call) -> Layout:
    """A circular shift by a fixed amount, which any other shift passes through."""
    layout = call.source
    if has_margin(layout):
        raise UnknownError(PADDED_AGAIN)
    if call.given.get("dims") is None:
        raise UnknownError("a shift of something that has no axes")
    for dim in call.dims("dims", layout):
        if whole(layout[dim]) is None:
            call.require_free(layout[dim], "a shift of windows")
            layout = replaced(layout, dim, plain(size_of(layout[dim])))
    return layout


@rule("flip", "input *dims")
@rule("fliplr flipud", "input")
def flip(call: Call) -> Layout:
    """Reversed dimensions."""
    layout = call.source
    dims = call.dims("dims", layout) if call.name == "flip" else [int(call.name == "fliplr")]
    for dim in dims:
        call.require_free(layout[dim], "a mirrored map")
        layout = replaced(layout, dim, plain(size_of(layout[dim])))
    return layout


def _cells(factor: Any, cell: int, call: Call) -> Dimension:
    if factor is None or factor.has_margin or factor.size % cell:
        raise UnknownError("cells that do not divide the map")
    call.require(
        factor,
        factor.step * cell,
        f"space to depth by {cell} turns phases into channels, which then change places",
    )
    return (split(factor, cell)[0],)


@rule("pixel_unshuffle", "input downscale_factor")
def space_to_depth(call: Call) -> Layout:
    """Every cell of a map becomes one pixel with more channels."""
    batch, channels, *axes = call.source
    call.require_free(channels, "channels that move")
    cell = call.given["downscale_factor"]
    coarse = [_cells(whole(dimension), cell, call) for dimension in axes]
    return (batch, plain(call.shape[1]), *coarse)


@rule("pixel_shuffle", "input upscale_factor")
def depth_to_space(call: Call) -> Layout:
    """Channels become the pixels of a finer map."""
    batch, channels, *axes = call.source
    call.require_free(channels, "channels that move")
    times = call.given["upscale_factor"]
    fine: list[Dimension] = []
    for dimension in axes:
        factor = whole(dimension)
        if factor is None or factor.has_margin:
            raise UnknownError("windows of which each becomes a map")
        fine.append((replace(factor, size=factor.size * times, step=factor.step / times),))
    return (batch, plain(call.shape[1]), *fine)


@rule("channel_shuffle native_channel_shuffle", "input groups")
def shuffle(call: Call) -> Layout:
    """Channels in another order."""
    layout = call.source
    call.require_free(layout[1], "channels that move")
    return layout
