"""How the channels of a map lie in memory, and their sum."""

import torch
from torch import Tensor


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
    added there as whole maps, halves onto halves.

    Args:
        values: ``(N, C, *spatial)``.

    Returns:
        The sums, ``(N, *spatial)``; bitwise the same at every pixel of the same content.
    """
    if has_channels_last(values):
        return values.sum(1)
    while values.shape[1] > 1:
        half = (values.shape[1] + 1) // 2
        low, high = values[:, :half], values[:, half:]
        if low.shape[1] > high.shape[1]:
            values = torch.cat([low[:, : half - 1] + high, low[:, half - 1 :]], dim=1)
        else:
            values = low + high
    return values[:, 0]
