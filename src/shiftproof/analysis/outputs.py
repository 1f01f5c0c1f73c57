"""How tensors hold maps: by what is known of their positions, or else by their shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from shiftproof.analysis.layout import BATCH, Factor, Layout, moves, still, whole

Dims = tuple[int, ...]


@dataclass(frozen=True)
class MapForm:
    """How a tensor holds a map.

    Attributes:
        dims: Dimension of each spatial axis; one dimension if they are flattened into it.
        sizes: Size of each axis.
        steps: Pixels of the input per position of each axis.
    """

    dims: Dims
    sizes: tuple[int, ...]
    steps: tuple[Fraction, ...]


def map_form(layout: Layout | None, num_axes: int) -> MapForm | None:
    """How a tensor holds a map with samples in front, if that is what it is.

    Args:
        layout: Its layout.
        num_axes: Number of spatial axes of the input.

    Returns:
        The form, or None.
    """
    if layout is None or len(layout) < 2 or [f.axis for f in layout[0]] != [BATCH]:
        return None
    found = [
        (dim, factor) for dim, part in enumerate(layout) for factor in part if factor.is_spatial
    ]
    moving = [factor for _, factor in found if factor.moves and not factor.has_margin]
    if len(found) != num_axes or len(moving) != num_axes:
        return None
    found.sort(key=lambda pair: int(pair[1].axis or 0))
    if [factor.axis for _, factor in found] != list(range(num_axes)):
        return None
    dims = tuple(dim for dim, _ in found)
    sizes = tuple(factor.size for _, factor in found)
    steps = tuple(factor.step for _, factor in found)
    if all(len(layout[dim]) == 1 for dim in dims):
        return MapForm(dims, sizes, steps)
    if len(set(dims)) == 1 and layout[dims[0]] == tuple(factor for _, factor in found):
        return MapForm(dims[:1], sizes, steps)
    return None


def output_form(layout: Layout | None, sizes: Sequence[int]) -> MapForm | None:
    """How an output holds a map that can be moved: one dimension for each axis.

    Args:
        layout: Its layout.
        sizes: Spatial sizes of the input.

    Returns:
        The form, which may have come down to one position along some axes of ``(N, C, *spatial)``;
        or None.
    """
    form = map_form(layout, len(sizes))
    if form is not None or layout is None:
        return form if form is not None and len(form.dims) == len(sizes) else None
    if len(layout) != 2 + len(sizes) or not still(layout[1]):
        return None
    found = [
        (whole(part) if part else Factor(1, axis, step=Fraction(sizes[axis])))
        for axis, part in enumerate(layout[2:])
    ]
    axes = [factor for factor in found if factor is not None and not factor.has_margin]
    if [factor.axis for factor in axes] != list(range(len(sizes))) or not moves(layout):
        return None
    dims = tuple(range(2, len(layout)))
    return MapForm(dims, tuple(f.size for f in axes), tuple(f.step for f in axes))


def steps_of(shape: Sequence[int], dims: Dims, sizes: Sequence[int]) -> tuple[Fraction, ...]:
    """Pixels of the input per position of a map, per axis; its full size where there is one."""
    return tuple(Fraction(size, shape[dim]) for dim, size in zip(dims, sizes, strict=True))


def readings(shape: Sequence[int], given: Sequence[int], axes: Sequence[int]) -> tuple[Dims, ...]:
    """Ways to read an output by its shape, where nothing is known of its positions.

    Args:
        shape: Shape of a tensor that a network returned, with samples in front.
        given: Shape of its input.
        axes: The spatial axes of the input.

    Returns:
        Dimensions of the spatial axes, for each way to read it as a map, the likeliest first; with
        ``()`` among them where it may be none.  It is a map if it is ``(N, C, *spatial)`` with
        more than one pixel, and each of its sizes a whole part or a multiple of the input's; if it
        is ``(N, *spatial, C)`` and all are the same part; and in 2-D and 3-D if it is
        ``(N, *spatial)`` of the input's size.  It may be one or not if it is ``(N, C, *spatial)``
        of other sizes, or any ``spatial`` axes of it are the same part.  If the input has another
        form, an output is a map if it has axes of the input's size, where the input has them or
        beside one another; axes that are parts of it may be a map or not.
    """
    count, sizes = len(axes), tuple(given[axis] for axis in axes)
    windows = [tuple(range(d, d + count)) for d in range(len(shape) - count, 0, -1)]
    alike = [dims for dims in windows if count > 1 and _parts(shape, dims, sizes) == 1]
    if tuple(axes) != tuple(range(2, len(given))):
        same = [tuple(axes)] * (len(shape) == len(given))
        exact = [d for d in (*same, *alike) if tuple(shape[dim] for dim in d) == sizes]
        parts = [dims for dims in same if _parts(shape, dims, sizes)]
        return tuple(dict.fromkeys(exact or (*parts, *alike, ())))
    if count == 1:
        alike = [dims for dims in windows if _parts(shape, dims, sizes)]
    if len(shape) == count + 2:
        last = windows[0]
        if math.prod(shape[2:]) == 1:
            return ((),)
        if count == 1 or not (alike or _parts(shape, last, sizes)):
            return tuple(dict.fromkeys((last, *alike, *((),) * (last not in alike))))
        return tuple(dict.fromkeys((*alike, *(last,) * bool(_parts(shape, last, sizes)))))
    if len(shape) == count + 1 and count > 1 and tuple(shape[1:]) == sizes:
        return tuple(windows)
    return (*alike, ()) if count > 1 else ((),)


def _parts(shape: Sequence[int], dims: Dims, sizes: Sequence[int]) -> int:
    """How many ratios there are of the input's sizes to a map's; 0 if one is no whole number."""
    steps = {s for d, s in zip(dims, steps_of(shape, dims, sizes), strict=True) if shape[d] > 1}
    return len(steps) if all(1 in (s.numerator, s.denominator) for s in steps) else 0
