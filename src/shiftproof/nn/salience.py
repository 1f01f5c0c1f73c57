"""Selectors that stay with the content of a picture while a camera moves.

A selector may have a method ``salience(x, pitch=...)``: what there is, ``(N, *counts)``, at places
that cover the image evenly, ``pitch`` pixels apart or less.  ``locate_grid`` then finds the place
of the content to a fraction of a pixel; otherwise it goes by the selector's scores of whole pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.selectors import LargestNorm
from shiftproof.ops.torus import TaperKind, along, exact_products, fold, places
from shiftproof.ops.torus import taper as weigh

_EVEN = 1e-5
"""Contrast, as a share of the image's level, below which an image has nothing to see."""


_BAND = 5.0
"""Standard deviations beyond which a Gaussian is left out where an axis is smoothed in parts."""

_PART = 128
"""Places that one of those parts has."""


class Smoother:
    """Smooths maps by Gaussians, from some places to others; axes of one size share matrices.

    Args:
        sizes: Spatial sizes of the images, in pixels.
        source: Places of the maps per axis, which cover the images evenly; the pixels if None.
        counts: Places of the smoothed maps per axis; those of the maps if None.
        wraps: Whether maps go on around the circle; else they are mirrored at the edge.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        source: Sequence[int] | None = None,
        counts: Sequence[int] | None = None,
        *,
        wraps: bool,
    ) -> None:
        self.sizes, self.wraps = sizes, wraps
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


def _grey(x: Tensor) -> Tensor:
    """The mean of the channels, in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).mean(1)


def _scaled(salience: Tensor, grey: Tensor, power: int) -> Tensor:
    """Salience between 0 and 1, without what rounding makes of an even image.

    Args:
        salience: Some power of contrast.
        grey: The image.
        power: Which power.

    Returns:
        The salience over its maximum.
    """
    level = _EVEN * grey.square().flatten(1).mean(1).sqrt()
    shape = [-1, *[1] * (salience.ndim - 1)]
    salience = (salience - level.pow(power).reshape(shape)).clamp_min(0)
    largest = salience.flatten(1).amax(1).clamp_min(torch.finfo(salience.dtype).tiny)
    return salience / largest.reshape(shape)


class _Salience(nn.Module):
    def salience(self, x: Tensor, *, pitch: float = 1.0, wraps: bool = False) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, stride: int | Sequence[int]) -> Tensor:
        """Score the phases.

        Args:
            x: Feature map, ``(N, C, *spatial)``.
            stride: Sampling stride in pixels; must divide every spatial size.

        Returns:
            Scores, ``(N, P)``: the sum of the salience over each component.

        Raises:
            ValueError: If a spatial size is not a multiple of its stride.
        """
        components = ops.polyphase_split(self.salience(x, wraps=True)[:, None], stride)
        return components[:, 0].flatten(2).sum(2)


class CornerStrength(_Salience):
    """The component that holds the strongest corners.

    With the structure tensor ``T`` of the grey image (slopes of a Gaussian of 1.5 pixels, products
    smoothed by 2 pixels), the salience is ``max(det T - k tr(T)^D, 0)``, over its maximum, to the
    third power, so that the strongest corners decide; ``k`` is .05 in two dimensions and .005 in
    three, in one it is the slope squared.

    Equivariance:
        To rounding: the scores permute with the components under circular shifts.  Checked by
        ``tests/nn/test_salience.py``.

    References:
        C. Harris and M. Stephens, "A combined corner and edge detector", Alvey Vision Conference
        1988.
    """

    def salience(self, x: Tensor, *, pitch: float = 1.0, wraps: bool = False) -> Tensor:
        """What there is.

        Args:
            x: Images, ``(N, C, *spatial)``.
            pitch: Pixels from one place to the next, at most.
            wraps: Whether the image goes on around the circle; else it is mirrored at its edge.

        Returns:
            Corner strength, ``(N, *ceil(spatial / pitch))``, between 0 and 1.
        """
        grey, sizes = _grey(x), x.shape[2:]
        counts = [math.ceil(size / pitch) for size in sizes]
        slope = Smoother(sizes, None, counts, wraps=wraps)
        smooth = Smoother(sizes, counts, wraps=wraps)
        dims = range(grey.ndim - 1)
        slopes = [slope(grey, 1.5, slope_axis=axis) for axis in dims]
        pairs = [(i, j) for i in dims for j in dims if i <= j]
        tensor = {(i, j): smooth(slopes[i] * slopes[j], 2.0) for i, j in pairs}
        trace = torch.stack([tensor[i, i] for i in dims]).sum(0)
        if len(dims) == 1:
            strength = trace
        elif len(dims) == 2:
            product = tensor[0, 0] * tensor[1, 1]
            strength = product - tensor[0, 1].square() - 0.05 * trace.square()
        else:
            a, b, c = (tensor[i, i] for i in dims)
            d, e, f = tensor[0, 1], tensor[0, 2], tensor[1, 2]
            determinant = a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)
            strength = determinant - 0.005 * trace**3
        return _scaled(strength, grey, 2 * len(dims)) ** 3


class DifferenceOfGaussians(_Salience):
    """The component that holds the strongest blobs.

    The salience is the absolute difference of two smoothed grey images (1 and 1.6 pixels), over its
    maximum, to the eighth power, so that the strongest places decide.

    Equivariance:
        To rounding: the scores permute with the components under circular shifts.  Checked by
        ``tests/nn/test_salience.py``.

    References:
        D. G. Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004.
    """

    def salience(self, x: Tensor, *, pitch: float = 1.0, wraps: bool = False) -> Tensor:
        """What there is at every pixel.

        Args:
            x: Images, ``(N, C, *spatial)``.
            pitch: Pixels from one place to the next, at most; it takes every pixel at least.
            wraps: Whether the image goes on around the circle; else it is mirrored at its edge.

        Returns:
            Strength of blobs, ``(N, *counts)``, between 0 and 1.
        """
        grey, sizes = _grey(x), x.shape[2:]
        counts = [math.ceil(size / min(1.0, pitch)) for size in sizes]
        smooth = Smoother(sizes, None, counts, wraps=wraps)
        near, far = (smooth(grey, width) for width in (1.0, 1.6))
        return _scaled((near - far).abs(), grey, 1) ** 8


class Energy(_Salience):
    """The component of the largest norm, as a salience: ``LargestNorm`` to a fraction of a pixel.

    Args:
        order: 1 or 2; the salience is the sum over channels of ``|x|^order``.

    Raises:
        ValueError: If the order is another.

    Equivariance:
        To rounding: the scores permute with the components under circular shifts.  Checked by
        ``tests/nn/test_salience.py``.
    """

    def __init__(self, order: int = 2) -> None:
        super().__init__()
        if order not in (1, 2):
            raise ValueError(f"Energy: order must be 1 or 2, got {order}; choose one of them")
        self.order = order

    def salience(self, x: Tensor, *, pitch: float = 1.0, wraps: bool = False) -> Tensor:
        """What there is at every pixel.

        Args:
            x: Images, ``(N, C, *spatial)``.
            pitch: Makes no difference; values are those of pixels.
            wraps: Whether the image goes on around the circle; else it is mirrored at its edge.

        Returns:
            The energy of every pixel, ``(N, *spatial)``.
        """
        values = x.to(torch.promote_types(x.dtype, torch.float32)).abs()
        return (values if self.order == 1 else values.square()).sum(1)


class Tapered(nn.Module):
    """Any selector, of a map that fades to zero at its border.

    What leaves and enters at the border then hardly weighs, so that the choice stays with the
    content while a camera moves.  The taper is tied to the frame of the picture: circular shifts
    are no longer followed exactly.

    Args:
        selector: The selector; ``LargestNorm(2)`` if None.
        taper: ``"sine"``, ``"hann"``, ``"triangle"``, ``"tukey"`` or ``"none"``.

    Raises:
        ValueError: If the taper is another.

    Equivariance:
        Approximate: scores move with the content up to what the taper weighs otherwise.  Checked by
        ``tests/nn/test_salience.py``.
    """

    def __init__(self, selector: nn.Module | None = None, taper: TaperKind = "hann") -> None:
        super().__init__()
        self.selector = LargestNorm() if selector is None else selector
        self.taper = taper
        weigh(taper, 1, torch.zeros(1))  # refuses an unknown one

    def _weights(self, x: Tensor) -> Tensor:
        weights = x.new_ones(())
        for size in x.shape[2:]:
            weights = weights[..., None] * weigh(self.taper, size, weights)
        return weights

    def forward(self, x: Tensor, stride: int | Sequence[int]) -> Tensor:
        """Score the phases.

        Args:
            x: Feature map, ``(N, C, *spatial)``.
            stride: Sampling stride in pixels; must divide every spatial size.

        Returns:
            Scores, ``(N, P)``, of the map times the taper.

        Raises:
            ValueError: If a spatial size is not a multiple of its stride.
        """
        scores: Tensor = self.selector(x * self._weights(x), stride)
        return scores

    def extra_repr(self) -> str:
        """Show the taper."""
        return f"taper={self.taper!r}"
