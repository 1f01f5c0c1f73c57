"""``x[...]``, lookups and selections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shiftproof.analysis.calls import Call, replaced, rule
from shiftproof.analysis.errors import UnknownError
from shiftproof.analysis.graph import Value
from shiftproof.analysis.layout import (
    Dimension,
    Factor,
    Layout,
    factors,
    moves,
    plain,
    size_of,
    still,
    whole,
)

CUT = "slicing cuts the map at a fixed place"
LOOKED_UP = "positions that are looked up"


@rule("narrow", "input dim start length")
@rule("select", "input dim index")
@rule("index_select", "input dim index")
def narrow(call: Call) -> Layout:
    """A part of a dimension that does not move."""
    layout = call.source
    (dim,) = call.dims("dim", layout)
    call.require_free(layout[dim], CUT)
    index = call.given.get("index")
    if isinstance(index, Value) and moves(call.layout(index)):
        raise UnknownError(LOOKED_UP)
    return replaced(layout, dim, *([] if call.name == "select" else [plain(call.shape[dim])]))


@rule("getitem", "input index")
def item(call: Call) -> Layout:
    """``x[...]``: slices, strides, new axes, lookups."""
    index = call.given["index"]
    indices = list(index) if isinstance(index, tuple) else [index]
    layout = call.source
    if not moves(layout):
        return _looked_up(call, indices)
    if any(isinstance(part, (Value, list)) for part in indices):
        return _gathered(call, layout, indices)
    if not any(part is Ellipsis for part in indices):
        indices.append(Ellipsis)
    rest = list(layout)
    untouched = len(layout) - sum(part is not None and part is not Ellipsis for part in indices)
    result: list[Dimension] = []
    for part in indices:
        if part is None:
            result.append(())
        elif part is Ellipsis:
            result += [rest.pop(0) for _ in range(untouched)]
        else:
            result += _cut(call, rest.pop(0), part)
    return tuple(result)


def _looked_up(call: Call, indices: list[Any]) -> Layout:
    """Rows of a table that does not move, by indices that do."""
    tensors = [place for place, part in enumerate(indices) if isinstance(part, Value)]
    others = [part for place, part in enumerate(indices) if place not in tensors]
    if len(tensors) != 1 or any(part != slice(None) for part in others):
        raise UnknownError(LOOKED_UP)
    (place,) = tensors
    found = call.layout(indices[place])
    call.require_layout(found)
    rest = map(plain, call.shape[place + len(found) :])
    return (*map(plain, call.shape[:place]), *found, *rest)


@rule("embedding", "weight input padding_idx max_norm norm_type scale_grad_by_freq sparse")
def embedding(call: Call) -> Layout:
    """Rows of a table, by indices that may move."""
    given = [call.layout(call.given[name]) for name in ("weight", "input")]
    layout = next((found for found in given if moves(found)), given[0])
    call.require_layout(layout)
    return (*layout, plain(call.shape[-1]))


def _cut(call: Call, dimension: Dimension, part: Any) -> list[Dimension]:
    size = size_of(dimension)
    if isinstance(part, slice):
        positions = range(size)[part]
        if len(positions) == size and positions.step == 1:
            return [dimension]
        factor = whole(dimension)
        if factor is not None and not factor.has_margin:
            return [_strided(call, factor, positions)]
    call.require_free(dimension, CUT)
    return [plain(len(range(size)[part]))] if isinstance(part, slice) else []


def _strided(call: Call, factor: Factor, positions: range) -> Dimension:
    """Every ``stride``-th position, from any start below the stride."""
    stride = positions.step
    if stride < 2 or positions.start >= stride or len(positions) * stride != factor.size:
        raise UnknownError(CUT)
    reason = f"slicing with stride {stride} keeps phase 0 whatever the content"
    call.require(factor, factor.step * stride, reason)
    return (replace(factor, size=len(positions), step=factor.step * stride),)


def _gathered(call: Call, layout: Layout, indices: list[Any]) -> Layout:
    """One index tensor, along a dimension that does not move."""
    places = [place for place, part in enumerate(indices) if not isinstance(part, slice)]
    if len(places) != 1 or indices[places[0]] is None or indices[places[0]] is Ellipsis:
        raise UnknownError(LOOKED_UP)
    (place,) = places
    if any(part != slice(None) for part in indices[:place] + indices[place + 1 :]):
        raise UnknownError(LOOKED_UP)
    found = call.layout(indices[place])
    if not all(map(still, found)):
        raise UnknownError(LOOKED_UP)
    call.require_free(layout[place], LOOKED_UP)
    if any(factor.axis == "batch" for factor in factors(found)):
        raise UnknownError(LOOKED_UP)
    added = len(call.shape) - len(layout) + 1
    return replaced(layout, place, *map(plain, call.shape[place : place + added]))
