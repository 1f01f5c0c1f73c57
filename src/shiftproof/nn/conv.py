"""Convolution with circular padding at the price of ordinary padding."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.strided import align_and_pad
from shiftproof.ops.padding import PaddingMode


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` whose circular padding has a cheap backward pass.

    Arguments, parameters and results are torch's.  Only padding modes ``"zeros"``, ``"circular"``
    and ``"reflect"`` are offered, and paddings in pixels.  Given a phase, the stride samples the
    component of the input that lies there:
    ``conv(x, phase)`` is ``conv(ops.align_phase(x, phase, conv.stride))``, with the alignment and
    the padding in one copy.

    The default padding mode is torch's, ``"zeros"``, because the layer stands where a
    ``torch.nn.Conv2d`` stood; layers that torch does not have pad circularly by default.

    Raises:
        ValueError: If the padding mode is another, when the layer is called.

    Equivariance:
        Under circular shifts with circular padding and stride 1: to rounding, and on CPU in float32
        exact (bitwise) at the sizes tested; with a stride, given a phase that moves with the map.
        Checked by ``tests/nn/test_conv.py``.
    """

    def forward(self, input: Tensor, phase: Tensor | None = None) -> Tensor:  # noqa: A002
        """Convolve a map.

        Args:
            input: Feature map, ``(N, in_channels, H, W)``.
            phase: Component that the stride samples, ``(N,)`` integers; the one at the origin if
                None.

        Returns:
            Feature map, ``(N, out_channels, H', W')``.

        Raises:
            ValueError: If the padding mode is not ``"zeros"``, ``"circular"`` or ``"reflect"``; or
                a phase is given and the stride does not divide the height and the width.
        """
        if phase is not None and self.kernel_size == (1, 1) and self.padding == (0, 0):
            kept = ops.take_phase(input, phase, self.stride)
            return F.conv2d(kept, self.weight, self.bias, groups=self.groups)
        if phase is None and self.padding_mode == "zeros":
            return super().forward(input)
        border = [int(width) for width in self.padding]
        mode = cast(PaddingMode, self.padding_mode)
        padded = align_and_pad(input, phase, self.stride, border, border, mode)
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
