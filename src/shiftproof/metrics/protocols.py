"""What "consistency" compares: the shifted versions of an image that must get the same class.

Published numbers compare different pairs under different shifts and average differently.  A
protocol fixes the pairs and the shifts, and each is known by name.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.ops.shift import circular_shift, crop_shift


class Protocol(typing.Protocol):
    """The shifted versions of a batch of images that are compared with each other.

    One that has ``per_image = True`` says that each image has shifts of its own; otherwise the
    images of a batch are taken to share theirs, and to depend on each other.
    """

    @property
    def name(self) -> str:
        """Name under which a result is reported."""

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Shift a batch.

        Args:
            images: Images, ``(N, C, *spatial)``, on any device.
            generator: CPU generator from which the shifts are drawn.

        Returns:
            Two or more batches of N images each, in the order of ``images``.
        """


def independent_images(protocol: Protocol) -> bool:
    """Whether the images of a batch are shifted independently under a protocol.

    Args:
        protocol: The protocol.

    Returns:
        Its ``per_image``; False if it has none.
    """
    return bool(getattr(protocol, "per_image", False))


def _draw(
    ranges: Sequence[tuple[int, int]], num_rows: int, num_images: int, generator: torch.Generator
) -> Tensor:
    """Draw ``num_rows`` shifts, 1 or N, uniformly from ``[low, high)`` per axis: ``(N, D)``."""
    axes = [
        torch.randint(low, high, (num_rows,), generator=generator, device="cpu")
        for low, high in ranges
    ]
    return torch.stack(axes, dim=1).expand(num_images, -1)


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

    Raises:
        ValueError: If a number is not positive, or there is nothing to compare.
    """

    name: str
    max_shift: int | None
    num_shifted: int = 2
    include_unshifted: bool = False
    per_image: bool = False

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
        ranges = [
            (0, size) if self.max_shift is None else (-self.max_shift, self.max_shift)
            for size in images.shape[2:]
        ]
        num_images = images.shape[0]
        num_rows = num_images if self.per_image else 1
        shifted = tuple(
            circular_shift(images, _draw(ranges, num_rows, num_images, generator))
            for _ in range(self.num_shifted)
        )
        return (images, *shifted) if self.include_unshifted else shifted


@dataclass(frozen=True)
class Crops:
    """Two windows of larger images, by default the same two for the whole batch.

    Attributes:
        name: Name under which a result is reported.
        margin: Pixels by which the images exceed the window, per axis; windows start in
            ``[0, margin)``.
        per_image: Whether each image has its own windows; otherwise a batch shares them.

    Raises:
        ValueError: If the margin is not positive.

    References:
        R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019.
    """

    name: str
    margin: int
    per_image: bool = False

    def __post_init__(self) -> None:
        if self.margin < 1:
            raise ValueError(
                f"{self.name}: margin must be at least 1, got {self.margin}; "
                "pass the pixels by which the images exceed the window"
            )

    def views(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Cut two windows out of a batch.

        Args:
            images: Images, ``(N, C, *spatial)``, larger than the margin.
            generator: CPU generator from which the windows are drawn.

        Returns:
            Two batches of images, smaller than ``images`` by the margin.

        Raises:
            ValueError: If an image is not larger than the margin.
        """
        sizes = images.shape[2:]
        if min(sizes) <= self.margin:
            raise ValueError(
                f"{self.name}: images must be larger than margin={self.margin}, "
                f"got {'x'.join(map(str, sizes))}; pass images of window size plus margin"
            )
        window = [size - self.margin for size in sizes]
        ranges = [(0, self.margin)] * len(sizes)
        num_images = images.shape[0]
        num_rows = num_images if self.per_image else 1
        return tuple(
            crop_shift(images, _draw(ranges, num_rows, num_images, generator), window)
            for _ in range(2)
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


_PUBLISHED: tuple[CircularShifts | Crops | PaddedCrops, ...] = (
    CircularShifts("circular", None, num_shifted=1, include_unshifted=True, per_image=True),
    CircularShifts("aps-imagenet", 32),
    CircularShifts("aps-cifar-test", 3),
    CircularShifts("aps-cifar-val", 3, num_shifted=1, include_unshifted=True),
    PaddedCrops("aps-cifar-crop", 3),
    Crops("crop", 32),
)

PROTOCOLS: Mapping[str, CircularShifts | Crops | PaddedCrops] = MappingProxyType(
    {published.name: published for published in _PUBLISHED}
)
"""The protocols by name, with the published numbers; ``circular`` is this project's own.

``aps-*`` are those of A. Chaman and I. Dokmanic, "Truly shift-invariant convolutional neural
networks", CVPR 2021, and its code; ``crop`` is Zhang's (256 pixel images, 224 pixel windows).
"""


def protocol(name: str, **fields: typing.Any) -> CircularShifts | Crops | PaddedCrops:
    """A protocol by name, with other numbers where asked for.

    Args:
        name: A key of ``PROTOCOLS``.
        fields: Values that replace the published ones, for instance ``max_shift=5``.  What differs
            becomes part of the protocol's name: a result never passes for the published one.

    Returns:
        The protocol.

    Raises:
        ValueError: If the name or a field is unknown, or a value is out of range.

    Examples:
        >>> protocol("aps-cifar-test", max_shift=3).name
        'aps-cifar-test'
        >>> protocol("aps-cifar-test", max_shift=5).name
        'aps-cifar-test(max_shift=5)'
    """
    if name not in PROTOCOLS:
        nearest = difflib.get_close_matches(name, PROTOCOLS, n=3, cutoff=0.0)
        raise ValueError(
            f"protocol: name must be one of {len(PROTOCOLS)} protocols, got {name!r}; "
            f"the nearest are {', '.join(nearest)}"
        )
    published = PROTOCOLS[name]
    known = [field.name for field in dataclasses.fields(published) if field.name != "name"]
    for field in fields:
        if field not in known:
            raise ValueError(
                f"protocol: {name} must be given fields that it has, got {field}; "
                f"choose from {', '.join(known)}"
            )
    changed = [
        f"{field}={value}" for field, value in fields.items() if value != getattr(published, field)
    ]
    if not changed:
        return published
    return dataclasses.replace(published, **fields, name=f"{name}({', '.join(changed)})")
