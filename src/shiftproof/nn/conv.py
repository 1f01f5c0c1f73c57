"""Convolution with circular padding at the price of ordinary padding."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.ops.padding import PaddingMode


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` whose circular padding has a cheap backward pass.

    Arguments, parameters and results are torch's.  Only padding modes ``"zeros"``, ``"circular"``
    and ``"reflect"`` are offered, and paddings in pixels.

    Raises:
        ValueError: If the padding mode is another, when the layer is called.

    Equivariance:
        Under circular shifts with circular padding and stride 1: to rounding, and on CPU in float32
        exact (bitwise) at the sizes tested; with a stride, behind an ``AlignPhase2d``.  Checked by
        ``tests/nn/test_conv.py``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve a map.

        Args:
            x: Feature map, ``(N, in_channels, H, W)``.

        Returns:
            Feature map, ``(N, out_channels, H', W')``.

        Raises:
            ValueError: If the padding mode is not ``"zeros"``, ``"circular"`` or ``"reflect"``.
        """
        if self.padding_mode == "zeros":
            return super().forward(x)
        border = [int(width) for width in self.padding]
        mode = cast(PaddingMode, self.padding_mode)
        padded = ops.pad(x, border, border, mode)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
