"""A lock: the image moved by part of a stride, so that its content fixes the grid."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shiftproof.nn.salience import CornerStrength
from shiftproof.nn.strided import StridedModule
from shiftproof.ops.padding import check_padding_mode
from shiftproof.ops.phases import constants, per_axis
from shiftproof.ops.resample import EDGE_MODES, EdgeMode, extended, read_between
from shiftproof.ops.shift import crop_shift
from shiftproof.ops.torus import GridLocation, TaperKind, fold, torus_peak, torus_scores


@torch.no_grad()
def locate_grid(
    images: Tensor,
    stride: int | Sequence[int],
    selector: nn.Module | None = None,
    *,
    taper: TaperKind = "sine",
    origin: Sequence[float] | None = None,
) -> GridLocation:
    """Find where the content of images lies modulo a stride, to a fraction of a pixel.

    ``score(u) = sum over y of w(y) salience(y) G(y - u)`` on the torus of places modulo the
    stride, with a taper ``w`` and a narrow Gaussian ``G``; the result is its maximiser.  A camera
    that moves by ``d`` pixels moves the content, and with it the place, by ``-d``.

    Args:
        images: Images, ``(N, C, *spatial)``, with 1, 2 or 3 spatial axes.
        stride: In pixels, one for all axes or one per axis.
        selector: What there is to see, a module with a method ``salience`` (see
            ``shiftproof.nn.CornerStrength``); of any other selector the scores of whole pixels are
            taken, and the taper is its own business.  ``CornerStrength()`` if None.
        taper: How salience fades at the border.
        origin: Pixel that is place 0, per axis; the first if None.

    Returns:
        The offset, ``(N, D)`` pixels in (-S/2, S/2], to a fraction of a pixel for strides of 4 and
        more, and how sure it is, ``(N,)`` in [0, 1].

    Raises:
        ValueError: If a stride is below 1, there is not one per axis, or the taper is unknown.

    Equivariance:
        Approximate: what enters and leaves at the border is tapered, not excluded.  Measured in
        docs/guide/motion.md; checked by ``tests/nn/test_grid.py``.
    """
    strides = per_axis("locate_grid", stride, images.ndim - 2)
    selector = CornerStrength() if selector is None else selector
    salience = getattr(selector, "salience", None)
    dtype = torch.promote_types(images.dtype, torch.float32)
    if salience is None:
        scores: Tensor = selector(images, strides).to(torch.float64)
        place = torus_peak(scores.reshape(-1, *strides), strides)
        begin = [0.0] * len(strides) if origin is None else origin
        pairs = enumerate(zip(strides, begin, strict=True))
        moved = torch.stack([fold(place.offset[:, i] - first, s) for i, (s, first) in pairs], 1)
        return GridLocation(moved.to(dtype), place.gap.to(dtype))
    # Coarser places would add a ripple of their own to the score of a stride.
    found = salience(images.detach(), pitch=max(0.5, min(1.5, min(strides) / 8)))
    scores = torus_scores(found, strides, sizes=images.shape[2:], kind=taper, origin=origin)
    return torus_peak(scores, strides)


def grid_offset(
    images: Tensor, stride: int | Sequence[int], selector: nn.Module | None = None
) -> Tensor:
    """Where the content of images lies modulo a stride: ``locate_grid(...).offset``.

    Args:
        images: Images, ``(N, C, *spatial)``.
        stride: In pixels, one for all axes or one per axis.
        selector: What there is to see; ``CornerStrength()`` if None.

    Returns:
        The offset, ``(N, D)`` pixels in (-S/2, S/2].

    Raises:
        ValueError: If a stride is below 1, or there is not one per axis.

    Equivariance:
        Approximate, see ``locate_grid``.
    """
    return locate_grid(images, stride, selector).offset


class GridView(NamedTuple):
    """What a lock looks at.

    Attributes:
        images: The images, ``(N, C, *spatial)``, at the scale of the network.
        origin: Pixel of theirs that is place 0, per axis: where the window starts in the middle.
        room: Pixels by which the window may move further than half a stride before it shows what is
            beyond the edge of the frame, per axis; negative where it does so before.
    """

    images: Tensor
    origin: tuple[float, ...]
    room: tuple[float, ...]


class WholePixels(nn.Module):
    """Windows that start at the nearest whole pixel: one copy, which changes no value.

    Equivariance:
        Exact (bitwise) for starts that differ by whole pixels, inside the image.  Checked by
        ``tests/nn/test_grid.py``.
    """

    def forward(
        self,
        x: Tensor,
        start: Tensor,
        size: Sequence[int],
        reach: Sequence[int],
        padding_mode: EdgeMode,
    ) -> Tensor:
        """Cut the windows.

        Args:
            x: Images, ``(N, C, *spatial)``.
            start: First place of each window, ``(N, D)`` pixels.
            size: Size of the windows.
            reach: How far they may leave the image, per axis.
            padding_mode: What is beyond the edge.

        Returns:
            The windows, ``(N, C, *size)``.
        """
        first = (start + 0.5).floor().to(torch.int64)
        first = first + constants(reach, first)
        return crop_shift(extended(x, reach, padding_mode), first, size)


class BandLimited(nn.Module):
    """Windows that start at fractions of a pixel, by a kernel that answers alike at all of them.

    Linear, cubic and short Lanczos kernels answer the finest detail differently at every fraction,
    which makes a network flicker more than without a lock.  A kernel whose response is near zero
    there softens the image a little instead.

    Args:
        taps: Pixels that each place is computed from, per axis; even.
        cutoff: Where the response falls, as a share of the highest frequency; 0 with two taps is
            linear interpolation.

    Raises:
        ValueError: If the taps are not even and at least 2.

    Equivariance:
        Approximate: the response differs between fractions close to the highest frequency.  Checked
        by ``tests/ops/test_resample.py``.
    """

    def __init__(self, taps: int = 16, cutoff: float = 0.9) -> None:
        super().__init__()
        if taps < 2 or taps % 2:
            raise ValueError(f"BandLimited: taps must be even and at least 2, got {taps}; take 16")
        self.taps, self.cutoff = taps, cutoff

    def forward(
        self,
        x: Tensor,
        start: Tensor,
        size: Sequence[int],
        reach: Sequence[int],
        padding_mode: EdgeMode,
    ) -> Tensor:
        """Cut the windows.

        Args:
            x: Images, ``(N, C, *spatial)``.
            start: First place of each window, ``(N, D)`` pixels.
            size: Size of the windows.
            reach: How far they may leave the image, per axis.
            padding_mode: What is beyond the edge.

        Returns:
            The windows, ``(N, C, *size)``.
        """
        return read_between(
            x,
            start,
            size,
            taps=self.taps,
            cutoff=self.cutoff,
            reach=reach,
            padding_mode=padding_mode,
        )

    def extra_repr(self) -> str:
        """Show the kernel."""
        return f"taps={self.taps}, cutoff={self.cutoff}"


class _GridLock(StridedModule):
    def __init__(
        self,
        stride: int | Sequence[int],
        selector: nn.Module | None = None,
        interpolation: nn.Module | None = None,
        padding_mode: EdgeMode = "reflect",
        margin: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(stride)
        name = type(self).__name__
        check_padding_mode(name, padding_mode, EDGE_MODES, "reflect invents least")
        for what, part in (("selector", selector), ("interpolation", interpolation)):
            if part is not None and not isinstance(part, nn.Module):
                raise TypeError(
                    f"{name}: {what} must be a module, got {part!r}; see shiftproof.nn, or leave it"
                )
        pixels = tuple(margin) if isinstance(margin, Sequence) else (margin,) * self.num_dims
        if len(pixels) != self.num_dims or not all(
            isinstance(p, Integral) and p >= 0 and p % 2 == 0 for p in pixels
        ):
            raise ValueError(
                f"{name}: margin must be an even number of pixels, one for all axes or one for "
                f"each of {self.num_dims}, got {margin}; take the stride, or the next even number"
            )
        self.selector = CornerStrength() if selector is None else selector
        self.interpolation = BandLimited() if interpolation is None else interpolation
        self.padding_mode, self.margin = padding_mode, pixels

    def look(self, x: Tensor) -> GridView:
        """What the offset is found on.

        Args:
            x: Images, ``(N, C, *spatial)``, the margin included.

        Returns:
            The images themselves, and where the window starts in them.

        Raises:
            ValueError: If the input has another number of axes.
        """
        if x.ndim != 2 + self.num_dims:
            other = f", or take GridLock{x.ndim - 2}d" if x.ndim in (3, 4, 5) else ""
            raise ValueError(
                f"{type(self).__name__}: images must be (N, C) and {self.num_dims} spatial axes, "
                f"got shape {tuple(x.shape)}; add the batch axis{other}"
            )
        middle = tuple(pixels / 2 for pixels in self.margin)
        room = tuple(m - s / 2 for m, s in zip(middle, self.stride, strict=True))
        return GridView(x, middle, room)

    def offset(self, x: Tensor) -> Tensor:
        """By how much the window is moved from the middle of its frame.

        Args:
            x: Images, ``(N, C, *spatial)``, the margin included.

        Returns:
            Pixels, ``(N, D)``, in (-S/2, S/2]; without a margin ``grid_offset``.

        Raises:
            ValueError: If the input has another number of axes.
        """
        view = self.look(x)
        return locate_grid(x, self.stride, self.selector, origin=view.origin).offset

    def forward(self, x: Tensor, offset: Tensor | None = None) -> Tensor:
        """Move images so that their content fixes the grid.

        Args:
            x: Images, ``(N, C, *spatial)``, the margin included.
            offset: What ``offset(x)`` gave; computed if None.

        Returns:
            The windows, ``(N, C, *(spatial - margin))``: pixel ``i`` shows what is at
            ``i + margin / 2 + offset``.

        Raises:
            ValueError: If the input has another number of axes, or is smaller than what is shown
                beyond its edge.
        """
        offset = self.offset(x) if offset is None else offset
        half = [pixels // 2 for pixels in self.margin]
        start = offset + constants(half, offset)
        size = [n - m for n, m in zip(x.shape[2:], self.margin, strict=True)]
        if min(size) < 1:
            raise ValueError(
                f"{type(self).__name__}: images must be larger than the margin {self.margin}, got "
                f"{tuple(x.shape[2:])}; pass larger images"
            )
        pairs = zip(self.stride, half, strict=True)
        reach = [max(0, s // 2 + 1 - h) for s, h in pairs]
        moved: Tensor = self.interpolation(x, start, size, reach, self.padding_mode)
        return moved

    def extra_repr(self) -> str:
        """Show the stride, the margin and the edges."""
        margin = f", margin={self.margin}" if any(self.margin) else ""
        return f"{super().extra_repr()}, padding_mode={self.padding_mode!r}{margin}"


class GridLock1d(_GridLock):
    """A lock for signals, ``(N, C, L)``; otherwise as ``GridLock2d``."""

    num_dims = 1


class GridLock2d(_GridLock):
    """Move each image by at most half a stride, so that its content fixes the grid of a network.

    In front of a network with this total stride, of any weights and padding, it makes the network
    see the same content on the same grid while a camera moves, also by fractions of a pixel.

    Args:
        stride: Total stride of the network, in pixels, one for all axes or one per axis.
        selector: What the content is, see ``locate_grid``; ``CornerStrength()`` if None.
        interpolation: How windows between pixels are read; ``BandLimited()`` if None,
            ``WholePixels()`` for a copy at the nearest pixel.
        padding_mode: What is shown beyond the edge: ``"reflect"``, ``"replicate"``, ``"zeros"`` or
            ``"circular"``.
        margin: Pixels by which images are larger than what the network shall see, even, both sides
            together; with the stride or more, nothing has to be shown beyond the edge but for what
            the kernel reads.

    Raises:
        ValueError: If a stride is below 1, there is not one per axis, or a name or the margin is
            wrong.

    Equivariance:
        Approximate: measured in docs/guide/motion.md.  Checked by ``tests/nn/test_grid.py``.

    Examples:
        >>> import torch
        >>> lock = GridLock2d(stride=32)
        >>> lock(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    num_dims = 2


class GridLock3d(_GridLock):
    """A lock for volumes, ``(N, C, D, H, W)``; otherwise as ``GridLock2d``."""

    num_dims = 3
