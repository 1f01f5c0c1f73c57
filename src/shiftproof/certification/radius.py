"""How far a camera may move before what enters at the border can change the grid of a lock."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.nn.grid import GridLock1d, GridLock2d, GridLock3d, WholePixels
from shiftproof.ops.torus import bump, cells, fold, positions, taper, torus_peak

LOCKS = (GridLock1d, GridLock2d, GridLock3d)
Range = tuple[float, float] | Sequence[tuple[float, float]]

_SLACK = 1e-4
"""Lead, as a share of the best score, below which rounding in float32 might decide."""

_CLOSE = 1e-3
"""Pixels within which rounding might move a place across a limit."""

_HALF = 0.125
"""Half the distance of two places that are scored; the peak is at most so far from the best."""

_NOTHING = 1e-12
"""Scores and weights up to which there is nothing."""


@torch.no_grad()
def certified_radius(
    lock: nn.Module, images: Tensor, *, value_range: Range = (0.0, 1.0), tolerance: float = 0.5
) -> Tensor:
    """How far the scene may move, whatever enters, so that the grid of a lock stays with it.

    For each image the largest whole ``D`` is found so that no translation of the scene by whole
    pixels, at most ``D`` along each axis, with anything within the range where new content enters,
    moves the grid in the scene by more than the tolerance; for a lock that reads whole pixels, at
    all.

    *Proof.*  The salience of a pixel is computed from pixels at most ``reach`` away.  Let the scene
    move by ``d`` pixels.  A pixel that is more than ``reach`` away from the border in both frames
    has the same salience in both: what lies around it is in both.  All others are *unknown*; their
    salience lies between ``lo`` and ``hi``, by ``selector.bounds``.  The score of a place is a sum
    over pixels with weights that are not negative, those of the taper and of the bump around the
    place.  So in the new frame it is the sum over the known pixels, which is computed here, plus at
    least ``lo`` and at most ``hi`` times the weights of the unknown ones.  The best place is near
    the old one, as it moved with the scene, if the largest upper bound of the places further away
    is below the largest lower bound of the near ones; the peak between places is at most half of
    their distance from the best.  All ``(2 D + 1)^k`` translations are tried.  Where the selector
    has a margin, its weights are zero there: if the margin is at least ``reach + D``, every pixel
    with a weight is known, nothing that enters has any power, and the place is computed itself.

    It holds for whole pixels, and for the choice of the grid; the network sees new content at the
    border all the same.

    Args:
        lock: ``nn.GridLock1d``, ``2d`` or ``3d``, or a network that holds one, such as
            ``lock_grid`` returns.  Its selector must have ``unweighted``, ``weights``, ``reach``
            and ``bounds``; those of ``shiftproof.nn`` do.  ``CornerStrength`` and
            ``DifferenceOfGaussians``, whose salience is relative to the strongest of the image,
            certify as far as their margin is larger than their reach: 6 pixels for
            ``CornerStrength(margin=17)``.
        images: Images as the lock gets them, ``(N, C, *spatial)``.
        value_range: The least and the largest value of what may enter; one pair, or one per
            channel where images are normalised.
        tolerance: Pixels by which the grid may move, above an eighth, for a lock that reads between
            pixels.

    Returns:
        The radius of each image in whole pixels, ``(N,)`` int64; 0 if nothing is certain.

    Raises:
        TypeError: If there is no lock, or its selector has no bounds.
        ValueError: If an image has values outside of the range, or the tolerance is too small.

    Equivariance:
        The statement is tested by attack, with borders that random, extreme and searching
        adversaries fill, in ``tests/certification/test_radius.py``.

    Examples:
        >>> from shiftproof.nn import CornerStrength, GridLock2d
        >>> scene = torch.zeros(1, 1, 96, 96)
        >>> scene[..., 40:52, 41:55] = 1.0
        >>> certified_radius(GridLock2d(8, CornerStrength(margin=16)), scene).tolist()
        [2]
    """
    found = _lock_of(lock)
    ranges = _ranges(value_range, images)
    if tolerance <= _HALF:
        raise ValueError(
            "certified_radius: the tolerance must be above an eighth of a pixel, to which places "
            f"are scored, got {tolerance}; take .5"
        )
    radii = [_radius(found, image[None], ranges, tolerance) for image in images]
    return torch.tensor(radii, dtype=torch.int64)


def radius_notes(model: object, images: Tensor) -> list[str]:
    """What a certificate says of a model with a lock: how far its grid holds under real motion.

    Args:
        model: Any model.
        images: Its images.

    Returns:
        One line, or none where there is no lock that can be certified for these images.
    """
    if not isinstance(model, nn.Module) or not images.is_floating_point():
        return []
    if not any(isinstance(module, LOCKS) for module in model.modules()):
        return []
    ranges = [(float(part.min()), float(part.max())) for part in images.unbind(1)]
    try:
        radii = certified_radius(model, images, value_range=ranges)
    except (TypeError, ValueError):
        return []
    return [
        "under real translations its lock holds its grid in the scene, whatever enters of the "
        f"values seen here, up to {int(radii.min())} to {int(radii.max())} pixels"
    ]


def _lock_of(lock: nn.Module) -> Any:
    """The lock itself, with a selector that can be bounded."""
    modules = lock.modules() if isinstance(lock, nn.Module) else ()
    found: Any = next((module for module in modules if isinstance(module, LOCKS)), None)
    if found is None:
        raise TypeError(
            f"certified_radius: lock must be a GridLock or hold one, got {type(lock).__name__}; "
            "pass what lock_grid returned"
        )
    needed = ("unweighted", "weights", "reach", "bounds")
    if not all(hasattr(found.selector, name) for name in needed):
        raise TypeError(
            "certified_radius: the selector must have a salience with bounds, got "
            f"{type(found.selector).__name__}; take nn.CornerStrength(margin=16)"
        )
    return found


def _ranges(value_range: Range, images: Tensor) -> list[tuple[float, float]]:
    """One range for each channel; images must lie within."""
    given: Any = value_range
    pairs = list(given) if isinstance(given[0], Sequence) else [given] * images.shape[1]
    if len(pairs) != images.shape[1] or any(not low <= high for low, high in pairs):
        raise ValueError(
            "certified_radius: value_range must be (least, largest), or one such pair for each of "
            f"the {images.shape[1]} channels, got {value_range}; pass the range of the pixels"
        )
    ranges = [(float(low), float(high)) for low, high in pairs]
    for channel, (low, high) in enumerate(ranges):
        least, largest = images[:, channel].aminmax()
        if not low <= float(least) <= float(largest) <= high:
            raise ValueError(
                f"certified_radius: images must lie within value_range, got {float(least):.4g} to "
                f"{float(largest):.4g} in channel {channel}, outside of {low:g} to {high:g}; pass "
                "the range that the network's images have"
            )
    return ranges


class _Frame:
    """What is known of the scores of an image, once the scene has moved."""

    def __init__(self, lock: Any, image: Tensor, ranges: Sequence[tuple[float, float]]) -> None:
        selector = lock.selector
        self.strides, self.sizes, self.reach = lock.stride, image.shape[2:], selector.reach
        self.middle = [pixels / 2 for pixels in lock.margin]
        self.salience = selector.unweighted(image.double().cpu())[0]
        self.weights = [
            taper("sine", size, self.salience) * selector.weights(size, self.salience)
            for size in self.sizes
        ]
        self.least, self.largest = selector.bounds(ranges)

    def scores(self, shift: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Scores of the places of the old frame, once the camera has moved by a shift.

        Args:
            shift: Pixels by which the camera moves; the scene moves the other way in the frame.

        Returns:
            The sum over the known pixels, and the weights of the unknown ones, ``(*cells)``.
        """
        known, every, certain = self.salience, [], []
        for axis, (d, size, period) in enumerate(zip(shift, self.sizes, self.strides, strict=True)):
            scene = positions(size, known) + d  # the pixels of the new frame, in the old one
            place = cells(period, known)[:, None]
            matrix = bump(place - (scene - self.middle[axis]), period) * self.weights[axis]
            low, high = self.reach + max(0, d), size - self.reach + min(0, d)
            is_known = (scene >= low) & (scene < high)
            every.append(matrix.sum(1))
            certain.append((matrix * is_known).sum(1))
            moved = known.roll(-d, axis)
            known = torch.tensordot(moved, matrix * is_known, dims=([axis], [1])).movedim(-1, axis)
        return known, _outer(every) - _outer(certain)


def _outer(rows: Sequence[Tensor]) -> Tensor:
    return functools.reduce(lambda result, row: result[..., None] * row, rows)


def _radius(
    lock: Any, image: Tensor, ranges: Sequence[tuple[float, float]], tolerance: float
) -> int:
    frame = _Frame(lock, image, ranges)
    place = lock.offset(image)[0].double().cpu()
    for radius in range(1, min(frame.sizes)):
        steps = range(-radius, radius + 1)
        for shift in itertools.product(steps, repeat=len(frame.sizes)):
            is_new = max(map(abs, shift)) == radius or radius == 1
            if is_new and not _stays(frame, lock, shift, place, tolerance):
                return radius - 1
    return min(frame.sizes) - 1


def _stays(frame: _Frame, lock: Any, shift: Sequence[int], place: Tensor, tolerance: float) -> bool:
    """Whether the grid stays at its place in the scene, whatever enters."""
    known, weights = frame.scores(shift)
    best, total = float(known.max()), float(weights.max())
    if best <= _NOTHING:
        return False
    base, limits = place, (-tolerance, tolerance)
    if isinstance(lock.interpolation, WholePixels):  # which rounds halves up
        base, limits = torch.floor(place + 0.5), (-0.5, 0.5)
    if total <= _NOTHING:  # nothing that enters has power, so the place itself is known
        found = _apart(known, frame.strides, base)
        return bool(((found > limits[0] + _CLOSE) & (found < limits[1] - _CLOSE)).all())
    if math.isinf(frame.largest):
        return False
    is_near = known.new_ones(known.shape, dtype=torch.bool)
    for axis, period in enumerate(frame.strides):
        apart = fold(cells(period, known) - base[axis], period)
        near = (apart - _HALF > limits[0]) & (apart + _HALF < limits[1])
        is_near &= near.reshape([-1 if i == axis else 1 for i in range(known.ndim)])
    if not bool(is_near.any()):
        return False
    far = (known + frame.largest * weights).masked_fill(is_near, -math.inf).max()
    near_best = (known + frame.least * weights).masked_fill(~is_near, -math.inf).max()
    return float(far) < float(near_best) - _SLACK * best


def _apart(known: Tensor, strides: Sequence[int], base: Tensor) -> Tensor:
    """How far the best place is from another, per axis."""
    offset = torus_peak(known[None], strides).offset[0]
    pairs = enumerate(zip(offset, strides, strict=True))
    return torch.stack([fold(at - base[axis], period) for axis, (at, period) in pairs])
