"""Reading a tensor inside a model: which of its axes are space, and is it in its orbit.

A model is run once on images and their shifted copies together: the first half of each batch holds
what the images gave, the second half what the copies gave.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from shiftproof.certification.orbit import closest_shift, largest_difference, widened

_MAX_PREFIX = 8
"""Class and register tokens in front of the tokens of a map."""

_SLACK = 3
"""Pixels by which the sides of a map may depart from the proportions of the input."""

Role = Literal["map", "fixed", "unknown"]


@dataclass
class Observation:
    """A tensor inside a model.

    Attributes:
        shape: Its shape.
        role: ``"map"`` if it has spatial axes, ``"fixed"`` if it has none and must stay the same,
            ``"unknown"`` if neither can be told.
        in_orbit: Per pair, whether it is a circular shift of what it was, or the same.
        shifts: Per pair, the shift of a map, in its own pixels.
        grid: Spatial sizes of a map, without the border that circular padding adds.
        sides: Spatial sizes of a map, with that border.
        is_constant: Whether all rows of the batch are the same.
        source: Name of the module or parameter it comes from, if known.
    """

    shape: tuple[int, ...]
    role: Role
    in_orbit: tuple[bool, ...]
    shifts: tuple[tuple[int, ...], ...] | None = None
    grid: tuple[int, ...] | None = None
    sides: tuple[int, ...] | None = None
    is_constant: bool = False
    source: str = ""


class Observer:
    """Reads the tensors of one run.

    Args:
        sizes: Spatial sizes of the model's input.
        num_pairs: Pairs in the batch, half its rows.
        tolerance: Deviation, in standard deviations of the tensor, that counts as rounding.
    """

    def __init__(self, sizes: Sequence[int], num_pairs: int, tolerance: float) -> None:
        self.sizes = tuple(sizes)
        self.num_pairs = num_pairs
        self.tolerance = tolerance
        self._grids = [self.sizes]

    def observe(self, value: Tensor, inputs: Sequence[Observation]) -> Observation:
        """Read one tensor.

        Args:
            value: A floating-point tensor whose first axis is the batch.
            inputs: What it was made from, whose shifts tell where to look first.

        Returns:
            The observation.
        """
        before, after = value.detach().chunk(2)
        tolerance = self._tolerances(before)
        same = largest_difference(before, after) <= tolerance
        constant = bool((value == value[:1]).all())
        spatial = value.ndim == len(self.sizes) + 2
        found: Observation | None = None
        if spatial or not bool(same.all()):
            for pixels, prefix in self._readings(value):
                reading = self._follow(pixels, prefix, tolerance, inputs)
                if found is None or sum(reading.in_orbit) > sum(found.in_orbit):
                    found = reading
                if all(found.in_orbit):
                    break
        if found is None:
            known = bool(same.all()) or value.ndim == 2
            role: Role = "fixed" if known else "unknown"
            found = Observation(tuple(value.shape), role, tuple(same.tolist()))
        elif found.grid not in self._grids and found.grid and math.prod(found.grid) > 1:
            self._grids.append(found.grid)
        found.shape, found.is_constant = tuple(value.shape), constant
        return found

    def _tolerances(self, before: Tensor) -> Tensor:
        rows = widened(before).reshape(before.shape[0], -1).nan_to_num()
        if rows.shape[1] == 0:
            return rows.new_zeros(rows.shape[0])
        rounding = 64 * torch.finfo(before.dtype).eps
        return self.tolerance * rows.std(1, correction=0) + rounding * rows.abs().amax(1)

    def _looks_like_map(self, sizes: Sequence[int]) -> bool:
        if tuple(sizes) in self._grids:
            return True
        return all(
            abs(size - sizes[0] * full / self.sizes[0]) <= _SLACK
            for size, full in zip(sizes, self.sizes, strict=True)
        )

    def _readings(self, value: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Ways to read a tensor as a map ``(B, C, *spatial)`` behind some tokens."""
        num_dims = len(self.sizes)
        if value.ndim == num_dims + 2:
            for pixels in (value, value.movedim(-1, 1)):
                if self._looks_like_map(pixels.shape[2:]):
                    yield pixels, None
        elif num_dims > 1 and tuple(value.shape[1:]) == self.sizes:
            yield value[:, None], None
        if value.ndim == 3:
            for tokens in (value.mT, value):
                for grid in self._token_grids(tokens.shape[2]):
                    prefix = tokens.shape[2] - math.prod(grid)
                    pixels = tokens[:, :, prefix:].reshape(*tokens.shape[:2], *grid)
                    yield pixels, tokens[:, :, :prefix] if prefix else None

    def _token_grids(self, length: int) -> Iterator[tuple[int, ...]]:
        for grid in reversed(self._grids):
            fits = 0 <= length - math.prod(grid) <= _MAX_PREFIX
            if fits and (len(grid) > 1 or grid[0] < length):
                yield grid
        if len(self.sizes) == 2:
            height = round((length * self.sizes[0] / self.sizes[1]) ** 0.5)
            if height > 1 and length % height == 0:
                yield height, length // height

    def _follow(
        self,
        pixels: Tensor,
        prefix: Tensor | None,
        tolerance: Tensor,
        inputs: Sequence[Observation],
    ) -> Observation:
        grid = sides = tuple(pixels.shape[2:])
        shift, difference = self._closest(pixels, tolerance, inputs)
        if not bool((difference <= tolerance).all()):
            for period in reversed(self._grids):
                if period != grid and _repeats(pixels, period):
                    grid = period
                    cut = pixels
                    for axis, size in enumerate(period, 2):
                        cut = cut.narrow(axis, 0, size)
                    shift, difference = self._closest(cut, tolerance, inputs)
                    break
        in_orbit = difference <= tolerance
        if prefix is not None:
            before, after = prefix.detach().chunk(2)
            in_orbit = in_orbit & (largest_difference(before, after) <= tolerance)
        shifts = tuple(tuple(row) for row in shift.tolist())
        return Observation((), "map", tuple(in_orbit.tolist()), shifts, grid, sides)

    def _closest(
        self, pixels: Tensor, tolerance: Tensor, inputs: Sequence[Observation]
    ) -> tuple[Tensor, Tensor]:
        before, after = pixels.detach().chunk(2)
        hints = [
            torch.tensor(hint, device=pixels.device)
            for source in inputs
            for hint in _lawful_shifts(source, tuple(pixels.shape[2:]))
        ]
        return closest_shift(before, after, tolerance, hints)


def _lawful_shifts(
    source: Observation, sizes: tuple[int, ...]
) -> list[tuple[tuple[int, ...], ...]]:
    """Shifts that a layer can turn the shift of its input into, one per pair in each entry."""
    if source.shifts is None or source.grid is None:
        return []
    per_pair = []
    for shift in source.shifts:
        per_axis = []
        for pixels, old, new in zip(shift, source.grid, sizes, strict=True):
            # Rounded down or up, according to the phases; a shift of -1 reads as old - 1.
            per_axis.append((pixels * new // old % new, -(-pixels * new // old) % new))
        per_pair.append(list(itertools.product(*per_axis)))
    return list(zip(*per_pair, strict=True))


def _repeats(pixels: Tensor, period: Sequence[int]) -> bool:
    """Whether a map is a smaller one with a circular border at its far end.

    A border at the near end is one at the far end of the map shifted by its width.
    """
    for axis, (size, step) in enumerate(zip(pixels.shape[2:], period, strict=True), 2):
        if size < step or not torch.equal(
            pixels.narrow(axis, step, size - step), pixels.narrow(axis, 0, size - step)
        ):
            return False
    return True
