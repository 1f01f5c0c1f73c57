"""Layers that put a component back where it was taken from."""

from collections.abc import Sequence

from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.strided import StridedModule, check_part


class _PolyphaseUpsample(StridedModule):
    def __init__(self, stride: int | Sequence[int] = 2, lowpass: nn.Module | None = None) -> None:
        super().__init__(stride)
        check_part(self, "lowpass", lowpass)
        self.lowpass = nn.Identity() if lowpass is None else lowpass

    def forward(self, y: Tensor, phase: Tensor) -> Tensor:
        """Place each sample at its phase in a larger map of zeros, and filter.

        Args:
            y: Components, ``(N, C, *spatial)``.
            phase: Phase of each, ``(N,)`` integers, as the downsampling of this level chose it.

        Returns:
            The larger map, ``(N, C, *(spatial * S))``.

        Raises:
            ValueError: If the input has another number of axes, or there is not one phase per
                sample.
            TypeError: If the phases are not integers.
        """
        upsampled: Tensor = self.lowpass(ops.place_phase(y, phase, self.stride))
        return upsampled


class PolyphaseUpsample1d(_PolyphaseUpsample):
    """Upsampling to 1-D maps, ``(N, C, L)``; otherwise as ``PolyphaseUpsample2d``."""

    num_dims = 1


class PolyphaseUpsample2d(_PolyphaseUpsample):
    """Adaptive polyphase upsampling: put a component back on the grid it was taken from.

    Args:
        stride: Upsampling stride in pixels.
        lowpass: Module applied to the placed map, for instance ``LowPass2d(3)``; none if None.

    Raises:
        ValueError: If a stride is below 1, or there is not one per axis.

    Equivariance:
        Exact (bitwise): downsampling, any equivariant layers and this with the phase chosen there
        move together with the input.  Checked by ``tests/nn/test_layers.py``.

    References:
        A. Chaman and I. Dokmanic, "Truly shift-equivariant convolutional neural networks with
        adaptive polyphase upsampling", Asilomar 2021.
    """

    num_dims = 2


class PolyphaseUpsample3d(_PolyphaseUpsample):
    """Upsampling to 3-D maps, ``(N, C, D, H, W)``; otherwise as ``PolyphaseUpsample2d``."""

    num_dims = 3
