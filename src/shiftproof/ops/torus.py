"""Where content lies modulo a stride, to a fraction of a pixel.

The positions of a map modulo a stride are a torus.  A salience map, folded onto it with a taper
that fades to zero at the border, scores every place of the torus; the best place moves with the
content, and hardly feels what enters and leaves at the border.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from shiftproof.ops.phases import per_axis

TaperKind = Literal["sine", "hann", "triangle", "tukey", "none"]
TAPERS: tuple[TaperKind, ...] = get_args(TaperKind)

_CELLS = 4
"""Places per pixel that are scored; a parabola through three of them finds the peak between."""

_TIED = 1e-6
"""Share of the best score, or of the range, within which places tie; the least moved wins."""


class GridLocation(NamedTuple):
    """Where content lies modulo a stride.

    Attributes:
        offset: Pixels along each axis, ``(N, D)``, in (-S/2, S/2].
        gap: How sure that is, ``(N,)`` in [0, 1]: the lead of the best score over the best one
            that is more than an eighth of the stride away, as a share of the range of scores.
    """

    offset: Tensor
    gap: Tensor


def exact_products(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """A context in which autocast does not round products of matrices.

    Args:
        x: A tensor on the device in question.

    Returns:
        The context; one that does nothing where autocast is off.
    """
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def positions(size: int, like: Tensor) -> Tensor:
    """The positions of an axis, in the dtype and on the device of a tensor.

    Args:
        size: Number of pixels.
        like: The tensor.

    Returns:
        The whole numbers below ``size``.
    """
    return torch.arange(size, device=like.device).to(like.dtype)


def places(count: int, size: int, like: Tensor) -> Tensor:
    """Places that cover an axis evenly; as many as it has pixels are the pixels.

    Args:
        count: Number of places.
        size: Number of pixels.
        like: Gives dtype and device.

    Returns:
        Where they are, ``(count,)`` pixels; the first pixel is at 0.
    """
    return (2 * positions(count, like) + 1) * size / (2 * count) - 0.5


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply an axis of a tensor with a matrix.

    Args:
        x: Tensor with ``n`` entries along the axis.
        matrix: ``(m, n)``.
        axis: The axis, counted from the front, not the first.

    Returns:
        The product, with ``m`` entries along the axis.
    """
    if axis == x.ndim - 2:
        return torch.matmul(matrix, x)
    return torch.matmul(x.movedim(axis, -1), matrix.mT).movedim(-1, axis)


def fold(place: Tensor, period: float) -> Tensor:
    """A place modulo a period.

    Args:
        place: Pixels.
        period: Pixels.

    Returns:
        The place in (-period / 2, period / 2].
    """
    return period / 2 - torch.remainder(period / 2 - place, period)


def taper(kind: TaperKind, size: int, like: Tensor) -> Tensor:
    """Weights that fade to zero at both ends of an axis.

    Args:
        kind: ``"sine"`` (half a wave), ``"hann"`` (its square), ``"triangle"``, ``"tukey"`` (an
            eighth fades at either end) or ``"none"``.
        size: Number of pixels.
        like: Gives dtype and device.

    Returns:
        The weights, ``(size,)``, symmetric and at most 1.

    Raises:
        ValueError: If the kind is another.
    """
    at = (positions(size, like) + 0.5) / size
    if kind == "none":
        return torch.ones_like(at)
    if kind == "sine":
        return torch.sin(math.pi * at)
    if kind == "triangle":
        return 1 - (2 * at - 1).abs()
    if kind in ("hann", "tukey"):
        edge = 0.5 if kind == "hann" else 0.125
        inner = torch.minimum(at, 1 - at).clamp_max(edge)
        return torch.sin(math.pi / 2 * inner / edge).square()
    raise ValueError(
        f"taper: kind must be one of {', '.join(TAPERS)}, got {kind!r}; sine is the most stable"
    )


def bump(apart: Tensor, period: int) -> Tensor:
    """A Gaussian around the circle, ``exp(k (cos(2 pi d / period) - 1))``.

    Args:
        apart: Distances ``d``, in pixels.
        period: The circle, in pixels.

    Returns:
        Its values; the standard deviation is 2 pixels, and at most an eighth of the circle.
    """
    turn = 2 * math.pi / period
    sharpness = (turn * min(2.0, period / 8)) ** -2
    return torch.exp(sharpness * (torch.cos(turn * apart) - 1))


def cells(period: int, like: Tensor) -> Tensor:
    """The places of a circle that are scored.

    Args:
        period: The circle, in pixels.
        like: Gives dtype and device.

    Returns:
        Where they are, ``(4 period,)`` pixels.
    """
    return positions(_CELLS * period, like) / _CELLS


def torus_scores(
    salience: Tensor,
    stride: int | Sequence[int],
    *,
    sizes: Sequence[int] | None = None,
    kind: TaperKind = "sine",
    origin: Sequence[float] | None = None,
) -> Tensor:
    """Score the places of a content modulo a stride.

    ``score(u) = sum over y of w(y) salience(y) G(y - u)``, in which ``w`` is the taper and ``G``
    the Gaussian around the circle of the stride, see ``bump``.

    Args:
        salience: What there is, ``(N, *counts)``, at places that cover the image evenly.
        stride: In pixels, one for all axes or one per axis.
        sizes: Size of the image in pixels, per axis; what the salience has if None.
        kind: The taper, see ``taper``.
        origin: Pixel that is place 0, per axis; the first if None.

    Returns:
        Scores of four places per pixel, ``(N, *(4 stride))``.

    Raises:
        ValueError: If a stride is below 1, there is not one per axis, or the taper is unknown.

    Equivariance:
        Approximate: content that moves takes its score along, up to what the taper weighs
        otherwise and what crosses the border.  Checked by ``tests/ops/test_torus.py``.
    """
    strides = per_axis("torus_scores", stride, salience.ndim - 1)
    scores = salience
    begin = [0.0] * len(strides) if origin is None else origin
    with exact_products(salience):
        for axis, period in enumerate(strides, 1):
            count = salience.shape[axis]
            size = count if sizes is None else sizes[axis - 1]
            found = places(count, size, salience) - begin[axis - 1]
            weights = bump(cells(period, salience)[:, None] - found, period)
            scores = along(scores, weights * taper(kind, count, salience), axis)
    return scores


def _corrected(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three neighbours has its maximum, from the middle one."""
    bend = (2 * at - before - after).clamp_min(torch.finfo(at.dtype).tiny)
    return ((after - before) / (2 * bend)).clamp(-0.5, 0.5)


def _beside(values: Tensor, axis: int, dims: int) -> Tensor:
    """One number per place of an axis, ``(K,)`` or ``(N, K)``, so that it meets the other axes."""
    shape = [values.shape[-1] if i == axis else 1 for i in range(dims)]
    return values.reshape(-1, *shape)


def torus_peak(scores: Tensor, stride: int | Sequence[int]) -> GridLocation:
    """The best place on a torus, between the places that were scored.

    Args:
        scores: Scores, ``(N, *cells)``, with the same number of places for every pixel.
        stride: In pixels, one for all axes or one per axis.

    Returns:
        The place of the largest score, of equal ones that next to 0, and how sure it is.  Where all
        scores are the same it is at 0, with a gap of 0.

    Raises:
        ValueError: If a stride is below 1, or there is not one per axis.

    Equivariance:
        Rolled scores give the place that is further by as much, modulo the stride, except where
        scores tie.  Checked by ``tests/ops/test_torus.py``.
    """
    counts = scores.shape[1:]
    dims = len(counts)
    strides = per_axis("torus_peak", stride, dims)
    flat = scores.flatten(1)
    best, worst = flat.amax(1), flat.amin(1)
    scale = (best - worst).clamp_min(torch.finfo(scores.dtype).tiny)
    pitches = [period / count for count, period in zip(counts, strides, strict=True)]
    centres = [positions(n, scores) * pitch for n, pitch in zip(counts, pitches, strict=True)]

    distance = torch.zeros_like(scores)
    for axis, (place, period) in enumerate(zip(centres, strides, strict=True)):
        distance = distance + _beside(fold(place, period).square(), axis, dims)
    tolerance = _TIED * torch.maximum(scale, best.abs())
    leads = (best - tolerance).reshape(-1, *[1] * dims)
    distance = distance.masked_fill(scores < leads, math.inf)
    nearest = distance.flatten(1).argmin(1)
    coordinates: list[Tensor] = []
    for count in reversed(counts):
        coordinates.insert(0, torch.remainder(nearest, count))
        nearest = torch.div(nearest, count, rounding_mode="floor")

    def read(moved: Sequence[Tensor]) -> Tensor:
        index = torch.zeros_like(moved[0])
        for count, coordinate in zip(counts, moved, strict=True):
            index = index * count + torch.remainder(coordinate, count)
        return flat.gather(1, index[:, None])[:, 0]

    at, found = read(coordinates), []
    away = torch.zeros_like(scores, dtype=torch.bool)
    for axis, (period, pitch) in enumerate(zip(strides, pitches, strict=True)):
        before, after = (
            read([c + side if i == axis else c for i, c in enumerate(coordinates)])
            for side in (-1, 1)
        )
        place = coordinates[axis].to(scores.dtype) * pitch
        found.append(fold(place + _corrected(before, at, after) * pitch, period))
        apart = fold(centres[axis] - place[:, None], period).abs()
        away = away | _beside(apart > period / 8, axis, dims)
    rest = torch.where(away, scores, worst.reshape(-1, *[1] * dims)).flatten(1).amax(1)
    offset = torch.stack(found, 1).nan_to_num(0.0)  # an image with nan stays where it is
    return GridLocation(offset, ((at - rest) / scale).clamp(0, 1).nan_to_num(0.0))
