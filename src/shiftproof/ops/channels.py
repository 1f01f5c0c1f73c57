"""How the channels of a map lie in memory, and their sum."""

import torch
from torch import Tensor

_FEW = 8
"""So many channels are faster to sum one after the other, as maps."""

_PARTS = 8
"""Into so many parts channels are cut where squares of all of them would fill a map."""


def has_channels_last(x: Tensor) -> bool:
    """Whether the channels of each pixel lie side by side in memory.

    Args:
        x: Feature map, ``(N, C, *spatial)``.

    Returns:
        True for the channels_last layouts, in any number of spatial dimensions.
    """
    channels = x.shape[1]
    return channels > 1 and x.stride(1) == 1 and x.stride(-1) == channels


def sum_channels(values: Tensor) -> Tensor:
    """Sum over channels in an order that is the same at every pixel.

    In channels_last each pixel is one row, summed by one routine.  In the default format torch sums
    the pixels of a vector register together and the last few of a row otherwise, so channels are
    added there as whole maps, halves onto halves; and so are a few channels in any format.

    Args:
        values: ``(N, C, *spatial)``.

    Returns:
        The sums, ``(N, *spatial)``; bitwise the same at every pixel of the same content.
    """
    count = values.shape[1]
    if count <= _FEW:
        total = values[:, 0]
        for channel in range(1, count):
            total = total + values[:, channel]
        return total
    if has_channels_last(values):
        return values.sum(1)
    while count > 1:
        half = count // 2
        folded = values[:, :half] + values[:, half : 2 * half]
        values = torch.cat([folded, values[:, 2 * half :]], dim=1) if count % 2 else folded
        count = values.shape[1]
    return values[:, 0]


def norm_channels(x: Tensor, order: int) -> Tensor:
    """Norm of the channels of each pixel, in an order that is the same at every pixel.

    Args:
        x: ``(N, C, *spatial)``, float32 or float64.
        order: 1 or 2.

    Returns:
        The norms to the power of ``order``, ``(N, *spatial)``; bitwise the same at every pixel of
        the same content.
    """
    if has_channels_last(x) and x.shape[1] > _FEW:
        # Reads the map once and writes no map of squares.
        norm: Tensor = torch.linalg.vector_norm(x, order, dim=1)
        return norm * norm if order == 2 else norm
    # Part by part, so that only the map itself is read from beyond the caches.
    first, *others = torch.split(x, max(-(-x.shape[1] // _PARTS), _FEW), dim=1)
    total = _powers(first, order)
    for part in others:
        total[:, : part.shape[1]] += _powers(part, order)
    return sum_channels(total)


def _powers(x: Tensor, order: int) -> Tensor:
    return x * x if order == 2 else x.abs()
