"""Shifted versions of a batch of images, drawn from a seeded generator.

Each class is a protocol: what is compared, under which shifts.  The published ones are known by
name in ``shiftproof.metrics.protocols``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.ops.fractional import ShiftMethod, fractional_shift
from shiftproof.ops.shift import circular_shift, crop_shift, zero_fill_shift


def _draw(
    ranges: Sequence[tuple[int, int]], num_rows: int, num_images: int, generator: torch.Generator
) -> Tensor:
    """Draw ``num_rows`` shifts, 1 or N, uniformly from ``[low, high)`` per axis: ``(N, D)``."""
    axes = [
        torch.randint(low, high, (num_rows,), generator=generator, device="cpu")
        for low, high in ranges
    ]
    return torch.stack(axes, dim=1).expand(num_images, -1)


def window_of(name: str, margin: int, sizes: Sequence[int]) -> list[int]:
    """What images of these sizes leave for a window.

    Args:
        name: Of the protocol.
        margin: Pixels by which images exceed the window.
        sizes: Of the images.

    Returns:
        The size of the window.

    Raises:
        ValueError: If an image is not larger than the margin.
    """
    if min(sizes) <= margin:
        raise ValueError(
            f"{name}: images must be larger than margin={margin}, "
            f"got {'x'.join(map(str, sizes))}; pass images of window size plus margin"
        )
    return [size - margin for size in sizes]


@dataclass(frozen=True)
class CircularShifts:
    """Circular shifts of the same images.

    Attributes:
        name: Name under which a result is reported.
        max_shift: Shifts lie in ``[-max_shift, max_shift - 1]`` pixels per axis; ``None`` for all
            positions of the image.
        num_shifted: Number of shifted versions, each drawn independently.
        include_unshifted: Whether the images themselves are compared too, as the first view.
        per_image: Whether each image has its own shift; otherwise a batch shares one.
        both_ends: Whether ``max_shift`` itself is drawn too.

    Raises:
        ValueError: If a number is not positive, or there is nothing to compare.
    """

    name: str
    max_shift: int | None
    num_shifted: int = 2
    include_unshifted: bool = False
    per_image: bool = False
    both_ends: bool = False

    def __post_init__(self) -> None:
        if self.max_shift is not None and self.max_shift < 1:
            raise ValueError(
                f"{self.name}: max_shift must be at least 1, got {self.max_shift}; "
                "pass None for all positions"
            )
        if self.num_shifted < 1 or self.num_shifted + self.include_unshifted < 2:
            raise ValueError(
                f"{self.name}: a shifted version and another one must be compared, got "
                f"num_shifted={self.num_shifted}, include_unshifted={self.include_unshifted}; "
                "raise num_shifted"
            )

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Shift a batch around the circle.

        Args:
            images: Images, ``(N, C, *spatial)``.
            generator: CPU generator from which the shifts are drawn.

        Returns:
            The images if asked for, then the shifted versions, all of the shape of ``images``.
        """
        most = self.max_shift
        ranges = [
            (0, size) if most is None else (-most, most + self.both_ends)
            for size in images.shape[2:]
        ]
        num_images = images.shape[0]
        num_rows = num_images if self.per_image else 1
        shifted = tuple(
            self._moved(images, _draw(ranges, num_rows, num_images, generator))
            for _ in range(self.num_shifted)
        )
        return (images, *shifted) if self.include_unshifted else shifted

    def _moved(self, images: Tensor, shift: Tensor) -> Tensor:
        return circular_shift(images, shift)


@dataclass(frozen=True)
class ZeroFillShifts(CircularShifts):
    """Shifts of the same images with zeros moved in; otherwise as ``CircularShifts``.

    The zeros are in the values that the model sees: after normalisation they are the mean colour.
    ``max_shift`` must be a number.

    Raises:
        ValueError: If a number is not positive, or there is nothing to compare.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_shift is None:
            raise ValueError(
                f"{self.name}: max_shift must be a number of pixels, got None, which would leave "
                "nothing of some images; pass for instance 16"
            )

    def _moved(self, images: Tensor, shift: Tensor) -> Tensor:
        return zero_fill_shift(images, shift)[0]


@dataclass(frozen=True)
class FractionalShifts:
    """The images, and one circular shift of each by a fraction of a pixel.

    Attributes:
        name: Name under which a result is reported.
        max_shift: Shifts are uniform in ``[-max_shift, max_shift)`` pixels per axis.
        method: How pixels between pixels are made, see ``ops.fractional_shift``.
        per_image: Whether each image has its own shift; otherwise a batch shares one.

    Raises:
        ValueError: If ``max_shift`` is not positive.
    """

    name: str
    max_shift: float
    method: ShiftMethod
    per_image: bool = True

    def __post_init__(self) -> None:
        if not self.max_shift > 0:
            raise ValueError(
                f"{self.name}: max_shift must be above 0, got {self.max_shift}; pass 1 for shifts "
                "of up to a pixel"
            )

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Shift a batch between its pixels.

        Args:
            images: Images, ``(N, C, *spatial)``.
            generator: CPU generator from which the shifts are drawn, in float64.

        Returns:
            The images, and the shifted ones.
        """
        num_images, num_dims = images.shape[0], images.ndim - 2
        num_rows = num_images if self.per_image else 1
        unit = torch.rand(num_rows, num_dims, generator=generator, dtype=torch.float64)
        shift = (self.max_shift * (2 * unit - 1)).expand(num_images, -1)
        if images.dtype != torch.float64:
            shift = shift.float()
        return images, fractional_shift(images, shift, self.method)


@dataclass(frozen=True)
class Crops:
    """Windows of larger images, by default the same two for the whole batch.

    Attributes:
        name: Name under which a result is reported.
        margin: Pixels by which the images exceed the window, per axis; windows start in
            ``[0, margin)``.
        per_image: Whether each image has its own windows; otherwise a batch shares them.
        num_windows: How many, each drawn independently.

    Raises:
        ValueError: If the margin is not positive, or there are fewer than two windows.

    References:
        R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019.
    """

    name: str
    margin: int
    per_image: bool = False
    num_windows: int = 2

    def __post_init__(self) -> None:
        if self.margin < 1:
            raise ValueError(
                f"{self.name}: margin must be at least 1, got {self.margin}; "
                "pass the pixels by which the images exceed the window"
            )
        if self.num_windows < 2:
            raise ValueError(
                f"{self.name}: there must be windows to compare, got num_windows="
                f"{self.num_windows}; pass 2 or more"
            )

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Cut windows out of a batch.

        Args:
            images: Images, ``(N, C, *spatial)``, larger than the margin.
            generator: CPU generator from which the windows are drawn.

        Returns:
            Batches of images, smaller than ``images`` by the margin.

        Raises:
            ValueError: If an image is not larger than the margin.
        """
        sizes = images.shape[2:]
        window = window_of(self.name, self.margin, sizes)
        ranges = [(0, self.margin)] * len(sizes)
        num_images = images.shape[0]
        num_rows = num_images if self.per_image else 1
        return tuple(
            crop_shift(images, _draw(ranges, num_rows, num_images, generator), window)
            for _ in range(self.num_windows)
        )


@dataclass(frozen=True)
class PaddedCrops:
    """Two windows, of the images' own size, of the images with a border of zeros.

    The zeros are in the values that the model sees: after normalisation they are the mean colour.

    Attributes:
        name: Name under which a result is reported.
        max_shift: Width of the border; shifts lie in ``[-max_shift, max_shift - 1]`` per axis, and
            a window starts at ``max_shift`` plus the shift.
        per_image: Whether each image has its own windows; otherwise a batch shares them.

    Raises:
        ValueError: If ``max_shift`` is not positive.
    """

    name: str
    max_shift: int
    per_image: bool = False

    def __post_init__(self) -> None:
        if self.max_shift < 1:
            raise ValueError(
                f"{self.name}: max_shift must be at least 1, got {self.max_shift}; "
                "pass the width of the border in pixels"
            )

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Pad a batch with zeros and cut two windows out of it.

        Args:
            images: Images, ``(N, C, *spatial)``.
            generator: CPU generator from which the windows are drawn.

        Returns:
            Two batches of the shape of ``images``.
        """
        padded = F.pad(images, (self.max_shift,) * (2 * (images.ndim - 2)))
        return Crops(self.name, 2 * self.max_shift, self.per_image).views(padded, generator)
