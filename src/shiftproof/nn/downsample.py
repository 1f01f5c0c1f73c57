"""Layers that choose a phase, keep it, or align the map with it."""

from collections.abc import Sequence

from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.selectors import LargestNorm
from shiftproof.nn.strided import StridedModule, check_part


class _SelectPhase(StridedModule):
    def __init__(self, stride: int | Sequence[int] = 2, selector: nn.Module | None = None) -> None:
        super().__init__(stride)
        check_part(self, "selector", selector)
        self.selector = LargestNorm() if selector is None else selector

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Choose one phase per sample.

        Args:
            x: Feature map to be scored, ``(N, C, *spatial)``.
            others: Further maps of this spatial size that the phase will be applied to; they count
                where components of ``x`` tie.

        Returns:
            Phases, ``(N,)`` int64, row-major.

        Raises:
            ValueError: If the input has another number of axes, or a spatial size is not a
                multiple of its stride.
        """
        return ops.select_phase((x, *others), self.stride, self.selector(x, self.stride))


class SelectPhase1d(_SelectPhase):
    """Choose a phase of 1-D maps, ``(N, C, L)``; otherwise as ``SelectPhase2d``."""

    num_dims = 1


class SelectPhase2d(_SelectPhase):
    """Choose one polyphase component of each sample by its content.

    Args:
        stride: Sampling stride in pixels.
        selector: Module that scores the phases, ``(x, stride) -> (N, P)``; ``LargestNorm(2)`` if
            None.

    Raises:
        ValueError: If a stride is below 1, or there is not one per axis.

    Equivariance:
        Exact (bitwise): a circular shift ``d`` turns the choice ``p`` into ``(p + d) mod S``, or
        into a phase that cannot be told from it, see ``ops.select_phase``.
        Checked by ``tests/nn/test_layers.py``.

    References:
        A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021,
        section 3.1.
    """

    num_dims = 2


class SelectPhase3d(_SelectPhase):
    """Choose a phase of 3-D maps, ``(N, C, D, H, W)``; otherwise as ``SelectPhase2d``."""

    num_dims = 3


class _PolyphaseDownsample(StridedModule):
    select_type: type[_SelectPhase]

    def __init__(
        self,
        stride: int | Sequence[int] = 2,
        selector: nn.Module | None = None,
        lowpass: nn.Module | None = None,
    ) -> None:
        super().__init__(stride)
        check_part(self, "lowpass", lowpass)
        self.lowpass = nn.Identity() if lowpass is None else lowpass
        self.select = self.select_type(stride, selector)

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """Filter a map and keep one component of each sample.

        Args:
            x: Feature map, ``(N, C, *spatial)``.
            phase: Component to keep, ``(N,)`` integers; chosen on the filtered map if None.

        Returns:
            The kept components, ``(N, C, *(spatial / S))``.

        Raises:
            ValueError: If the input has another number of axes, or a spatial size is not a
                multiple of its stride.
        """
        x = self.lowpass(x)
        if phase is None:
            phase = self.select(x)
        return ops.take_phase(x, phase, self.stride)


class PolyphaseDownsample1d(_PolyphaseDownsample):
    """Downsampling of 1-D maps, ``(N, C, L)``; otherwise as ``PolyphaseDownsample2d``."""

    num_dims = 1
    select_type = SelectPhase1d


class PolyphaseDownsample2d(_PolyphaseDownsample):
    """Adaptive polyphase downsampling: keep the component that the content selects.

    Args:
        stride: Sampling stride in pixels; must divide every spatial size of the input.
        selector: Module that scores the phases, ``(x, stride) -> (N, P)``; ``LargestNorm(2)`` if
            None.
        lowpass: Module applied first, for instance ``LowPass2d(3)``; none if None.

    Raises:
        ValueError: If a stride is below 1, or there is not one per axis.

    Equivariance:
        Exact (bitwise): a circular shift ``d`` of the input shifts the output by
        ``(p + d - q) / S``, where ``p`` and ``q`` are the phases chosen before and after.  A
        low-pass filter in front must be equivariant itself.  Checked by
        ``tests/nn/test_layers.py``.

    References:
        A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021,
        section 3.1.

    Examples:
        >>> import torch
        >>> layer = PolyphaseDownsample2d(stride=2)
        >>> x = torch.randn(1, 3, 8, 8)
        >>> y, moved = layer(x), layer(torch.roll(x, (1, 1), (2, 3)))
        >>> y.shape
        torch.Size([1, 3, 4, 4])
        >>> torch.equal(y.sort().values.sort(2).values, moved.sort().values.sort(2).values)
        True
    """

    num_dims = 2
    select_type = SelectPhase2d


class PolyphaseDownsample3d(_PolyphaseDownsample):
    """Downsampling of 3-D maps, ``(N, C, D, H, W)``; otherwise as ``PolyphaseDownsample2d``."""

    num_dims = 3
    select_type = SelectPhase3d


class _AlignPhase(StridedModule):
    select_type: type[_SelectPhase]

    def __init__(self, stride: int | Sequence[int] = 2, selector: nn.Module | None = None) -> None:
        super().__init__(stride)
        self.select = self.select_type(stride, selector)

    def forward(self, x: Tensor) -> Tensor:
        """Align each sample with the phase that its content selects.

        Args:
            x: Feature map, ``(N, C, *spatial)``.

        Returns:
            The aligned map, of the same shape.

        Raises:
            ValueError: If the input has another number of axes, or a spatial size is not a
                multiple of its stride.
        """
        return ops.align_phase(x, self.select(x), self.stride)


class AlignPhase1d(_AlignPhase):
    """Alignment of 1-D maps, ``(N, C, L)``; otherwise as ``AlignPhase2d``."""

    num_dims = 1
    select_type = SelectPhase1d


class AlignPhase2d(_AlignPhase):
    """Shift each sample so that its chosen component lies where a strided layer samples.

    Put in front of any strided layer or block of layers with this total stride (and circular
    padding), it makes them exactly shift equivariant with their weights and FLOPs unchanged.

    Args:
        stride: Stride of what follows, in pixels; must divide every spatial size of the input.
        selector: Module that scores the phases, ``(x, stride) -> (N, P)``; ``LargestNorm(2)`` if
            None.

    Raises:
        ValueError: If a stride is below 1, or there is not one per axis.

    Equivariance:
        Exact (bitwise): a circular shift ``d`` of the input shifts the output by
        ``p + d - q``, a multiple of ``S``, where ``p`` and ``q`` are the phases chosen before and
        after.  Checked by ``tests/nn/test_layers.py``.

    Examples:
        >>> import torch
        >>> conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular")
        >>> layer = torch.nn.Sequential(AlignPhase2d(2), conv)
        >>> layer(torch.randn(1, 3, 8, 8)).shape
        torch.Size([1, 4, 4, 4])
    """

    num_dims = 2
    select_type = SelectPhase2d


class AlignPhase3d(_AlignPhase):
    """Alignment of 3-D maps, ``(N, C, D, H, W)``; otherwise as ``AlignPhase2d``."""

    num_dims = 3
    select_type = SelectPhase3d
