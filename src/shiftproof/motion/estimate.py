"""By how much content moved from one frame to the next, modulo a stride."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shiftproof.ops.phases import per_axis
from shiftproof.ops.torus import along, exact_products, fold, positions, taper

_LEAST_PERIOD = 64
"""Frames are folded to at least so many pixels, since a small torus tells little apart."""

_WIDTHS = (1.0, 1.6)
"""Standard deviations of the Gaussians whose difference is the band that is looked at."""

_PITCH = 8
"""Places per pixel around the best whole pixel; a parabola through three finds the peak."""


class MotionEstimate(NamedTuple):
    """By how much content moved.

    Attributes:
        motion: Pixels along each axis, ``(N, 2)``, in (-S/2, S/2].
        agreement: How alike the frames are once moved, ``(N,)`` in [-1, 1]: the correlation there.
    """

    motion: Tensor
    agreement: Tensor


class Folding:
    """Folds frames of a size to a torus, and compares what it has folded.

    Args:
        sizes: Height and width of the frames, in pixels.
        stride: In pixels, per axis.
    """

    def __init__(self, sizes: Sequence[int], stride: Sequence[int]) -> None:
        self.sizes, self.stride = tuple(sizes), tuple(stride)
        self.periods = tuple(math.ceil(_LEAST_PERIOD / s) * s for s in self.stride)
        self._matrices: dict[tuple[int, torch.dtype, torch.device], tuple[Tensor, ...]] = {}

    def _along(self, axis: int, like: Tensor) -> tuple[Tensor, ...]:
        """Smoothing by each width, then the taper, then the fold: ``(period, size)``."""
        key = (axis, like.dtype, like.device)
        if key not in self._matrices:
            at = positions(self.sizes[axis], like)
            apart = at[:, None] - at
            place = positions(self.periods[axis], like)[:, None]
            folds = torch.remainder(at, self.periods[axis]) == place
            weighed = folds * taper("sine", self.sizes[axis], like)
            found = []
            for width in _WIDTHS:
                smooth = torch.exp((-(apart / width).square() / 2).clamp_min(-50))
                found.append(weighed @ (smooth / smooth.sum(1, keepdim=True)))
            self._matrices[key] = tuple(found)
        return self._matrices[key]

    def spectra(self, frames: Tensor) -> Tensor:
        """What is compared: the spectrum over the root of its modulus, of norm 1.

        Args:
            frames: Frames, ``(N, C, H, W)``.

        Returns:
            Complex numbers, ``(N, *periods)``.
        """
        x = frames.detach().to(torch.promote_types(frames.dtype, torch.float32)).mean(1)
        with exact_products(x):
            parts = [
                along(along(x, rows, 1), columns, 2)
                for rows, columns in zip(self._along(0, x), self._along(1, x), strict=True)
            ]
        spectra = torch.fft.fft2(parts[0] - parts[1])
        for axis, frequencies in enumerate(self._frequencies(x), 1):
            # The highest frequency of an even period has no sign.
            known = frequencies.abs() < self.periods[axis - 1] / 2
            spectra = spectra * (known[:, None] if axis == 1 else known)
        size = spectra.abs().clamp_min(torch.finfo(x.dtype).tiny)
        scaled: Tensor = spectra / size.sqrt() / size.sum((1, 2), keepdim=True).sqrt()
        return scaled

    def _frequencies(self, like: Tensor) -> list[Tensor]:
        """Waves around the circle of each axis, in the order of the transform."""
        return [fold(positions(p, like), p) for p in self.periods]

    def compare(self, previous: Tensor, current: Tensor) -> MotionEstimate:
        """Where two frames agree best.

        Args:
            previous: What ``spectra`` gave for a frame, ``(N, *periods)``.
            current: The same for a later one.

        Returns:
            By how much the content moved.
        """
        spectra = current * previous.conj()
        best = torch.fft.ifft2(spectra).real.flatten(1).argmax(1)
        width = self.periods[1]
        whole = torch.stack([torch.div(best, width, rounding_mode="floor"), best % width], 1)
        whole = whole.to(spectra.real.dtype)
        near = (positions(2 * _PITCH + 1, whole) - _PITCH) / _PITCH
        scores = spectra
        for axis, frequencies in enumerate(self._frequencies(whole)):
            turns = (whole[:, axis, None] + near)[..., None] * frequencies / self.periods[axis]
            scores = along(scores, torch.exp(2j * math.pi * turns), 1 + axis)
        place, agreement = _peak(scores.real)
        moved = whole + (place - _PITCH) / _PITCH
        motion = torch.stack([fold(moved[:, i], s) for i, s in enumerate(self.stride)], 1)
        agreement = agreement.nan_to_num(0.0)
        # Where there is nothing to see, nothing moves.
        return MotionEstimate(torch.where(agreement[:, None] > 0, motion, 0.0), agreement)


@torch.no_grad()
def estimate_motion(
    previous: Tensor, current: Tensor, stride: int | Sequence[int]
) -> MotionEstimate:
    """Estimate by how much content moved, modulo a stride and to a fraction of a pixel.

    Grey frames pass a band (the difference of Gaussians of 1 and 1.6 pixels), fade to zero at the
    border by half a sine, and are folded to a torus: pixels whose places agree modulo the period
    are added.  The period is the smallest multiple of the stride from 64 pixels on.  With the
    spectra ``A`` and ``B`` of the two, the motion is the maximiser of the real part of
    ``sum over k of B(k) conj A(k) / sqrt(|A(k)| |B(k)|) exp(2 pi i k u / period)``, and the
    agreement is that maximum over ``sqrt(sum |A| sum |B|)``.

    Args:
        previous: Frames, ``(N, C, H, W)``.
        current: As many frames of the same size, each after its previous one.
        stride: In pixels, one for both axes or one per axis.

    Returns:
        The motion, ``(N, 2)`` pixels in (-S/2, S/2]: positive where content moves down and to the
        right, which is a camera that moves up and to the left; and the agreement, ``(N,)``.

    Raises:
        ValueError: If the frames have different shapes or not four axes, or a stride is below 1.

    Equivariance:
        Approximate: what enters and leaves at the border is tapered, not excluded.  Measured in
        docs/guide/motion.md; checked by ``tests/motion/test_video.py``.

    References:
        C. D. Kuglin and D. C. Hines, "The phase correlation image alignment method", IEEE
        International Conference on Cybernetics and Society 1975; M. Guizar-Sicairos, S. T. Thurman
        and J. R. Fienup, "Efficient subpixel image registration algorithms", Optics Letters 2008.

    Examples:
        >>> scene = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
        >>> scene = torch.nn.functional.interpolate(scene, (128, 160), mode="bicubic")
        >>> before, after = scene[..., 1:-1, :-4], scene[..., 2:, 4:]
        >>> estimate_motion(before, after, stride=32).motion.round().tolist()
        [[-1.0, -4.0]]
    """
    if previous.ndim != 4 or previous.shape != current.shape:
        raise ValueError(
            "estimate_motion: frames must be (N, C, H, W), both of one shape, got "
            f"{tuple(previous.shape)} and {tuple(current.shape)}; pass as many of one size"
        )
    folding = Folding(previous.shape[2:], per_axis("estimate_motion", stride, 2))
    return folding.compare(folding.spectra(previous), folding.spectra(current))


def _peak(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the maximum along each axis, between the places, and the maximum."""
    count = scores.shape[2]
    best = scores.flatten(1).argmax(1)
    index = [torch.div(best, count, rounding_mode="floor"), best % count]
    index = [i.clamp(1, count - 2) for i in index]
    rows = torch.arange(len(scores), device=scores.device)
    at, found = scores[rows, index[0], index[1]], []
    for axis, place in enumerate(index):
        before, after = (
            scores[rows, index[0] + (axis == 0) * side, index[1] + (axis == 1) * side]
            for side in (-1, 1)
        )
        bend = (2 * at - before - after).clamp_min(torch.finfo(at.dtype).tiny)
        found.append(place + ((after - before) / (2 * bend)).clamp(-0.5, 0.5))
    return torch.stack(found, 1), at
