"""Where a residual network loses resolution, and what chooses the pixels that stay.

A ``Downsampling`` builds the parts that differ between the placements; the network around them is
the same for all.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn import (
    BlurPool2d,
    FirstPhase,
    LowPass2d,
    MaxPool2d,
    PolyphaseDownsample2d,
    SelectPhase2d,
)
from shiftproof.ops.padding import PaddingMode, check_padding_mode


class BlurBranches(nn.Module):
    """Filter both branches of a residual block and keep phase 0 of each.

    Args:
        kernel_size: Taps of the binomial filter per axis.
        padding_mode: Padding of the filter.
    """

    def __init__(self, kernel_size: int, padding_mode: PaddingMode) -> None:
        super().__init__()
        self.pool = BlurPool2d(kernel_size, padding_mode=padding_mode)

    def forward(self, main: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """Downsample both branches.

        Args:
            main: Map of the main branch, ``(N, C, H, W)``.
            shortcut: Map of the shortcut, ``(N, C', H, W)``.

        Returns:
            Both maps at half the resolution.
        """
        return self.pool(main), self.pool(shortcut)


class PolyphaseBranches(nn.Module):
    """Filter both branches of a residual block and keep, of each, the phase the main one selects.

    Args:
        kernel_size: Taps of the binomial filter per axis.
        padding_mode: Padding of the filter.
        selector: Module that scores the phases; ``LargestNorm(2)`` if None.
        score_before_lowpass: Whether the unfiltered map of the main branch is scored.

    Equivariance:
        Exact (bitwise) with circular padding: both outputs shift alike.  Checked by
        ``tests/models/test_invariance.py``.
    """

    def __init__(
        self,
        kernel_size: int,
        padding_mode: PaddingMode,
        selector: nn.Module | None,
        score_before_lowpass: bool,
    ) -> None:
        super().__init__()
        self.lowpass = LowPass2d(kernel_size, padding_mode)
        self.select = SelectPhase2d(2, selector)
        self.score_before_lowpass = score_before_lowpass

    def forward(self, main: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """Downsample both branches.

        Args:
            main: Map of the main branch, ``(N, C, H, W)``.
            shortcut: Map of the shortcut, ``(N, C', H, W)``.

        Returns:
            Both maps at half the resolution.

        Raises:
            ValueError: If the height or the width is odd.
        """
        filtered = self.lowpass(main)
        phase = self.select(main if self.score_before_lowpass else filtered, shortcut)
        return (
            ops.take_phase(filtered, phase, 2),
            ops.take_phase(self.lowpass(shortcut), phase, 2),
        )


class SelectedPool(nn.Module):
    """Pool a map at the phase that its content selects.

    Args:
        select: Module that chooses the phase of a map.
        pool: Strided module that takes a map and a phase.

    Equivariance:
        Exact (bitwise) with circular padding, see ``nn.MaxPool2d``.  Checked by
        ``tests/models/test_invariance.py``.
    """

    def __init__(self, select: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.select = select
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Choose a phase and pool.

        Args:
            x: Feature map, ``(N, C, H, W)``.

        Returns:
            The pooled map.

        Raises:
            ValueError: If the height or the width is odd.
        """
        pooled: Tensor = self.pool(x, self.select(x))
        return pooled


@dataclass(frozen=True)
class Downsampling(ABC):
    """How a network's strided places are built.

    Attributes:
        padding_mode: Padding of convolutions and pools: ``"circular"``, ``"zeros"`` or
            ``"reflect"``.

    Raises:
        ValueError: If the padding mode is unknown.
    """

    conv_stride: ClassVar[int]

    padding_mode: PaddingMode = "circular"

    def __post_init__(self) -> None:
        check_padding_mode(type(self).__name__, self.padding_mode)

    @property
    @abstractmethod
    def is_shift_invariant(self) -> bool:
        """Whether a network built this way ignores circular shifts of its input."""

    @property
    @abstractmethod
    def needs_even_maps(self) -> bool:
        """Whether each strided place needs a height and a width that 2 divides."""

    @abstractmethod
    def select(self) -> nn.Module | None:
        """Build what chooses the phase that a strided block samples; None for phase 0."""

    @abstractmethod
    def pool(self) -> nn.Module | None:
        """Build what downsamples both branches inside a strided block; None for nothing."""

    @abstractmethod
    def stem(self) -> tuple[int, nn.Module | None, nn.Module]:
        """Build the strided places of the ImageNet stem.

        Returns:
            Stride of the first convolution, what chooses its phase, and the pool behind it.
        """


@dataclass(frozen=True)
class StridedConvs(Downsampling):
    """Torchvision's places: stride 2 in the convolutions and in the 3 x 3 max pool of the stem.

    Attributes:
        aligned: Whether each strided block samples the phase that the content of its input selects:
            adaptive polyphase sampling in aligned placement.
        selector: Module that scores the phases, copied for each place; ``LargestNorm(2)`` if None.
    """

    conv_stride: ClassVar[int] = 2

    aligned: bool = False
    selector: nn.Module | None = None

    @property
    def is_shift_invariant(self) -> bool:
        """True for the aligned placement with circular padding and a selector that selects."""
        return (
            self.aligned
            and self.padding_mode == "circular"
            and not isinstance(self.selector, FirstPhase)
        )

    @property
    def needs_even_maps(self) -> bool:
        """True for the aligned placement."""
        return self.aligned

    def select(self) -> nn.Module | None:
        """Build the choice of one strided place."""
        return SelectPhase2d(2, copy.deepcopy(self.selector)) if self.aligned else None

    def pool(self) -> nn.Module | None:
        """Build nothing: the convolutions stride."""
        return None

    def stem(self) -> tuple[int, nn.Module | None, nn.Module]:
        """Build torchvision's stem, with a choice for each strided layer."""
        pool: nn.Module = MaxPool2d(3, 2, (1, 1), self.padding_mode)
        select = self.select()
        return 2, self.select(), pool if select is None else SelectedPool(select, pool)


@dataclass(frozen=True)
class SeparatePools(Downsampling):
    """The paper's places: convolutions at full resolution, then a low-pass filter and the phase.

    Attributes:
        kernel_size: Taps of the binomial filter per axis; 1 does not filter.
        adaptive: Whether the content selects the phase (adaptive polyphase sampling) or phase 0 is
            kept (the anti-aliased baseline; for kernel size 1 the ordinary stride).
        selector: Module that scores the phases, copied for each place; ``LargestNorm(2)`` if None.
        score_before_lowpass: Whether residual blocks score the unfiltered map, as the paper's
            CIFAR-10 networks do, and not the filtered one, as its ImageNet networks do.
        pool_only: Whether the stem's first convolution keeps its stride of 2 and chooses nothing,
            so that the network is not shift invariant.
    """

    conv_stride: ClassVar[int] = 1

    kernel_size: int = 1
    adaptive: bool = True
    selector: nn.Module | None = None
    score_before_lowpass: bool = False
    pool_only: bool = False

    @property
    def is_shift_invariant(self) -> bool:
        """True for an adaptive phase everywhere and circular padding."""
        return (
            self.adaptive
            and not self.pool_only
            and self.padding_mode == "circular"
            and not isinstance(self.selector, FirstPhase)
        )

    @property
    def needs_even_maps(self) -> bool:
        """True for an adaptive phase."""
        return self.adaptive

    @property
    def lowpass_padding_mode(self) -> PaddingMode:
        """Padding of the filters: reflection where convolutions pad with zeros, as in the paper."""
        return "reflect" if self.padding_mode == "zeros" else self.padding_mode

    def select(self) -> nn.Module | None:
        """Build nothing: the pools choose."""
        return None

    def pool(self) -> nn.Module | None:
        """Build the downsampling of one residual block."""
        if not self.adaptive:
            return BlurBranches(self.kernel_size, self.lowpass_padding_mode)
        return PolyphaseBranches(
            self.kernel_size,
            self.lowpass_padding_mode,
            copy.deepcopy(self.selector),
            self.score_before_lowpass,
        )

    def stem(self) -> tuple[int, nn.Module | None, nn.Module]:
        """Build the paper's stem: downsampling, 2 x 2 max pool at stride 1, downsampling."""
        pool = MaxPool2d(2, 1, (0, 1), self.padding_mode)
        if self.pool_only:
            return 2, None, nn.Sequential(pool, self._downsample())
        return 1, None, nn.Sequential(self._downsample(), pool, self._downsample())

    def _downsample(self) -> nn.Module:
        mode = self.lowpass_padding_mode
        if not self.adaptive:
            return BlurPool2d(self.kernel_size, padding_mode=mode)
        lowpass = LowPass2d(self.kernel_size, mode)
        return PolyphaseDownsample2d(2, copy.deepcopy(self.selector), lowpass)
