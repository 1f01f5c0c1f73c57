"""The algebra of strides and phases: which component is where, and where a shift sends it.

A stride S per axis splits a map into P = prod(S) components.  Phase p, in row-major order, is the
component that starts at pixel ``(p // S_w, p % S_w)``.  Phases add like the pixels they start at,
modulo the stride.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def per_axis(operation: str, stride: int | Sequence[int], num_dims: int) -> tuple[int, ...]:
    """Bring a stride to one integer per spatial axis.

    Args:
        operation: Name of the caller, for the error message.
        stride: One stride for all axes, or one per axis.
        num_dims: Number of spatial axes.

    Returns:
        The stride of each axis.

    Raises:
        ValueError: If there is not one stride per axis, or one is below 1.
        TypeError: If a stride is not an integer.
    """
    strides = tuple(stride) if isinstance(stride, Sequence) else (stride,) * num_dims
    if not all(isinstance(value, int) for value in strides):
        raise TypeError(f"{operation}: stride must be made of integers, got {stride!r}; round it")
    if len(strides) != num_dims or min(strides) < 1:
        raise ValueError(
            f"{operation}: stride must be one integer >= 1, or one for each of {num_dims} spatial "
            f"axes, got {stride!r}; pass for instance {(2,) * num_dims}"
        )
    return strides


def check_map(operation: str, x: Tensor) -> int:
    """Count the spatial axes of a feature map.

    Args:
        operation: Name of the caller, for the error message.
        x: Feature map, ``(N, C, *spatial)``.

    Returns:
        Number of spatial axes: 1, 2 or 3.

    Raises:
        ValueError: If the tensor is not a batch of 1-D, 2-D or 3-D maps.
    """
    if not 3 <= x.ndim <= 5:
        raise ValueError(
            f"{operation}: input must be (N, C, *spatial) with 1 to 3 spatial axes, got shape "
            f"{tuple(x.shape)}; add the missing axes with unsqueeze"
        )
    return x.ndim - 2


def check_divisible(operation: str, sizes: Sequence[int], strides: Sequence[int]) -> None:
    """Refuse a map that the stride does not divide.

    On such a map a circular shift does not permute the components, so that nothing the content
    selects could be invariant.

    Args:
        operation: Name of the caller, for the error message.
        sizes: Spatial sizes of the map.
        strides: Stride of each axis.

    Raises:
        ValueError: If a size is not a multiple of its stride.
    """
    if any(size % stride for size, stride in zip(sizes, strides, strict=True)):
        shown = strides[0] if len(set(strides)) == 1 else tuple(strides)
        raise ValueError(
            f"{operation}: each spatial size must be a multiple of stride={shown}, got "
            f"{'x'.join(str(int(size)) for size in sizes)}; resize the input or choose another "
            "stride"
        )


def check_phase(operation: str, phase: Tensor, batch: int) -> None:
    """Refuse a phase that is not one integer per sample.

    Args:
        operation: Name of the caller, for the error message.
        phase: The tensor to check.
        batch: Number of samples.

    Raises:
        TypeError: If the phases are not integers.
        ValueError: If there is not one phase per sample.
    """
    if phase.is_floating_point() or phase.is_complex() or phase.dtype == torch.bool:
        raise TypeError(
            f"{operation}: phase must be made of integers, got {phase.dtype}; "
            "pass what select_phase returns"
        )
    if phase.shape != (batch,):
        raise ValueError(
            f"{operation}: phase must have shape ({int(batch)},), one per sample, got "
            f"{tuple(phase.shape)}; pass what select_phase returns"
        )


def each_axis(
    operation: Callable[[Any, Any], Any], offsets: Tensor, values: Sequence[float]
) -> Tensor:
    """Combine each axis with a number of its own, without copying the numbers from the host.

    Args:
        operation: For instance ``operator.add``.
        offsets: Pixels, ``(N, D)``.
        values: One number per axis.

    Returns:
        ``operation(offsets, values)``, ``(N, D)``.
    """
    if min(values) == max(values):
        return cast(Tensor, operation(offsets, values[0]))
    columns = [operation(offsets[:, axis], value) for axis, value in enumerate(values)]
    return torch.stack(columns, 1)


def phase_offsets(phase: Tensor, stride: Sequence[int]) -> Tensor:
    """First pixel of each phase's component.

    Args:
        phase: Phases, ``(N,)`` integers, row-major, taken modulo P.
        stride: Stride of each axis.

    Returns:
        Pixel offsets, ``(N, D)`` int64, each in ``[0, S)`` of its axis.

    Examples:
        >>> phase_offsets(torch.tensor([0, 1, 2, 3]), (2, 2)).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    phase = phase.to(torch.int64)
    offsets = []
    for axis in range(len(stride)):
        below = math.prod(stride[axis + 1 :])
        offsets.append(torch.remainder(phase // below, stride[axis]))
    return torch.stack(offsets, dim=1)


def phase_index(offsets: Tensor, stride: Sequence[int]) -> Tensor:
    """Phase of the component that holds each pixel: the inverse of ``phase_offsets``.

    Args:
        offsets: Pixels, ``(N, D)`` integers, any value.
        stride: Stride of each axis.

    Returns:
        Phases, ``(N,)`` int64, in ``[0, P)``.
    """
    phase = torch.zeros_like(offsets[:, 0], dtype=torch.int64)
    for axis, value in enumerate(stride):
        phase = phase * value + torch.remainder(offsets[:, axis], value)
    return phase


def shift_phase(phase: Tensor, shift: Tensor, stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Where a circular shift of the map sends a component.

    This is the law of the whole project: after a shift ``d`` the component at phase ``p`` is found
    at phase ``q = (p + d) mod S``, circularly shifted by ``(p + d - q) / S`` (per axis).

    Args:
        phase: Phases, ``(N,)`` integers.
        shift: Circular shifts of the map, ``(N, D)`` integers, in pixels.
        stride: Stride of each axis.

    Returns:
        The new phases, ``(N,)``, and the shifts of the components, ``(N, D)``, in their pixels.

    Examples:
        >>> phase, shift = shift_phase(torch.tensor([3]), torch.tensor([[1, 2]]), (2, 2))
        >>> phase.tolist(), shift.tolist()
        ([1], [[1, 1]])
    """
    moved = phase_offsets(phase, stride) + shift
    return phase_index(moved, stride), each_axis(operator.floordiv, moved, stride)
