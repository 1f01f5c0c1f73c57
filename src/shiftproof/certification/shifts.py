"""The shifts under which a model is certified."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

_MAX_SHIFTS = 12


def default_shifts(sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """One pixel along each axis and along all of them, both ways, and random ones.

    Args:
        sizes: Spatial sizes of the images.

    Returns:
        At most twelve shifts, all different, none of them zero; the same at every call.

    Examples:
        >>> default_shifts((8, 8))[:6]
        ((1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1))
    """
    num_dims = len(sizes)
    ones = [tuple(int(i == axis) for i in range(num_dims)) for axis in range(num_dims)]
    if num_dims > 1:
        ones.append((1,) * num_dims)
    candidates = ones + [tuple(-d for d in shift) for shift in ones]
    generator = torch.Generator().manual_seed(0)
    draws = [
        torch.randint(0, size, (4 * _MAX_SHIFTS,), generator=generator).tolist() for size in sizes
    ]
    candidates += list(zip(*draws, strict=True))
    different: dict[tuple[int, ...], tuple[int, ...]] = {}
    for shift in candidates:
        position = tuple(d % size for d, size in zip(shift, sizes, strict=True))
        if any(position):
            different.setdefault(position, shift)
    return tuple(itertools.islice(different.values(), _MAX_SHIFTS))


def given_shifts(
    shifts: Sequence[Sequence[int]] | Tensor, num_dims: int
) -> tuple[tuple[int, ...], ...]:
    """Check the caller's shifts.

    Args:
        shifts: Tuples, or an ``(n, D)`` tensor.
        num_dims: Number of spatial axes.

    Returns:
        The shifts as tuples.

    Raises:
        ValueError: If there are none, or one does not have a value per spatial axis.
        TypeError: If one is not made of integers.
    """
    rows = shifts.tolist() if isinstance(shifts, Tensor) else list(shifts)
    if not rows:
        raise ValueError(
            "certify: shifts must hold at least one shift, got none; pass None for the default ones"
        )
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) != num_dims:
            raise ValueError(
                f"certify: each shift must have one value per spatial axis, {num_dims} here, got "
                f"{row}; pass for instance {[(1,) * num_dims]}"
            )
        if not all(type(pixels) is int for pixels in row):
            raise TypeError(f"certify: shifts must be made of whole pixels, got {row}; round them")
    return tuple(tuple(row) for row in rows)
