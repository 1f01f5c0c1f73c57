"""Selectors that stay with the content of a picture while a camera moves.

A selector may have a method ``salience(x, pitch=...)``: what there is, ``(N, *counts)``, at places
that cover the image evenly, ``pitch`` pixels apart or less.  ``locate_grid`` then finds the place
of the content to a fraction of a pixel; otherwise it goes by the selector's scores of whole pixels.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.nn.selectors import LargestNorm
from shiftproof.ops.smoothing import REACH, Smoother
from shiftproof.ops.torus import TaperKind, taper

_EVEN = 1e-5
"""Contrast, as a share of the image's level, below which an image has nothing to see."""


def _grey(x: Tensor) -> Tensor:
    """The mean of the channels, in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).mean(1)


def _scaled(salience: Tensor, level: Tensor) -> Tensor:
    """Salience between 0 and 1, without what rounding makes of an even image.

    Args:
        salience: Some power of contrast.
        level: What counts as nothing, one for each image.

    Returns:
        The salience over its maximum.
    """
    shape = [-1, *[1] * (salience.ndim - 1)]
    salience = (salience - level.reshape(shape)).clamp_min(0)
    largest = salience.flatten(1).amax(1).clamp_min(torch.finfo(salience.dtype).tiny)
    return salience / largest.reshape(shape)


class _Salience(nn.Module):
    widths: ClassVar[tuple[float, ...]] = ()

    def __init__(self, margin: int = 0) -> None:
        super().__init__()
        if not isinstance(margin, int) or margin < 0:
            raise ValueError(
                f"{type(self).__name__}: margin must be a whole number of pixels, got {margin!r}; "
                "0 for none"
            )
        self.margin = margin

    @property
    def reach(self) -> int:
        """Pixels to either side that the salience of a pixel is computed from, with a margin."""
        return sum(math.ceil(REACH * width) - 1 for width in self.widths)

    def bounds(self, value_range: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """Between which values the salience of a pixel lies, whatever the image.

        Args:
            value_range: The least and the largest value of each channel.

        Returns:
            The least and the largest salience; infinite where it is relative to that of others.
        """
        return 0.0, math.inf

    def weights(self, size: int, like: Tensor) -> Tensor:
        """How much the pixels of an axis count: not in the margin, and behind it they fade in.

        Args:
            size: Number of pixels.
            like: Gives dtype and device.

        Returns:
            The weights, ``(size,)``.

        Raises:
            ValueError: If nothing is left between the margins.
        """
        if not self.margin:
            return torch.ones(size, dtype=like.dtype, device=like.device)
        if type(size) is int and size <= 2 * self.margin:
            raise ValueError(
                f"{type(self).__name__}: images must be larger than twice the margin of "
                f"{self.margin} pixels, got {size}; take a smaller margin"
            )
        return F.pad(taper("sine", size - 2 * self.margin, like), (self.margin, self.margin))

    def _window(self, x: Tensor) -> Tensor:
        """Weights of all pixels of maps without channels, ``(*spatial)``."""
        window = x.new_ones(())
        for size in x.shape[1:]:
            window = window[..., None] * self.weights(size, x)
        return window

    def unweighted(self, x: Tensor) -> Tensor:
        """The salience of every pixel, up to a factor, as if there were no margin.

        Args:
            x: Images, ``(N, C, *spatial)``.

        Returns:
            Salience, ``(N, *spatial)``.
        """
        raise NotImplementedError

    def salience(self, x: Tensor, *, pitch: float = 1.0, wraps: bool = False) -> Tensor:
        """What there is.

        Args:
            x: Images, ``(N, C, *spatial)``.
            pitch: Pixels from one place to the next, at most; some take every pixel, and with a
                margin all do.
            wraps: Whether the image goes on around the circle, without a margin; else it is
                mirrored at its edge.

        Returns:
            Salience, ``(N, *counts)``, with ``ceil(spatial / pitch)`` places or more.
        """
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Show the margin."""
        return f"margin={self.margin}" if self.margin else ""

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


class _Relative(_Salience):
    """Salience over its maximum in the image, to a power so high that the strongest decides."""

    def _strength(self, grey: Tensor, pitch: float, wraps: bool) -> Tensor:
        raise NotImplementedError

    def _powers(self, dims: int) -> tuple[int, int]:
        """Which power of contrast the strength is, and to which power it is raised."""
        raise NotImplementedError

    def unweighted(self, x: Tensor) -> Tensor:
        """The salience of every pixel, up to a factor, as if there were no margin."""
        contrast, power = self._powers(x.ndim - 2)
        strength = self._strength(_grey(x), 1.0, wraps=False)
        return _scaled(strength, strength.new_tensor(_EVEN**contrast)) ** power

    def salience(self, x: Tensor, *, pitch: float = 1.0, wraps: bool = False) -> Tensor:
        """What there is, between 0 and 1, see ``_Salience``."""
        grey, (contrast, power) = _grey(x), self._powers(x.ndim - 2)
        strength = self._strength(grey, pitch, wraps)
        if not self.margin or wraps:
            level = _EVEN * grey.square().flatten(1).mean(1).sqrt()
            return _scaled(strength, level.pow(contrast)) ** power
        # Nothing else depends on what lies in the margin, neither the maximum nor the level.
        window, level = self._window(strength), strength.new_tensor(_EVEN**contrast)
        return _scaled(strength * (window > 0), level) ** power * window


class CornerStrength(_Relative):
    """The component that holds the strongest corners.

    With the structure tensor ``T`` of the grey image (slopes of a Gaussian of 1.5 pixels, products
    smoothed by 2 pixels), the salience is ``max(det T - k tr(T)^D, 0)``, over its maximum, to the
    third power, so that the strongest corners decide; ``k`` is .05 in two dimensions and .005 in
    three, in one it is the slope squared.

    Args:
        margin: Pixels at the border in which nothing counts, so that what enters there has no
            power over the choice; see ``certified_radius``.  Salience is that of every pixel then.

    Raises:
        ValueError: If the margin is no whole number, or more than half of an image.

    Equivariance:
        To rounding: the scores permute with the components under circular shifts.  Checked by
        ``tests/nn/test_salience.py``.

    References:
        C. Harris and M. Stephens, "A combined corner and edge detector", Alvey Vision Conference
        1988.
    """

    widths = (1.5, 2.0)

    def _powers(self, dims: int) -> tuple[int, int]:
        return 2 * dims, 3

    def _strength(self, grey: Tensor, pitch: float, wraps: bool) -> Tensor:
        sizes, is_short = grey.shape[1:], self.margin > 0
        counts = [math.ceil(size / (1.0 if is_short else pitch)) for size in sizes]
        slope = Smoother(sizes, None, counts, wraps=wraps, is_short=is_short)
        smooth = Smoother(sizes, counts, wraps=wraps, is_short=is_short)
        near, far = self.widths
        dims = range(grey.ndim - 1)
        slopes = [slope(grey, near, slope_axis=axis) for axis in dims]
        pairs = [(i, j) for i in dims for j in dims if i <= j]
        tensor = {(i, j): smooth(slopes[i] * slopes[j], far) for i, j in pairs}
        trace = torch.stack([tensor[i, i] for i in dims]).sum(0)
        if len(dims) == 1:
            return trace
        if len(dims) == 2:
            product = tensor[0, 0] * tensor[1, 1]
            return product - tensor[0, 1].square() - 0.05 * trace.square()
        a, b, c = (tensor[i, i] for i in dims)
        d, e, f = tensor[0, 1], tensor[0, 2], tensor[1, 2]
        determinant = a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)
        return determinant - 0.005 * trace**3


class DifferenceOfGaussians(_Relative):
    """The component that holds the strongest blobs.

    The salience is the absolute difference of two smoothed grey images (1 and 1.6 pixels), over its
    maximum, to the eighth power, so that the strongest places decide.

    Args:
        margin: See ``CornerStrength``.

    Raises:
        ValueError: If the margin is no whole number, or more than half of an image.

    Equivariance:
        To rounding: the scores permute with the components under circular shifts.  Checked by
        ``tests/nn/test_salience.py``.

    References:
        D. G. Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004.
    """

    widths = (1.0, 1.6)

    @property
    def reach(self) -> int:
        """Pixels to either side that the salience of a pixel is computed from, with a margin."""
        return math.ceil(REACH * max(self.widths)) - 1

    def _powers(self, dims: int) -> tuple[int, int]:
        return 1, 8

    def _strength(self, grey: Tensor, pitch: float, wraps: bool) -> Tensor:
        sizes, is_short = grey.shape[1:], self.margin > 0
        counts = [math.ceil(size / (1.0 if is_short else min(1.0, pitch))) for size in sizes]
        smooth = Smoother(sizes, None, counts, wraps=wraps, is_short=is_short)
        near, far = (smooth(grey, width) for width in self.widths)
        return (near - far).abs()


class Energy(_Salience):
    """The component of the largest norm, as a salience: ``LargestNorm`` to a fraction of a pixel.

    Args:
        order: 1 or 2; the salience is the sum over channels of ``|x|^order``.
        margin: See ``CornerStrength``.

    Raises:
        ValueError: If the order is another, or the margin no whole number or more than half of an
            image.

    Equivariance:
        To rounding: the scores permute with the components under circular shifts.  Checked by
        ``tests/nn/test_salience.py``.
    """

    def __init__(self, order: int = 2, margin: int = 0) -> None:
        super().__init__(margin)
        if order not in (1, 2):
            raise ValueError(f"Energy: order must be 1 or 2, got {order}; choose one of them")
        self.order = order

    def unweighted(self, x: Tensor) -> Tensor:
        """The energy of every pixel, ``(N, *spatial)``, as if there were no margin."""
        values = x.to(torch.promote_types(x.dtype, torch.float32)).abs()
        return (values if self.order == 1 else values.square()).sum(1)

    def salience(self, x: Tensor, *, pitch: float = 1.0, wraps: bool = False) -> Tensor:
        """The energy of every pixel, ``(N, *spatial)``, see ``_Salience``."""
        energy = self.unweighted(x)
        return energy * self._window(energy) if self.margin and not wraps else energy

    def bounds(self, value_range: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """Between which values the energy of a pixel lies, whatever the image.

        Args:
            value_range: The least and the largest value of each channel.

        Returns:
            The least and the largest energy.
        """
        least = sum(max(low, -high, 0.0) ** self.order for low, high in value_range)
        largest = sum(max(-low, high) ** self.order for low, high in value_range)
        return least, largest


_weigh = taper  # the name is an argument below


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
        _weigh(taper, 1, torch.zeros(1))  # refuses an unknown one

    def _weights(self, x: Tensor) -> Tensor:
        weights = x.new_ones(())
        for size in x.shape[2:]:
            weights = weights[..., None] * _weigh(self.taper, size, weights)
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
