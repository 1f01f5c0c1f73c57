"""Which outputs are maps."""

import math
from collections.abc import Sequence


def map_dims(
    shape: Sequence[int], given: Sequence[int], axes: Sequence[int]
) -> tuple[int, ...] | None:
    """Dimensions of an output that are the axes of the input.

    Args:
        shape: Shape of a tensor that a network returned.
        given: Shape of its input.
        axes: The spatial axes of the input.

    Returns:
        The last dimensions if the output is ``(N, C, *spatial)`` with more than one pixel or, in
        2-D and 3-D, ``(N, *spatial)`` of the input's size; else None.  If the input has another
        form, an output with as many dimensions has them where the input has; where there are no
        others, it must be of the input's size.
    """
    count = len(axes)
    if tuple(axes) != tuple(range(2, len(given))):
        is_like = len(shape) == len(given) and (count + 1 < len(given) or shape[1:] == given[1:])
        return tuple(axes) if is_like and math.prod(shape[axis] for axis in axes) > 1 else None
    if len(shape) == count + 2 and math.prod(shape[2:]) > 1:
        return tuple(range(2, 2 + count))
    if count > 1 and tuple(shape[1:]) == tuple(given[2:]):
        return tuple(range(1, 1 + count))
    return None
