"""Selectors that stay with the content of a picture while a camera moves.

A selector may have a method ``salience(x)``: what there is at every pixel, ``(N, *spatial)``.
``locate_grid`` then finds the place of the content to a fraction of a pixel; for other selectors it
goes by their scores of whole pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.selectors import LargestNorm
from shiftproof.ops.torus import TaperKind, along, exact_products, fold, positions
from shiftproof.ops.torus import taper as weigh

_EVEN = 1e-5
"""Contrast, as a share of the image's level, below which an image has nothing to see."""


def _gaussian(size: int, width: float, like: Tensor, *, slope: bool, wraps: bool) -> Tensor:
    """A matrix that smooths an axis, or takes its slope."""
    source = positions(size, like)
    at = source[:, None]
    if wraps:
        images = [fold(at - source, size)]
    else:  # the axis goes on as in a mirror
        images = [at - source, at + source + 1, at + source + 1 - 2 * size]
    parts = [torch.exp(-(apart / width).square() / 2) for apart in images]
    total = torch.stack(parts).sum(0)
    if not slope:
        return total / total.sum(1, keepdim=True)
    slopes = [-apart / width**2 * part for apart, part in zip(images, parts, strict=True)]
    return torch.stack(slopes).sum(0) / total.sum(1, keepdim=True)


class Smoother:
    """Smooths maps by Gaussians; the matrices of one call are shared by axes of one size.

    Args:
        wraps: Whether maps go on around the circle; else they are mirrored at the edge.
    """

    def __init__(self, *, wraps: bool) -> None:
        self.wraps = wraps
        self._matrices: dict[tuple[int, float, bool], Tensor] = {}

    def _matrix(self, x: Tensor, axis: int, width: float, slope: bool) -> Tensor:
        size = x.shape[axis]
        # A size that is open, while a graph is recorded, is known by its axis.
        key = (size if type(size) is int else -axis, width, slope)
        if key not in self._matrices:
            made = _gaussian(size, width, x, slope=slope, wraps=self.wraps)
            self._matrices[key] = made
        return self._matrices[key]

    def __call__(self, x: Tensor, width: float, slope_axis: int | None = None) -> Tensor:
        """Smooth maps.

        Args:
            x: Maps without channels, ``(N, *spatial)``.
            width: Standard deviation, in pixels.
            slope_axis: Spatial axis along which the slope is taken; none if None.

        Returns:
            The smoothed maps.
        """
        with exact_products(x):
            for axis in range(1, x.ndim):
                slope = slope_axis == axis - 1
                x = along(x, self._matrix(x, axis, width, slope), axis)
        return x


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
    def salience(self, x: Tensor, *, wraps: bool = False) -> Tensor:
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
    second power; ``k`` is .05 in two dimensions and .005 in three, in one it is the slope squared.

    Equivariance:
        To rounding: the scores permute with the components under circular shifts.  Checked by
        ``tests/nn/test_salience.py``.

    References:
        C. Harris and M. Stephens, "A combined corner and edge detector", Alvey Vision Conference
        1988.
    """

    def salience(self, x: Tensor, *, wraps: bool = False) -> Tensor:
        """What there is at every pixel.

        Args:
            x: Images, ``(N, C, *spatial)``.
            wraps: Whether the image goes on around the circle; else it is mirrored at its edge.

        Returns:
            Corner strength, ``(N, *spatial)``, between 0 and 1.
        """
        grey, smooth = _grey(x), Smoother(wraps=wraps)
        dims = range(grey.ndim - 1)
        slopes = [smooth(grey, 1.5, slope_axis=axis) for axis in dims]
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
        return _scaled(strength, grey, 2 * len(dims)).square()


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

    def salience(self, x: Tensor, *, wraps: bool = False) -> Tensor:
        """What there is at every pixel.

        Args:
            x: Images, ``(N, C, *spatial)``.
            wraps: Whether the image goes on around the circle; else it is mirrored at its edge.

        Returns:
            Strength of blobs, ``(N, *spatial)``, between 0 and 1.
        """
        grey, smooth = _grey(x), Smoother(wraps=wraps)
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

    def salience(self, x: Tensor, *, wraps: bool = False) -> Tensor:
        """What there is at every pixel.

        Args:
            x: Images, ``(N, C, *spatial)``.
            wraps: Whether the image goes on around the circle; else it is mirrored at its edge.

        Returns:
            The energy, ``(N, *spatial)``.
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
        taper: ``"hann"``, ``"triangle"``, ``"tukey"`` or ``"none"``.

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
