"""Which outputs are maps."""

import math
from collections.abc import Sequence


def map_dims(shape: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...] | None:
    """Dimensions of an output that are the axes of the input.

    Args:
        shape: Shape of a tensor that a network returned.
        sizes: Spatial sizes of the network's input.

    Returns:
        The last dimensions if the output is ``(N, C, *spatial)`` with more than one pixel or, in
        2-D and 3-D, ``(N, *spatial)`` of the input's size; else None.
    """
    count = len(sizes)
    if len(shape) == count + 2 and math.prod(shape[2:]) > 1:
        return tuple(range(2, 2 + count))
    if count > 1 and tuple(shape[1:]) == tuple(sizes):
        return tuple(range(1, 1 + count))
    return None
