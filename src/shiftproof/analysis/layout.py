"""Where the pixels of the input are in a tensor inside a network.

A dimension of a tensor is a product of factors: ``(N, H * W, C)`` has a row factor and a column
factor in its second dimension.  A factor that counts positions on a spatial axis of the input has a
step: the pixels of the input from one position to the next.  When the input is shifted, the
positions of a factor that spans the whole axis move around it; those of one that spans a part of
the axis (the pixels inside a window, while another factor counts the windows) stay, given that the
input was aligned by the length of that part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

BATCH: Literal["batch"] = "batch"
CONSTANT: Literal["constant"] = "constant"
SCORES: Literal["scores"] = "scores"
CHOICE: Literal["choice"] = "choice"

Kind = Literal["batch", "constant", "scores", "choice"]


@dataclass(frozen=True)
class Factor:
    """A factor of a dimension.

    Attributes:
        size: Number of positions.
        axis: Spatial axis of the input; ``"batch"`` for the samples; ``"constant"`` for values that
            are repeated; ``"scores"`` for phases whose scores permute with the components of a map,
            ``"choice"`` for one phase per sample, chosen by such scores; None for anything else.
        step: Pixels of the input per position, on a spatial axis.
        span: Pixels of the input on that axis.
        before: Positions that were padded before the first.
        after: Positions that were padded after the last.
        is_wrapped: Whether what was padded continues on the other side of the map.
        frame: Choices that the map was aligned with already, each with its period in pixels of the
            input: whatever the shift, the content moves by multiples of that period.
    """

    size: int
    axis: int | Kind | None = None
    step: Fraction = Fraction(1)
    span: int = 0
    before: int = 0
    after: int = 0
    is_wrapped: bool = False
    frame: tuple[tuple[int, Fraction], ...] = ()

    @property
    def is_spatial(self) -> bool:
        """Whether it counts positions on a spatial axis."""
        return isinstance(self.axis, int)

    @property
    def length(self) -> Fraction:
        """Pixels of the input that it spans."""
        return self.step * self.size

    @property
    def moves(self) -> bool:
        """Whether a shift of the input moves its positions."""
        count = self.size - self.before - self.after
        return self.is_spatial and count > 1 and self.step * count == self.span

    @property
    def is_inner(self) -> bool:
        """Whether it counts positions inside a part of an axis."""
        return self.is_spatial and self.size > 1 and not self.moves

    @property
    def has_margin(self) -> bool:
        """Whether it was padded, and no window has read the padding yet."""
        return bool(self.before or self.after)

    def is_aligned(self, period: Fraction) -> bool:
        """Whether its content moves by multiples of a period, in pixels of the input."""
        return any((known / period).denominator == 1 for _, known in self.frame)


Dimension = tuple[Factor, ...]
Layout = tuple[Dimension, ...]


def plain(size: int) -> Dimension:
    """A dimension that counts neither samples nor positions.

    Args:
        size: Its size.

    Returns:
        The dimension.
    """
    return (Factor(size),) if size != 1 else ()


def repeated(size: int) -> Dimension:
    """A dimension along which the values are all the same.

    Args:
        size: Its size.

    Returns:
        The dimension.
    """
    return (Factor(size, CONSTANT),) if size != 1 else ()


def plain_layout(shape: Iterable[int]) -> Layout:
    """A tensor that does not depend on where the content of the input is.

    Args:
        shape: Its shape.

    Returns:
        Its layout.
    """
    return tuple(map(plain, shape))


def input_layout(shape: Sequence[int], dims: Sequence[int]) -> Layout:
    """The input of a network.

    Args:
        shape: Its shape, with samples in front.
        dims: Its spatial axes.

    Returns:
        Its layout.
    """
    layout = [(Factor(shape[0], BATCH),), *map(plain, shape[1:])]
    for axis, dim in enumerate(dims):
        layout[dim] = (Factor(shape[dim], axis, span=shape[dim]),)
    return tuple(layout)


def size_of(dimension: Dimension) -> int:
    """Size of a dimension."""
    return math.prod(factor.size for factor in dimension)


def factors(layout: Layout) -> list[Factor]:
    """All factors of a tensor, in order."""
    return [factor for dimension in layout for factor in dimension]


def moves(layout: Layout) -> bool:
    """Whether a shift of the input moves anything in the tensor."""
    return any(factor.moves for factor in factors(layout))


def has_margin(layout: Layout) -> bool:
    """Whether a tensor holds padding that no window has read yet."""
    return any(factor.has_margin for factor in factors(layout))


def still(dimension: Dimension) -> bool:
    """Whether a shift of the input moves nothing along a dimension."""
    return not any(factor.moves for factor in dimension)


def whole(dimension: Dimension) -> Factor | None:
    """The factor of a dimension that is one spatial axis and nothing else, if it is."""
    if len(dimension) == 1 and dimension[0].moves:
        return dimension[0]
    return None


def merged(parts: Iterable[Factor]) -> Dimension:
    """A dimension made of factors, neighbours joined where they continue one another."""
    result: list[Factor] = []
    for factor in parts:
        if factor.size == 1 and not factor.has_margin:
            continue
        last = result[-1] if result else None
        if last is None or last.axis != factor.axis:
            result.append(factor)
        elif factor.axis is None:
            result[-1] = Factor(last.size * factor.size)
        elif (
            factor.is_spatial
            and last.step == factor.length
            and not (last.has_margin or factor.has_margin)
        ):
            result[-1] = replace(factor, size=last.size * factor.size)
        else:
            result.append(factor)
    return tuple(result)


def split(factor: Factor, inner: int) -> tuple[Factor, Factor]:
    """Split a factor in two.

    Args:
        factor: The factor.
        inner: Size of the second part; must divide the factor's.

    Returns:
        The outer and the inner factor.
    """
    outer = replace(factor, size=factor.size // inner, step=factor.step * inner)
    return outer, replace(factor, size=inner)


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The layout after a reshape, in row-major order.

    Args:
        layout: Layout before.
        shape: Shape after.

    Returns:
        The layout, or None where a factor would have to be cut where it cannot be.
    """
    kept = 0
    while kept < min(len(layout), len(shape)) and size_of(layout[-1 - kept]) == shape[-1 - kept]:
        kept += 1
    if kept and has_margin(layout[len(layout) - kept :]):
        front = reshaped(layout[: len(layout) - kept], shape[: len(shape) - kept])
        return None if front is None else (*front, *layout[len(layout) - kept :])
    if has_margin(layout):
        return None
    rest = factors(layout)
    rest.reverse()
    result = []
    for size in shape:
        parts = []
        needed = size
        while needed > 1:
            if not rest:
                return None
            factor = rest.pop()
            if needed % factor.size == 0:
                parts.append(factor)
                needed //= factor.size
            elif factor.size % needed == 0:
                outer, inner = split(factor, factor.size // needed)
                parts.append(outer)
                rest.append(inner)
                needed = 1
            else:
                return None
        result.append(merged(parts))
    return None if rest else tuple(result)


def _refined(first: Dimension, second: Dimension) -> list[tuple[Factor, Factor]] | None:
    """Cut two dimensions of one size into pairs of factors of one size."""
    left, right = list(reversed(first)), list(reversed(second))
    pairs = []
    while left and right:
        a, b = left.pop(), right.pop()
        if a.size != b.size:
            large, small, stack = (a, b, left) if a.size > b.size else (b, a, right)
            if large.size % small.size or large.has_margin:
                return None
            outer, inner = split(large, large.size // small.size)
            stack.append(inner)
            a, b = (outer, b) if stack is left else (a, outer)
        pairs.append((a, b))
    return None if left or right else pairs


def matched(first: Dimension, second: Dimension) -> tuple[Dimension, list[Factor]] | None:
    """What two tensors that are combined position by position have in common along a dimension.

    Args:
        first: A dimension.
        second: Another; a dimension of size 1 goes with every other.

    Returns:
        The dimension of the result, and the inner factors that had to stay in place; None if
        something that moves meets something that does not move with it.
    """
    if not first or not second:
        return first or second, []
    if first == second:
        return first, []
    pairs = _refined(first, second)
    if pairs is None:
        return None
    chosen: list[Factor] = []
    inner = []
    for a, b in pairs:
        if a == b or b.axis == CONSTANT:
            chosen.append(a)
        elif a.axis == CONSTANT:
            chosen.append(b)
        elif {a.axis, b.axis} & {BATCH, CHOICE}:
            if None not in (a.axis, b.axis):
                return None
            chosen.append(a if b.axis is None else b)
        elif not (a.moves or b.moves):
            chosen.append(a if b.axis is None else b if a.axis is None else Factor(a.size))
            inner += [factor for factor in (a, b) if factor.is_inner]
        else:
            return None
    return merged(chosen), inner
