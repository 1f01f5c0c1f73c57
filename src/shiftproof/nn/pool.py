"""Max pooling with a named padding mode."""

from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.strided import align_and_pad
from shiftproof.ops.padding import PaddingMode, check_padding_mode


class MaxPool2d(nn.Module):
    """Max pooling whose border may wrap around, which ``torch.nn.MaxPool2d`` does not offer.

    Args:
        kernel_size: Side of the window, in pixels.
        stride: Sampling stride, in pixels; the side of the window if None.
        padding: Pixels to add before the first and after the last, ``(before, after)``, the same on
            both axes.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"reflect"``; ``"zeros"`` pads with zeros,
            which after a ReLU equals torch's padding with minus infinity.

    Raises:
        ValueError: If the padding mode is unknown.

    Equivariance:
        Exact (bitwise) under circular shifts with circular padding and stride 1; with a stride,
        given a phase that moves with the map.  Checked by ``tests/nn/test_layers.py``.
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: tuple[int, int] = (0, 0),
        padding_mode: PaddingMode = "circular",
    ) -> None:
        super().__init__()
        check_padding_mode(type(self).__name__, padding_mode)
        self.padding = padding
        self.padding_mode = padding_mode
        self.pool = nn.MaxPool2d(kernel_size, stride)

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """Pool a map.

        Args:
            x: Feature map, ``(N, C, H, W)``.
            phase: Component that the stride samples, ``(N,)`` integers; the one at the origin if
                None.

        Returns:
            The pooled map.

        Raises:
            ValueError: If a phase is given and the stride does not divide the height and the width.
        """
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
