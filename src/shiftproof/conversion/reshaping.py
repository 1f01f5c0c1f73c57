"""Functions that move, join and cut the dimensions of a tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, fx

from shiftproof.conversion.calls import Call, UnknownError, dims_of
from shiftproof.conversion.layout import (
    Dimension,
    Factor,
    Layout,
    has_margin,
    merged,
    moves,
    plain,
    repeated,
    reshaped,
    size_of,
    split,
    still,
    whole,
)


def reshape(call: Call) -> Layout:
    """Any reshape in row-major order."""
    layout = call.layout(call.args[0])
    shape = tuple(call.result.shape)
    if layout == () or tuple(map(size_of, layout)) == shape:
        return layout
    result = reshaped(layout, shape)
    if result is None:
        raise UnknownError("a reshape that cuts through positions")
    call.require_layout(result)
    return result


def permute(call: Call) -> Layout:
    """Dimensions in another order."""
    layout = call.layout(call.args[0])
    order = call.args[1] if isinstance(call.args[1], (tuple, list)) else call.args[1:]
    return tuple(layout[int(dim)] for dim in order)


def transpose(call: Call) -> Layout:
    """Two dimensions exchanged."""
    layout = list(call.layout(call.args[0]))
    first, second = dims_of(call.args[1:3], len(layout))
    layout[first], layout[second] = layout[second], layout[first]
    return tuple(layout)


def move_dims(call: Call) -> Layout:
    """``movedim``: dimensions moved to other places."""
    layout = call.layout(call.args[0])
    source, target = (dims_of(value, len(layout)) for value in call.args[1:3])
    rest = [dimension for index, dimension in enumerate(layout) if index not in source]
    for place, index in sorted(zip(target, source, strict=True)):
        rest.insert(place, layout[index])
    return tuple(rest)


def attribute(call: Call) -> Layout:
    """``x.T``, ``x.mT``, ``x.data``."""
    name, layout = call.args[1], call.layout(call.args[0])
    if name in ("mT", "mH", "H"):
        return transpose_last(call)
    return layout[::-1] if name == "T" else layout


def transpose_last(call: Call) -> Layout:
    """``mT``, ``t`` and ``adjoint``: the last two dimensions exchanged."""
    layout = call.layout(call.args[0])
    return (*layout[:-2], layout[-1], layout[-2])


def expand(call: Call) -> Layout:
    """Dimensions of size 1 repeated, without a copy."""
    layout = call.layout(call.args[0])
    shape = tuple(call.result.shape)
    added = len(shape) - len(layout)
    return tuple(
        repeated(size)
        if index < added or size_of(layout[index - added]) != size
        else layout[index - added]
        for index, size in enumerate(shape)
    )


def repeat(call: Call) -> Layout:
    """Tiles."""
    layout = call.layout(call.args[0])
    shape = tuple(call.result.shape)
    added = len(shape) - len(layout)
    result = []
    for index, size in enumerate(shape):
        dimension = layout[index - added] if index >= added else ()
        if size_of(dimension) == size:
            result.append(dimension)
        elif still(dimension):
            call.require_layout((dimension,))
            result.append(plain(size))
        else:
            raise UnknownError("a map that is repeated")
    return tuple(result)


def repeat_interleave(call: Call) -> Layout:
    """Positions repeated, each next to itself: nearest-neighbour upsampling of one dimension."""
    given = call.bound("input", "repeats", "dim")
    layout = call.layout(call.args[0])
    times, dim = given["repeats"], given.get("dim")
    if not isinstance(times, int) or dim is None:
        raise UnknownError("positions repeated a different number of times")
    (dim,) = dims_of(dim, len(layout))
    factor = whole(layout[dim])
    if factor is not None and not factor.has_margin:
        finer: Dimension = (replace(factor, size=factor.size * times, step=factor.step / times),)
    elif still(layout[dim]):
        call.require_layout((layout[dim],))
        finer = plain(call.result.shape[dim])
    else:
        raise UnknownError("a map that is repeated")
    return (*layout[:dim], finer, *layout[dim + 1 :])


def parts(call: Call) -> list[Layout]:
    """``chunk`` and ``split`` along a dimension that does not move."""
    layout = call.layout(call.args[0])
    given = call.bound("input", "size", "dim")
    (dim,) = dims_of(given.get("dim", 0), len(layout))
    if not still(layout[dim]):
        raise UnknownError("a map that is cut into pieces")
    call.require_inner([factor for factor in layout[dim] if factor.is_inner])
    return [(*layout[:dim], plain(part.shape[dim]), *layout[dim + 1 :]) for part in call.result]


def unbind(call: Call) -> list[Layout]:
    """A dimension taken apart."""
    layout = call.layout(call.args[0])
    (dim,) = dims_of(call.bound("input", "dim").get("dim", 0), len(layout))
    if not still(layout[dim]):
        raise UnknownError("a map that is cut into pieces")
    call.require_inner([factor for factor in layout[dim] if factor.is_inner])
    return [(*layout[:dim], *layout[dim + 1 :])] * len(call.result)


def narrow(call: Call) -> Layout:
    """``narrow``, ``select`` and ``index_select`` along a dimension that does not move."""
    layout = call.layout(call.args[0])
    (dim,) = dims_of(call.bound("input", "dim")["dim"], len(layout))
    if not still(layout[dim]):
        raise UnknownError("a part of a map")
    call.require_inner([factor for factor in layout[dim] if factor.is_inner])
    kept = () if call.name == "select" else (plain(call.result.shape[dim]),)
    return (*layout[:dim], *kept, *layout[dim + 1 :])


def roll(call: Call) -> Layout:
    """A circular shift by a fixed amount, which any other shift passes through."""
    given = call.bound("input", "shifts", "dims")
    layout = list(call.layout(call.args[0]))
    if has_margin(tuple(layout)) or given.get("dims") is None:
        raise UnknownError("a shift of something that has no axes")
    for dim in dims_of(given["dims"], len(layout)):
        if whole(layout[dim]) is not None:
            continue
        if not still(layout[dim]):
            raise UnknownError("a shift of windows")
        call.require_inner([factor for factor in layout[dim] if factor.is_inner])
        layout[dim] = plain(size_of(layout[dim]))
    return tuple(layout)


def flip(call: Call) -> Layout:
    """Reversed dimensions."""
    layout = list(call.layout(call.args[0]))
    dims = call.args[1] if isinstance(call.args[1], (tuple, list)) else call.args[1:]
    for dim in dims_of(tuple(dims), len(layout)):
        if not still(layout[dim]):
            raise UnknownError("a mirrored map")
        call.require_inner([factor for factor in layout[dim] if factor.is_inner])
        layout[dim] = plain(size_of(layout[dim]))
    return tuple(layout)


def item(call: Call) -> Layout | list[Any] | None:
    """``x[...]``: slices, strides, new axes; or an element of a tuple."""
    source, index = call.args
    known = call.layouts.get(source)
    if isinstance(known, list):
        found: Layout = known[index]
        return found
    if not isinstance(call.result, Tensor):
        return None
    if known is None or not moves(known):
        return _looked_up(call, index)
    layout = list(call.layout(source))
    indices = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(call.value(part), (Tensor, list)) for part in indices):
        return _gathered(call, tuple(layout), indices)
    if not any(part is Ellipsis for part in indices):
        indices.append(Ellipsis)
    taken = sum(part is not None and part is not Ellipsis for part in indices)
    untouched = len(layout) - taken
    result: list[Dimension] = []
    for part in indices:
        if part is None:
            result.append(())
        elif part is Ellipsis:
            result += [layout.pop(0) for _ in range(untouched)]
        else:
            result += _cut(call, layout.pop(0), call.value(part))
    return tuple(result)


def _looked_up(call: Call, index: Any) -> Layout:
    """Rows of a table that does not move, by indices that do."""
    indices = list(index) if isinstance(index, tuple) else [index]
    tensors = [place for place, part in enumerate(indices) if isinstance(part, fx.Node)]
    others = [part for place, part in enumerate(indices) if place not in tensors]
    if len(tensors) != 1 or any(part != slice(None) for part in others):
        raise UnknownError("positions that are looked up")
    (place,) = tensors
    shape = call.result.shape
    found = call.layout(indices[place])
    call.require_layout(found)
    rest = map(plain, shape[place + len(found) :])
    return (*map(plain, shape[:place]), *found, *rest)


def embedding(call: Call) -> Layout:
    """Rows of a table, by indices that may move."""
    layout = call.layout(call.bound("input", "weight")["input"])
    call.require_layout(layout)
    return (*layout, plain(call.result.shape[-1]))


def _cut(call: Call, dimension: Dimension, part: Any) -> list[Dimension]:
    size = size_of(dimension)
    if isinstance(part, slice):
        positions = range(size)[part]
        if len(positions) == size and positions.step == 1:
            return [dimension]
        factor = whole(dimension)
        if factor is not None and not factor.has_margin:
            return [_strided(call, factor, positions)]
    if not still(dimension):
        raise UnknownError("a part of a map")
    call.require_inner([factor for factor in dimension if factor.is_inner])
    return [plain(len(range(size)[part]))] if isinstance(part, slice) else []


def _strided(call: Call, factor: Factor, positions: range) -> Dimension:
    """Every so manieth position, from any start."""
    stride = positions.step
    if stride < 1 or positions.start >= stride or len(positions) * stride != factor.size:
        raise UnknownError("a part of a map")
    call.require(factor, factor.step * stride, f"slices with stride {stride}")
    return (replace(factor, size=len(positions), step=factor.step * stride),)


def taken(call: Call) -> Layout:
    """``take_phase``: every so manieth position, from a start that moves with the content."""
    given = call.bound("x", "phase", "stride")
    batch, channels, *axes = call.layout(given["x"])
    stride = given["stride"]
    strides = stride if isinstance(stride, tuple) else (stride,) * len(axes)
    coarse = []
    for dimension, step in zip(axes, strides, strict=True):
        factor = whole(dimension)
        if factor is None or factor.has_margin or factor.size % step:
            raise UnknownError("a part of a map")
        coarse.append(merged([split(factor, step)[0]]))
    return (batch, channels, *coarse)


def _gathered(call: Call, layout: Layout, indices: list[Any]) -> Layout:
    """One index tensor, along a dimension that does not move."""
    places = [place for place, part in enumerate(indices) if not isinstance(part, slice)]
    if len(places) != 1 or indices[places[0]] is None or indices[places[0]] is Ellipsis:
        raise UnknownError("positions that are looked up")
    (place,) = places
    if any(part != slice(None) for part in indices[:place] + indices[place + 1 :]):
        raise UnknownError("positions that are looked up")
    part = indices[place]
    if not still(layout[place]) or not still(_joined(call.layout(part))):
        raise UnknownError("positions that are looked up")
    call.require_inner([factor for factor in layout[place] if factor.is_inner])
    added = call.result.ndim - len(layout) + 1
    found = [plain(size) for size in call.result.shape[place : place + added]]
    return (*layout[:place], *found, *layout[place + 1 :])


def _joined(layout: Layout) -> Dimension:
    return merged(factor for dimension in layout for factor in dimension)


def space_to_depth(call: Call) -> Layout:
    """``pixel_unshuffle``: every cell of a map becomes one pixel with more channels."""
    batch, channels, *axes = call.layout(call.args[0])
    cell = call.bound("input", "downscale_factor")["downscale_factor"]
    if not still(channels):
        raise UnknownError("channels that move")
    coarse: list[Dimension] = []
    for dimension in axes:
        factor = whole(dimension)
        if factor is None or factor.has_margin or factor.size % cell:
            raise UnknownError("cells that do not divide the map")
        call.require(factor, factor.step * cell, f"cells of {cell} pixels")
        coarse.append((split(factor, cell)[0],))
    return (batch, plain(call.result.shape[1]), *coarse)


def depth_to_space(call: Call) -> Layout:
    """``pixel_shuffle``: channels become the pixels of a finer map."""
    batch, channels, *axes = call.layout(call.args[0])
    if not still(channels):
        raise UnknownError("channels that move")
    times = call.bound("input", "upscale_factor")["upscale_factor"]
    fine: list[Dimension] = []
    for dimension in axes:
        factor = whole(dimension)
        if factor is None or factor.has_margin:
            raise UnknownError("windows of which each becomes a map")
        fine.append((replace(factor, size=factor.size * times, step=factor.step / times),))
    return (batch, plain(call.result.shape[1]), *fine)


def shuffle(call: Call) -> Layout:
    """``channel_shuffle``."""
    layout = call.layout(call.args[0])
    if not still(layout[1]):
        raise UnknownError("channels that move")
    return layout
