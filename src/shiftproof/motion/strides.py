"""The total stride of a network of which only its answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Answers = Callable[[Tensor], Sequence[Tensor]]

LARGEST = 48
"""The largest stride that is looked for, and how far content is moved for it."""

_LEAD = 3.0
"""How many times smaller changes by multiples of the stride must be than all others."""

_FLOOR = 1e-5
"""Changes below this share of the largest are rounding."""


def _content(channels: int, size: int, generator: torch.Generator) -> Tensor:
    """Coarse and fine texture that fades to nothing at its border."""
    coarse = torch.randn(1, channels, -(-size // 4), -(-size // 4), generator=generator)
    coarse = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    fine = torch.randn(1, channels, size, size, generator=generator)
    fade = torch.hann_window(size + 2, periodic=False)[1:-1].sqrt()
    return (2 * coarse + fine) * fade[:, None] * fade


def _statistics(outputs: Sequence[Tensor]) -> list[Tensor]:
    """What does not depend on where things are on a map."""
    found = []
    for output in outputs:
        y = output.double()
        if y.ndim >= 3:
            y = torch.stack([y.mean((-2, -1)), y.square().mean((-2, -1)).sqrt()])
        found.append(y.flatten())
    return found


def _changes(
    answers: Answers, channels: int, sizes: Sequence[int], axis: int, dtype: torch.dtype
) -> Tensor:
    """How much the answers change when content moves by 1, 2, ... pixels along an axis.

    Each is the mean over all pairs of places that are so far apart: small content near the middle
    keeps the border, which makes differences of its own, out of them.
    """
    extent = max(8, min(sizes) // 24)
    reach = max(0, min(LARGEST, (sizes[axis] - extent) // 2))
    content = _content(channels, extent, torch.Generator().manual_seed(0))
    rows = []
    for moved in range(reach + 1):
        corner = [(size - extent) // 2 for size in sizes]
        corner[axis] += moved - reach // 2
        x = torch.zeros(1, channels, *sizes)
        x[:, :, corner[0] : corner[0] + extent, corner[1] : corner[1] + extent] = content
        rows.append(_statistics(answers(x.to(dtype))))
    total = torch.zeros(reach, dtype=torch.float64)
    for of_output in zip(*rows, strict=True):
        found = torch.stack(of_output)
        apart = torch.cdist(found, found, p=1)
        scale = float(apart.max())
        if scale > 1e-6 * float(found[0].abs().sum()) and math.isfinite(scale):
            total += torch.stack([apart.diagonal(d).mean() for d in range(1, reach + 1)]) / scale
    return total


def clear_stride(changes: Tensor) -> int | None:
    """The stride at whose multiples alone answers hardly change.

    Args:
        changes: How much they change when content moves by 1, 2, ... pixels.

    Returns:
        The largest stride of which that is true; None if there is none.

    Examples:
        >>> clear_stride(torch.tensor([1.0, 0.4, 1.0, 0.01, 1.0, 0.4, 1.0, 0.02]))
        4
        >>> clear_stride(torch.tensor([0.1, 0.2, 0.3, 0.4])) is None
        True
    """
    if not len(changes) or float(changes.max()) <= 0 or not bool(changes.isfinite().all()):
        return None
    floored = changes.clamp_min(_FLOOR * float(changes.max()))
    moved = torch.arange(1, len(changes) + 1)
    found = None
    for stride in range(2, len(changes) + 1):
        inside = moved % stride == 0
        if _LEAD * float(floored[inside].max()) < float(floored[~inside].min()):
            found = stride
    return found


def measure_stride(
    answers: Answers, channels: int, sizes: Sequence[int], dtype: torch.dtype = torch.float32
) -> tuple[int, int] | None:
    """Measure the total stride of a network: content on an even background is moved by pixels.

    Args:
        answers: The network, from images ``(1, C, H, W)`` to its outputs.
        channels: Number of channels of the images.
        sizes: Height and width.
        dtype: That of the images.

    Returns:
        Pixels per axis; None if the answer is not clear.
    """
    pair: Any = []
    for axis in (0, 1):
        stride = clear_stride(_changes(answers, channels, sizes, axis, dtype))
        if stride is None:
            return None
        pair.append(stride)
    return (pair[0], pair[1])
