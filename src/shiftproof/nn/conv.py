"""Convolution with circular padding at the price of ordinary padding."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.strided import align_and_pad
from shiftproof.ops.padding import PaddingMode
from shiftproof.ops.phases import per_axis


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` whose circular padding has a cheap backward pass.

    Arguments, parameters and results are torch's.  Only padding modes ``"zeros"``, ``"circular"``
    and ``"reflect"`` are offered.  Given a phase, the stride samples the
    component of the input that lies there:
    ``conv(x, phase)`` is ``conv(ops.align_phase(x, phase, conv.stride))``, with the alignment and
    the padding in one copy.

    The default padding mode is torch's, ``"zeros"``, because the layer stands where a
    ``torch.nn.Conv2d`` stood; layers that torch does not have pad circularly by default.

    Raises:
        ValueError: If the padding mode is another, when the layer is called; or a size is below 1.
        TypeError: If a size is not an integer.

    Equivariance:
        Under circular shifts with circular padding and stride 1: to rounding, and on CPU in float32
        exact (bitwise) at the sizes tested; with a stride, given a phase that moves with the map.
        Checked by ``tests/nn/test_conv.py``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            in_channels,
            out_channels,
            per_axis(name, kernel_size, 2, "kernel_size"),  # type: ignore[arg-type]
            per_axis(name, stride, 2),  # type: ignore[arg-type]
            padding
            if isinstance(padding, str)
            else per_axis(name, padding, 2, "padding", least=None),  # type: ignore[arg-type]
            per_axis(name, dilation, 2, "dilation"),  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )

    def _border(self) -> tuple[list[int], list[int]]:
        """Pixels before the first and after the last, per axis."""
        if not isinstance(self.padding, str):
            widths = [int(width) for width in self.padding]
            return widths, widths
        reach = [
            step * (size - 1) if self.padding == "same" else 0
            for step, size in zip(self.dilation, self.kernel_size, strict=True)
        ]
        return [total // 2 for total in reach], [total - total // 2 for total in reach]

    def forward(self, input: Tensor, phase: Tensor | None = None) -> Tensor:  # noqa: A002
        """Convolve a map.

        Args:
            input: Feature map, ``(N, in_channels, H, W)``; or, without a phase,
                ``(in_channels, H, W)``.
            phase: Component that the stride samples, ``(N,)`` integers; the one at the origin if
                None.

        Returns:
            Feature map, ``(N, out_channels, H', W')``.

        Raises:
            ValueError: If the padding mode is not ``"zeros"``, ``"circular"`` or ``"reflect"``; or
                a phase is given and the stride does not divide the height and the width.
            TypeError: If the map is quantised.
        """
        if getattr(input, "is_quantized", False) is True:  # a symbol of torch.fx does not know
            raise TypeError(
                f"Conv2d: the map must hold floating-point numbers, got {input.dtype}; quantise "
                "with torch's quantize_fx, which makes a quantised convolution of this layer"
            )
        if phase is not None and self.kernel_size == (1, 1) and self.padding == (0, 0):
            kept, stride = ops.take_phase(input, phase, self.stride), (1, 1)
        elif phase is None and self.padding_mode == "zeros":
            return super().forward(input)
        else:
            before, after = self._border()
            mode = cast(PaddingMode, self.padding_mode)
            kept = align_and_pad(input, phase, self.stride, before, after, mode)
            stride = cast(tuple[int, int], self.stride)
        widths = (0, 0)  # all as torch writes it: quantisation copies it from the traced graph
        return F.conv2d(kept, self.weight, self.bias, stride, widths, self.dilation, self.groups)
