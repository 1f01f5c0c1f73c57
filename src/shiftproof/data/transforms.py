"""Transforms of a whole batch; all that is random comes from the generator they are handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from shiftproof.ops.phases import constants
from shiftproof.ops.shift import circular_shift, crop_shift

BatchTransform = Callable[[Tensor, Generator], Tensor]
"""Maps images ``(N, C, H, W)`` and a CPU generator to images."""


def _draw(low: int, high: int, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randint(low, high, shape, generator=generator)


@dataclass(frozen=True)
class Compose:
    """Several transforms, one after the other.

    Attributes:
        steps: The transforms, first to last.
    """

    steps: tuple[BatchTransform, ...]

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        for step in self.steps:
            images = step(images, generator)
        return images


@dataclass(frozen=True)
class Normalize:
    """Bytes to float32: ``(x / 255 - mean) / std`` per channel.

    The default leaves images in [0, 1].

    Attributes:
        mean: One value per channel, or one for all.
        std: One value per channel, or one for all.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If there is neither one value nor one per channel.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        if images.dtype != torch.uint8:
            raise TypeError(
                f"Normalize: images must be uint8, got {images.dtype}; normalise once, "
                "after the transforms of bytes"
            )
        channels = images.shape[1]
        if not {len(self.mean), len(self.std)} <= {1, channels}:
            raise ValueError(
                f"Normalize: mean and std must have 1 or {channels} values, got "
                f"{len(self.mean)} and {len(self.std)}; pass one per channel"
            )
        x = images.to(torch.float32).div_(255)
        mean, std = (constants(values, x).view(-1, 1, 1) for values in (self.mean, self.std))
        return x.sub_(mean).div_(std)


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror each image left to right, or not.

    Attributes:
        probability: Chance of each image to be mirrored.
    """

    probability: float = 0.5

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        mirrored = torch.rand(images.shape[0], generator=generator) < self.probability
        return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class RandomCrop:
    """Pad each image with zeros and cut a window of the old size at a random place.

    Attributes:
        padding: Pixels on each side.

    Raises:
        ValueError: If the padding is negative.
    """

    padding: int

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(
                f"RandomCrop: padding must be at least 0, got {self.padding}; pass a larger one"
            )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        corners = _draw(0, 2 * self.padding + 1, (images.shape[0], 2), generator)
        return crop_shift(F.pad(images, (self.padding,) * 4), corners, images.shape[2:])


@dataclass(frozen=True)
class CircularAugment:
    """One circular shift in ``[-max_shift, max_shift - 1]^2`` for the whole batch.

    Attributes:
        max_shift: Largest shift up and to the left, in pixels.

    Raises:
        ValueError: If ``max_shift`` is below 1.

    References:
        A. Chaman, I. Dokmanic, "Truly shift-invariant convolutional neural networks", CVPR 2021,
        experiments with data augmentation.
    """

    max_shift: int

    def __post_init__(self) -> None:
        if self.max_shift < 1:
            raise ValueError(
                f"CircularAugment: max_shift must be at least 1, got {self.max_shift}; "
                "pass a larger one or leave the transform out"
            )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        return circular_shift(images, _draw(-self.max_shift, self.max_shift, (2,), generator))


@dataclass(frozen=True)
class FlipBothAxes:
    """Turn each image by half a turn: flipped upside down and left to right."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        return images.flip(-2, -1)


@dataclass(frozen=True)
class EraseSquare:
    """Set one square to zero, at the same place in the whole batch.

    The corner is drawn from ``[0, H - 3 - patch)`` by ``[0, W - 3 - patch)``.  Placed after
    ``Normalize``, where zero is the mean colour; the published order is not known.

    Attributes:
        patch: Side of the square, in pixels.

    Raises:
        ValueError: If the side is below 1, or the images leave no place to draw from.
    """

    patch: int = 3

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise ValueError(
                f"EraseSquare: patch must be at least 1, got {self.patch}; pass a larger one"
            )

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        height, width = images.shape[2:]
        if min(height, width) - 3 - self.patch < 1:
            raise ValueError(
                f"EraseSquare: images must be at least {self.patch + 4} pixels high and wide for "
                f"patch={self.patch}, got {height}x{width}; pass a smaller patch"
            )
        top = int(_draw(0, height - 3 - self.patch, (), generator))
        left = int(_draw(0, width - 3 - self.patch, (), generator))
        images = images.clone()
        images[..., top : top + self.patch, left : left + self.patch] = 0
        return images


@dataclass(frozen=True)
class CenterCrop:
    """Keep the middle of each image; where it cannot be centred, as torchvision rounds.

    Attributes:
        size: Height and width to keep, in pixels.

    Raises:
        ValueError: If the size is below 1 or the images are smaller.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"CenterCrop: size must be at least 1, got {self.size}; enlarge it")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform a batch."""
        height, width = images.shape[2:]
        if self.size > min(height, width):
            raise ValueError(
                f"CenterCrop: size must be at most the images' {height}x{width}, got {self.size}; "
                "pass a smaller one"
            )
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return images[..., top : top + self.size, left : left + self.size]
