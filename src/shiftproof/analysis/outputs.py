"""Which outputs are maps."""

import math
from collections.abc import Sequence


def map_dims(
    shape: Sequence[int], sizes: Sequence[int], dims: Sequence[int] = ()
) -> tuple[int, ...] | None:
    """Dimensions of an output that are the axes of the input.

    Args:
        shape: Shape of a tensor that a network returned.
        sizes: Spatial sizes of the network's input.
        dims: Its spatial axes, where they are not the last behind the channels.

    Returns:
        The last dimensions if the output is ``(N, C, *spatial)`` with more than one pixel or, in
        2-D and 3-D, ``(N, *spatial)`` of the input's size; else None.  An output with as many
        dimensions as an input of another form has them where that has.
    """
    count = len(sizes)
    if dims and tuple(dims) != tuple(range(2, 2 + count)):
        found = [shape[dim] for dim in dims] if len(shape) > max(dims) else []
        return tuple(dims) if found and math.prod(found) > 1 else None
    if len(shape) == count + 2 and math.prod(shape[2:]) > 1:
        return tuple(range(2, 2 + count))
    if count > 1 and tuple(shape[1:]) == tuple(sizes):
        return tuple(range(1, 1 + count))
    return None
