"""Gaussians along the axes of maps, from some places to others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shiftproof.ops.torus import along, exact_products, fold, places

_BAND = 5.0
"""Standard deviations beyond which a Gaussian is left out where an axis is smoothed in parts."""

REACH = 3.5
"""The same where nothing at all must be read further away."""

_PART = 128
"""Places that one of those parts has."""


class Smoother:
    """Smooths maps by Gaussians, from some places to others; axes of one size share matrices.

    Args:
        sizes: Spatial sizes of the images, in pixels.
        source: Places of the maps per axis, which cover the images evenly; the pixels if None.
        counts: Places of the smoothed maps per axis; those of the maps if None.
        wraps: Whether maps go on around the circle; else they are mirrored at the edge.
        is_short: Whether nothing is read that is 3.5 standard deviations away or more.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        source: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
        *,
        wraps: bool,
        is_short: bool = False,
    ) -> None:
        self.sizes, self.wraps, self.is_short = sizes, wraps, is_short
        self.source = sizes if source is None else source
        self.counts = self.source if counts is None else counts
        self._matrices: dict[tuple[int, float, bool], Tensor] = {}

    def _matrix(self, x: Tensor, axis: int, width: float, slope: bool) -> Tensor:
        size = self.sizes[axis]
        # A size that is open, while a graph is recorded, is known by its axis.
        key = (size if type(size) is int else -1 - axis, width, slope)
        if key not in self._matrices:
            source = places(self.source[axis], size, x)
            at = places(self.counts[axis], size, x)[:, None]
            if self.wraps:
                images = [fold(at - source, size)]
            else:  # the axis goes on as in a mirror
                images = [at - source, at + source + 1, at + source + 1 - 2 * size]
            # Far weights are all the same nothing, since the smallest floats are slow.
            exponents = [(-(apart / width).square() / 2).clamp_min(-50) for apart in images]
            parts = [exponent.exp() for exponent in exponents]
            if self.is_short:
                near = [apart.abs() < REACH * width for apart in images]
                parts = [torch.where(n, part, 0.0) for n, part in zip(near, parts, strict=True)]
            total = torch.stack(parts).sum(0)
            matrix = total
            if slope:
                pairs = zip(images, parts, strict=True)
                matrix = torch.stack([-apart / width**2 * part for apart, part in pairs]).sum(0)
            self._matrices[key] = matrix / total.sum(1, keepdim=True)
        return self._matrices[key]

    def __call__(self, x: Tensor, width: float, slope_axis: int | None = None) -> Tensor:
        """Smooth maps.

        Args:
            x: Maps without channels, ``(N, *source)``.
            width: Standard deviation, in pixels.
            slope_axis: Spatial axis along which the slope is taken; none if None.

        Returns:
            The smoothed maps, ``(N, *counts)``.
        """
        with exact_products(x):
            for axis, count in enumerate(self.counts):
                matrix = self._matrix(x, axis, width, slope_axis == axis)
                if self.wraps or type(count) is not int or count <= 2 * _PART:
                    x = along(x, matrix, axis + 1)
                else:
                    x = self._in_parts(x, matrix, axis, width)
        return x

    def _in_parts(self, x: Tensor, matrix: Tensor, axis: int, width: float) -> Tensor:
        """Multiply with the band around the diagonal alone."""
        source, count = self.source[axis], self.counts[axis]
        reach = math.ceil(_BAND * width * source / self.sizes[axis]) + 1
        found = []
        for first in range(0, count, _PART):
            last = min(first + _PART, count)
            low = max(0, first * source // count - reach)
            high = min(source, -(-last * source // count) + reach)
            part = x.narrow(axis + 1, low, high - low)
            found.append(along(part, matrix[first:last, low:high], axis + 1))
        return torch.cat(found, axis + 1)
