"""Anti-aliasing: binomial low-pass layers, alone and with a stride."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.strided import StridedModule
from shiftproof.ops.overrides import may_read_values
from shiftproof.ops.padding import PaddingMode, check_padding_mode
from shiftproof.ops.phases import integers


class _Filter(nn.Module):
    """A layer with a binomial kernel, which no checkpoint holds: it must never be without values.

    On the meta device it stays on the CPU; where ``to_empty`` gives it new memory, it is filled.
    """

    num_dims: ClassVar[int]
    kernel: Tensor

    def _set_up(self, kernel_size: int, padding_mode: PaddingMode) -> None:
        check_padding_mode(type(self).__name__, padding_mode)
        (self.kernel_size,) = integers(type(self).__name__, "kernel_size", [kernel_size], 1)
        self.padding_mode = padding_mode
        kernel = ops.binomial_kernel(kernel_size, self.num_dims)
        if kernel.is_meta:
            with torch.device("cpu"):
                kernel = ops.binomial_kernel(kernel_size, self.num_dims, dtype=kernel.dtype)
        self.register_buffer("kernel", kernel, persistent=False)

    def reset_parameters(self) -> None:
        """Fill the kernel, as frameworks ask of layers that were built without memory."""
        kernel = ops.binomial_kernel(self.kernel_size, self.num_dims, dtype=self.kernel.dtype)
        with torch.no_grad():
            self.kernel.copy_(kernel)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Filter":
        before = self.kernel
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.kernel
        if after.is_meta:
            self.kernel = before
        elif after is not before:
            # A kernel that somebody put in its place moves like any other buffer.
            known = may_read_values(before) and may_read_values(after)
            if not known or not torch.equal(after, before.to(after)):
                self.reset_parameters()
        return self


class _LowPass(_Filter):
    def __init__(self, kernel_size: int, padding_mode: PaddingMode = "circular") -> None:
        super().__init__()
        self._set_up(kernel_size, padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Filter a map.

        Args:
            x: Feature map, ``(N, C, *spatial)``.

        Returns:
            The filtered map, of the same shape.

        Raises:
            ValueError: If the input has another number of axes.
        """
        if self.kernel_size == 1:
            return x
        return ops.lowpass(x, self.kernel, self.padding_mode)

    def extra_repr(self) -> str:
        """Show the size and the padding."""
        return f"kernel_size={self.kernel_size}, padding_mode={self.padding_mode!r}"


class LowPass1d(_LowPass):
    """Binomial low-pass filter of 1-D maps, ``(N, C, L)``; otherwise as ``LowPass2d``."""

    num_dims = 1


class LowPass2d(_LowPass):
    """Binomial low-pass filter of each channel of 2-D maps; the size of the map stays.

    Args:
        kernel_size: Taps per axis; 1 does not filter.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"reflect"``.

    Raises:
        ValueError: If the kernel size is below 1 or the padding mode unknown.

    Equivariance:
        To rounding under circular shifts with circular padding, none with the others; see
        ``ops.lowpass``.  Checked by ``tests/nn/test_layers.py``.

    References:
        R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019, section 3.2.

    Examples:
        >>> import torch
        >>> LowPass2d(3)(torch.ones(1, 2, 4, 6)).shape
        torch.Size([1, 2, 4, 6])
    """

    num_dims = 2


class LowPass3d(_LowPass):
    """Binomial low-pass filter of 3-D maps, ``(N, C, D, H, W)``; otherwise as ``LowPass2d``."""

    num_dims = 3


class _BlurPool(_Filter, StridedModule):
    def __init__(
        self,
        kernel_size: int = 3,
        stride: int | Sequence[int] = 2,
        padding_mode: PaddingMode = "circular",
    ) -> None:
        super().__init__(stride)
        self._set_up(kernel_size, padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Filter a map and keep every ``stride``-th pixel, from the origin.

        Args:
            x: Feature map, ``(N, C, *spatial)``.

        Returns:
            The smaller map, ``(N, C, *ceil(spatial / stride))``.

        Raises:
            ValueError: If the input has another number of axes.
        """
        return ops.lowpass(x, self.kernel, self.padding_mode, self.stride)

    def extra_repr(self) -> str:
        """Show the size, the stride and the padding."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding_mode={self.padding_mode!r}"
        )


class BlurPool1d(_BlurPool):
    """Low-pass filter and stride for 1-D maps, ``(N, C, L)``; otherwise as ``BlurPool2d``."""

    num_dims = 1


class BlurPool2d(_BlurPool):
    """Low-pass filter and ordinary stride in one pass: the anti-aliased baseline.

    ``BlurPool2d(k, S)(x) == LowPass2d(k)(x)[..., ::S, ::S]``, to rounding.

    Args:
        kernel_size: Taps of the binomial filter per axis; 1 does not filter.
        stride: Sampling stride in pixels.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"reflect"``.

    Raises:
        ValueError: If the kernel size or a stride is below 1, or the padding mode unknown.

    Equivariance:
        Approximate: less aliasing, the same fixed grid.  Checked, as a control, by
        ``tests/nn/test_layers.py``.

    References:
        R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019.
    """

    num_dims = 2


class BlurPool3d(_BlurPool):
    """Low-pass filter and stride for 3-D maps, ``(N, C, D, H, W)``; otherwise as ``BlurPool2d``."""

    num_dims = 3
