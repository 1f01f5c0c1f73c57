"""Which of several equally strong components: a rule that moves with the content.

Symmetric content has components of exactly equal strength: a mirror-symmetric image has, for each
component, its mirror image.  A rule that names a phase ("the first one") then changes its mind when
the image is shifted.  The rule here looks at all the maps that the phase will be applied to, as
they are seen from each pixel, and gives each view a number; of the tied components, the one that
holds the pixel of the largest number is chosen.

Two pixels get the same number if the maps look the same from both: if the maps do not change under
the translation from one pixel to the other.  Components that stay tied are then translates of each
other together with everything around them, and the choice between them does not matter.  Views that
differ get different numbers but for a coincidence in the last bits of a float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shiftproof.ops.channels import sum_channels

TOLERANCE = 1e-9
"""Scores this close to the best, relative to it, count as equal to it.

Where rounding depends on the position, on GPUs, symmetric content ties up to that rounding.  In
deep untrained networks norms differ by as little as 1e-8, and there the norm must decide.
"""

_OPEN_DOUBLINGS = 13
"""Where a recorded graph does not bound the size, maps may have up to 2^13 pixels along an axis."""

_TOO_LONG = (
    f"select_phase: a graph recorded for any size takes up to {1 << _OPEN_DOUBLINGS} pixels along "
    "an axis, got more; export it with a known size or with Dim(max=...)"
)

_GOLDEN = (math.sqrt(5) - 1) / 2


def find_ties(scores: Tensor) -> Tensor:
    """Mark the phases that are as good as the best.

    Args:
        scores: Scores, ``(N, P)``.

    Returns:
        Truth values, ``(N, P)``, at least one true per row.
    """
    best = scores.amax(1, keepdim=True)
    if not scores.is_floating_point():
        return scores == best
    # The first condition holds for infinite scores too, where the second is not a number.
    return (scores == best) | (scores >= best - TOLERANCE * best.abs())


def _spread(index: Tensor) -> Tensor:
    """Numbers in [0.5, 1) for whole numbers, without a simple relation between them."""
    return 0.5 + 0.5 * torch.frac(index * index * _GOLDEN + index * math.pi)


def _factor(axis: int, bit: int) -> float:
    """A number in [0.5, 1) of its own for each doubling of the window."""
    index = 13 * axis + bit if bit < 13 else 3 * bit + axis
    return 0.5 + 0.5 * math.modf(index * index * _GOLDEN + (index + 1) * math.e)[0]


def _num_doublings(size: int | torch.SymInt | Tensor) -> int | None:
    """How often a window of one pixel doubles until it holds an axis; None if nothing bounds it."""
    if isinstance(size, int):
        count = 0
        while 1 << count < size:
            count += 1
        return count
    if isinstance(size, torch.SymInt):  # a bound such as Dim("width", max=4096)
        # Only here, because it imports a computer algebra system.
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        bounds = (count for count in range(40) if statically_known_true(size <= 1 << count))
        return next(bounds, None)
    return None


def _checked(length: Tensor, most: int) -> Tensor:
    """The length, in a graph that stops where it is more than this."""
    too_long = length > most
    torch.ops.aten._assert_async.msg(~too_long, _TOO_LONG)
    # ONNX has no assertions; there, reading beyond the only element stops the graph.
    return length.index_select(0, too_long.to(torch.int64))


def _sum_views(pixels: Tensor) -> Tensor:
    """At each pixel the weighted sum of the whole map, with weights that follow the pixel.

    The window doubles with each step: a pixel adds what the pixel at the window's far side has
    summed so far, times a factor of its own for each step.  All operations are elementwise, so each
    pixel's rounding is the same wherever on the map it is.
    """
    for axis in range(1, pixels.ndim):
        size = pixels.shape[axis]
        # In an exported graph the size may be unknown: all steps are there, the idle ones add zero.
        known, count = isinstance(size, int), _num_doublings(size)
        if not known:
            length = torch.full((1,), size, device=pixels.device)
        if count is None:
            count = _OPEN_DOUBLINGS
            length = _checked(length, 1 << count)
        for bit in range(count):
            reach = 1 << bit
            # Two operations on purpose: a fused one rounds differently in a vector and behind it.
            added = torch.roll(pixels, -reach, axis) * _factor(axis, bit)
            if not known:
                needed = length > reach
                added = torch.where(needed, added, 0.0)
            pixels = pixels + added
    return pixels


def view_numbers(maps: Sequence[Tensor]) -> Tensor:
    """Give the view of the maps from each pixel a number.

    Args:
        maps: Feature maps of one spatial size, each ``(N, C, *spatial)``.  NaN counts as zero,
            infinity as the largest finite number.

    Returns:
        The numbers, ``(N, *spatial)`` float64.
    """
    total: Tensor | None = None
    channel = 1
    for x in maps:
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        values = x.detach().nan_to_num().to(wide).clamp(-1e38, 1e38)
        index = torch.arange(channel, channel + x.shape[1], device=x.device, dtype=wide)
        weights = _spread(index).view(-1, *[1] * (x.ndim - 2))
        summed = sum_channels(values * weights)
        total = summed if total is None else total + summed
        channel += x.shape[1]
    assert total is not None
    return _sum_views(total)
