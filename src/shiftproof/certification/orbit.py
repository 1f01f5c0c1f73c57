"""Whether one map is a circular shift of another, and by how much."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from shiftproof.ops import circular_shift

_MAX_CANDIDATES = 8
"""Peaks of the correlation that are tried; the true shift is the highest but for rounding."""

_MAX_CHANNELS = 8
"""Channels that are correlated, and compared before all are."""


def widened(x: Tensor) -> Tensor:
    """A tensor in the widest precision of its device, without its history.

    Args:
        x: Any real tensor.

    Returns:
        Its values in float64, or float32 where there is no float64.
    """
    return x.detach().to(torch.float32 if x.device.type == "mps" else torch.float64)


def largest_difference(before: Tensor, after: Tensor) -> Tensor:
    """Largest difference of each sample; equal infinities do not differ, NaN differs from all.

    Args:
        before: Values, ``(N, ...)``.
        after: Values of the same shape.

    Returns:
        The differences, ``(N,)``, in the widest precision.
    """
    difference = (widened(after) - widened(before)).abs().masked_fill(before == after, 0.0)
    rows = difference.nan_to_num(nan=math.inf, posinf=math.inf).reshape(before.shape[0], -1)
    return rows.amax(1) if rows.shape[1] else rows.new_zeros(before.shape[0])


def _strongest_channels(x: Tensor) -> Tensor:
    dims = (0, *range(2, x.ndim))
    strength = x.nan_to_num().var(dims, correction=0)
    return strength.topk(min(_MAX_CHANNELS, len(strength))).indices


def _likely_shifts(before: Tensor, after: Tensor) -> Tensor:
    """Highest peaks of the circular cross-correlation of each sample, ``(K, N, D)``."""
    sizes = before.shape[2:]
    dims = tuple(range(2, before.ndim))
    centred = before - before.mean(dims, keepdim=True)
    waves = torch.fft.fftn(after, dim=dims) * torch.fft.fftn(centred, dim=dims).conj()
    correlation = torch.fft.ifftn(waves.sum(1), dim=tuple(range(1, before.ndim - 1))).real
    peaks = correlation.flatten(1).topk(min(_MAX_CANDIDATES, math.prod(sizes))).indices
    return torch.stack(torch.unravel_index(peaks.T, sizes), dim=-1)


class _Search:
    """The best shift so far of each sample."""

    def __init__(self, before: Tensor, after: Tensor, tolerance: Tensor) -> None:
        self.before, self.after, self.tolerance = before, after, tolerance
        channels = _strongest_channels(before)
        self.few_before, self.few_after = before[:, channels], after[:, channels]
        self.shift = torch.zeros(
            before.shape[0], before.ndim - 2, dtype=torch.int64, device=before.device
        )
        self.difference = largest_difference(before, after)
        # The best by the few channels, for samples that nothing matches.
        self._hopeful, self._hope = self.shift, largest_difference(self.few_before, self.few_after)

    @property
    def is_over(self) -> bool:
        return bool((self.difference <= self.tolerance).all())

    def compare(self, shift: Tensor) -> None:
        """Compare all channels under a shift per sample."""
        difference = largest_difference(circular_shift(self.before, shift), self.after)
        closer = difference < self.difference
        self.shift = torch.where(closer[:, None], shift, self.shift)
        self.difference = torch.where(closer, difference, self.difference)

    def try_all(self, shifts: Iterable[Tensor]) -> None:
        """Compare a few channels under each shift, and all where those match."""
        for shift in shifts:
            if self.is_over:
                return
            bound = largest_difference(circular_shift(self.few_before, shift), self.few_after)
            if bool(((bound <= self.tolerance) & (self.difference > self.tolerance)).any()):
                self.compare(shift)
            better = bound < self._hope
            self._hopeful = torch.where(better[:, None], shift, self._hopeful)
            self._hope = torch.where(better, bound, self._hope)

    def settle(self) -> None:
        """Compare all channels where only a few have been."""
        if not self.is_over:
            self.compare(self._hopeful)


def closest_shift(
    before: Tensor, after: Tensor, tolerance: Tensor, hints: Iterable[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """Find the circular shift that brings each sample closest to another map.

    Zero and hints are tried first, because comparing is cheap; where none of them is within the
    tolerance, the peaks of the cross-correlation are.  A map that repeats itself has several right
    answers, of which the first found is given; for a map that no shift matches, the answer is the
    best of those that were tried.

    Args:
        before: Maps, ``(N, C, *spatial)``, real.
        after: Maps of the same shape.
        tolerance: Largest difference at which a sample counts as matched, ``(N,)``.
        hints: Shifts to try first, ``(N, D)`` integers each.

    Returns:
        The shifts, ``(N, D)`` int64, each in ``[0, size)``, and the largest difference that remains
        in each sample, ``(N,)``.

    Examples:
        >>> x = torch.tensor([[[1.0, 2.0, 5.0, 0.0]]])
        >>> shift, difference = closest_shift(x, x.roll(3, 2), torch.tensor([0.0]))
        >>> shift.tolist(), difference.item()
        ([[3]], 0.0)
    """
    search = _Search(widened(before), widened(after), tolerance)
    search.try_all(hints)
    if not search.is_over:
        few = search.few_before.nan_to_num(), search.few_after.nan_to_num()
        search.try_all(_likely_shifts(*few))
        search.settle()
    sizes = torch.tensor(before.shape[2:], device=before.device)
    return torch.remainder(search.shift, sizes), search.difference
