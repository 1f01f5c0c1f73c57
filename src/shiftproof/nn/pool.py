"""Max pooling with a named padding mode."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.strided import align_and_pad
from shiftproof.ops.padding import PaddingMode, check_padding_mode
from shiftproof.ops.phases import check_floats, per_axis

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class MaxPool2d(nn.Module):
    """Max pooling whose border may wrap around, which ``torch.nn.MaxPool2d`` does not offer.

    Args:
        kernel_size: Side of the window, in pixels, one for both axes or one per axis.
        stride: Sampling stride, in pixels, likewise; the side of the window if None.
        padding: Pixels to add on every side; or before the first and after the last,
            ``(before, after)``, the same on both axes, which is not torch's pair.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"reflect"``; ``"zeros"`` pads with zeros,
            which after a ReLU equals torch's padding with minus infinity.
        dilation: Distance between the pixels of a window, one for both axes or one per axis.

    Raises:
        ValueError: If the padding mode is unknown, a size is below 1, or there are more than two.
        TypeError: If a size is not an integer.

    Equivariance:
        Exact (bitwise) under circular shifts with circular padding and stride 1; with a stride,
        given a phase that moves with the map.  Checked by ``tests/nn/test_layers.py``.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = (0, 0),
        padding_mode: PaddingMode = "circular",
        dilation: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_padding_mode(name, padding_mode)
        self.padding = per_axis(name, padding, 2, "padding", least=None)
        self.padding_mode = padding_mode
        sides = per_axis(name, kernel_size, 2, "kernel_size")
        steps = sides if stride is None else per_axis(name, stride, 2)
        self.pool = nn.MaxPool2d(sides, steps, 0, per_axis(name, dilation, 2, "dilation"))

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """Pool a map.

        Args:
            x: Feature map, ``(N, C, H, W)``; or, without a phase, ``(C, H, W)``.
            phase: Component that the stride samples, ``(N,)`` integers; the one at the origin if
                None.

        Returns:
            The pooled map.

        Raises:
            ValueError: If a phase is given and the stride does not divide the height and the width.
            TypeError: If the map holds truth values, complex numbers or floats of 8 bits.
        """
        check_floats(type(self).__name__, x, _INTEGERS)
        before, after = self.padding
        padded = align_and_pad(
            x, phase, self.pool.stride, (before,) * 2, (after,) * 2, self.padding_mode
        )
        pooled: Tensor = self.pool(padded)
        return pooled

    def extra_repr(self) -> str:
        """Show the padding."""
        return f"padding={self.padding}, padding_mode={self.padding_mode!r}"


class GlobalMean(nn.Module):
    """Mean of each channel over all pixels, the same bit for bit under every circular shift.

    Stands where other networks have ``torch.nn.AdaptiveAvgPool2d(1)`` and ``flatten``; for maps of
    1, 2 or 3 spatial axes.

    Equivariance:
        Invariant, exact (bitwise), under circular shifts, see ``ops.global_mean``.  Checked by
        ``tests/ops/test_pooling.py``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average a map.

        Args:
            x: Feature map, ``(N, C, *spatial)``.

        Returns:
            The means, ``(N, C)``.

        Raises:
            ValueError: If the input is not a batch of 1-D, 2-D or 3-D maps.
        """
        return ops.global_mean(x)
