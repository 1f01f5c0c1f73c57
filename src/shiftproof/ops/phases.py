"""The algebra of strides and phases: which component is where, and where a shift sends it.

A stride S per axis splits a map into P = prod(S) components.  Phase p, in row-major order, is the
component that starts at pixel ``(p // S_w, p % S_w)``.  Phases add like the pixels they start at,
modulo the stride.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shiftproof.ops.overrides import is_jit_tracing, may_launch

BATCH_AXIS = "add the batch axis with unsqueeze(0)"
"""The way out for a map of one sample where an operation needs a batch."""


def _plain(value: Any) -> Any:
    """Python's own integers, in place of NumPy's and of tensors; a traced size stays a tensor."""
    if isinstance(value, (int, tuple, list)) or (isinstance(value, Tensor) and is_jit_tracing()):
        return value
    return value.tolist() if hasattr(type(value), "tolist") else value


def integers(operation: str, name: str, value: Any, count: int) -> tuple[int, ...]:
    """Bring an argument to Python's integers.

    Args:
        operation: Name of the caller, for the error message.
        name: Name of the argument.
        value: One integer or several, of Python, NumPy or torch.
        count: How often one integer is meant.

    Returns:
        The integers.

    Raises:
        TypeError: If one of them is no integer, or a truth value.
    """
    plain = _plain(value)
    several = isinstance(plain, Sequence) and not isinstance(plain, str)
    numbers = tuple(map(_plain, plain)) if several else (plain,) * count
    kinds = (int, torch.SymInt, Tensor) if is_jit_tracing() else (int, torch.SymInt)
    if not all(
        isinstance(number, kinds) and number is not True and number is not False
        for number in numbers
    ):
        raise TypeError(
            f"{operation}: {name} must be made of integers, got {value!r}; pass whole numbers"
        )
    return numbers


def per_axis(
    operation: str,
    value: int | Sequence[int],
    num_dims: int,
    name: str = "stride",
    least: int | None = 1,
) -> tuple[int, ...]:
    """Bring a stride, or another argument of windows, to one integer per spatial axis.

    Args:
        operation: Name of the caller, for the error message.
        value: One integer for all axes, or one per axis.
        num_dims: Number of spatial axes.
        name: Name of the argument.
        least: The smallest integer that makes sense; any if None.

    Returns:
        The integer of each axis.

    Raises:
        ValueError: If there is not one integer per axis, or one is too small.
        TypeError: If one is not an integer.
    """
    numbers = integers(operation, name, value, num_dims)
    if len(numbers) != num_dims or (least is not None and min(numbers) < least):
        bound = "" if least is None else f" >= {least}"
        batch = f", or {BATCH_AXIS}" if len(numbers) == num_dims + 1 else ""
        raise ValueError(
            f"{operation}: {name} must be one integer{bound}, or one for each of {num_dims} "
            f"spatial axes, got {value!r}; pass for instance {(2,) * num_dims}{batch}"
        )
    return numbers


def check_map(operation: str, x: Tensor) -> int:
    """Count the spatial axes of a feature map.

    Args:
        operation: Name of the caller, for the error message.
        x: Feature map, ``(N, C, *spatial)``.

    Returns:
        Number of spatial axes: 1, 2 or 3.

    Raises:
        ValueError: If the tensor is not a batch of 1-D, 2-D or 3-D maps.
        TypeError: If it is no tensor.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{operation}: input must be a tensor, got {type(x).__name__}; make one with "
            "torch.as_tensor"
        )
    if not 3 <= x.ndim <= 5:
        raise ValueError(
            f"{operation}: input must be (N, C, *spatial) with 1 to 3 spatial axes, got shape "
            f"{tuple(x.shape)}; add the missing axes with unsqueeze"
        )
    return x.ndim - 2


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_IN_FLOAT32 = (torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16)
_EXACT_AS = dict.fromkeys(_IN_FLOAT32, torch.float32)
_EXACT_AS |= dict.fromkeys((torch.uint32, torch.int32), torch.float64)


def check_floats(operation: str, x: Tensor, others: Sequence[torch.dtype] = ()) -> None:
    """Refuse values that an operation could not keep.

    Args:
        operation: Name of the caller, for the error message.
        x: Feature map; what a tracer passes in its place is not looked at.
        others: Further dtypes that the operation knows.

    Raises:
        TypeError: If they are integers, complex, or floats of 8 bits.
    """
    if isinstance(x, Tensor) and x.dtype not in FLOATS and x.dtype not in others:
        way_out = "x.double()" if x.dtype in (torch.int64, torch.uint64) else "x.float()"
        if x.is_complex():
            way_out = "torch.cat([x.real, x.imag], 1)"
        raise TypeError(
            f"{operation}: the map must be of a floating-point dtype of 16 bits or more, got "
            f"{x.dtype}; pass {way_out}"
        )


def as_floats(operation: str, x: Tensor) -> Tensor:
    """Values whose strengths can be compared: integers of up to 32 bits as floats, exactly.

    Args:
        operation: Name of the caller, for the error message.
        x: Feature map.

    Returns:
        The map itself where it holds floats.

    Raises:
        TypeError: If floats could not hold the values: integers of 64 bits, complex numbers; or if
            they are floats of 8 bits.
    """
    check_floats(operation, x, tuple(_EXACT_AS))
    return x.to(_EXACT_AS[x.dtype]) if x.dtype in _EXACT_AS else x


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


def _as_phases(operation: str, phase: Tensor | Sequence[int] | int) -> Tensor:
    """Phases as a tensor of integers, of no axis where one is meant for all samples."""
    if not isinstance(phase, Tensor):
        single = not isinstance(phase, Sequence) and getattr(phase, "ndim", 0) == 0
        numbers = integers(operation, "phase", phase, 1)
        return torch.tensor(numbers[0] if single else numbers, dtype=torch.int64)
    if phase.is_floating_point() or phase.is_complex() or phase.dtype == torch.bool:
        raise TypeError(
            f"{operation}: phase must be made of integers, got {phase.dtype}; "
            "pass what select_phase returns"
        )
    return phase


def per_sample_phase(operation: str, phase: Tensor | Sequence[int] | int, x: Tensor) -> Tensor:
    """Bring a phase to one integer per sample.

    Args:
        operation: Name of the caller, for the error message.
        phase: One integer per sample, or one for all.
        x: The maps, ``(N, C, *spatial)``.

    Returns:
        The phases, ``(N,)``, on the device of ``x`` where they were no tensor.

    Raises:
        TypeError: If the phases are not integers.
        ValueError: If there is not one phase per sample.
    """
    batch, given = x.shape[0], isinstance(phase, Tensor)
    phase = _as_phases(operation, phase)
    if not given:
        phase = phase.to(x.device)
    if phase.ndim == 0:
        phase = phase.expand(batch)
    if phase.shape != (batch,):
        raise ValueError(
            f"{operation}: phase must have shape ({int(batch)},), one per sample, got "
            f"{tuple(phase.shape)}; pass what select_phase returns"
        )
    return phase


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers as a tensor that is made where it is used.

    ``torch.tensor`` would make it on the host, for which an accelerator waits, and which
    ``torch.export`` takes for a constant of the program.

    Args:
        values: The numbers, at least one.
        like: Gives dtype and device.

    Returns:
        The tensor, of one dimension; of a single entry where all numbers are the same.
    """
    first, *others = values
    if all(value == first for value in others):
        return torch.full((1,), first, dtype=like.dtype, device=like.device)
    each = [torch.full((), value, dtype=like.dtype, device=like.device) for value in values]
    return torch.stack(each)


def phase_offsets(phase: Tensor | Sequence[int] | int, stride: Sequence[int]) -> Tensor:
    """First pixel of each phase's component.

    Args:
        phase: Phases, ``(N,)`` integers, row-major, taken modulo P; or one.
        stride: Stride of each axis.

    Returns:
        Pixel offsets, ``(N, D)`` int64, each in ``[0, S)`` of its axis.

    Raises:
        TypeError: If the phases or the strides are not integers, or there is one stride without an
            axis.
        ValueError: If a stride is below 1.

    Examples:
        >>> phase_offsets(torch.tensor([0, 1, 2, 3]), (2, 2)).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    stride = _plain(stride)
    if not isinstance(stride, Sequence):
        raise TypeError(
            f"phase_offsets: stride must have one integer per spatial axis, got {stride!r}; pass "
            f"for instance {(stride,) * 2} for two axes"
        )
    stride = per_axis("phase_offsets", stride, len(stride))
    phases = _as_phases("phase_offsets", phase).to(torch.int64)
    phases = phases[None] if phases.ndim == 0 else phases
    if may_launch(phases) and len(stride) <= 3:
        from shiftproof.ops import kernels  # which needs Triton

        return kernels.offsets(phases, stride)
    offsets = []
    for axis in range(len(stride)):
        below = math.prod(stride[axis + 1 :])
        offsets.append(torch.remainder(phases // below, stride[axis]))
    return torch.stack(offsets, dim=1)


def _check_pixels(operation: str, name: str, pixels: Tensor) -> None:
    whole = isinstance(pixels, Tensor) and not (pixels.is_floating_point() or pixels.is_complex())
    if not whole or pixels.dtype == torch.bool:
        kind = pixels.dtype if isinstance(pixels, Tensor) else type(pixels).__name__
        raise TypeError(
            f"{operation}: {name} must be a tensor of integers, got {kind}; pass (N, D) pixels"
        )
    if pixels.ndim != 2:
        raise ValueError(
            f"{operation}: {name} must have shape (N, D), one row per sample, got "
            f"{tuple(pixels.shape)}; add the missing axis with unsqueeze"
        )


def phase_index(offsets: Tensor, stride: int | Sequence[int]) -> Tensor:
    """Phase of the component that holds each pixel: the inverse of ``phase_offsets``.

    Args:
        offsets: Pixels, ``(N, D)`` integers, any value.
        stride: Stride of each axis, or one for all.

    Returns:
        Phases, ``(N,)`` int64, in ``[0, P)``.

    Raises:
        TypeError: If the offsets or the strides are not integers.
        ValueError: If the offsets are no ``(N, D)``, a stride is below 1, or there is not one per
            axis.
    """
    _check_pixels("phase_index", "offsets", offsets)
    stride = per_axis("phase_index", stride, offsets.shape[1])
    phase = torch.zeros_like(offsets[:, 0], dtype=torch.int64)
    for axis, value in enumerate(stride):
        phase = phase * value + torch.remainder(offsets[:, axis], value)
    return phase


def shift_phase(
    phase: Tensor | Sequence[int] | int, shift: Tensor, stride: int | Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Where a circular shift of the map sends a component.

    This is the law of the whole project: after a shift ``d`` the component at phase ``p`` is found
    at phase ``q = (p + d) mod S``, circularly shifted by ``(p + d - q) / S`` (per axis).

    Args:
        phase: Phases, ``(N,)`` integers; or one.
        shift: Circular shifts of the map, ``(N, D)`` integers, in pixels.
        stride: Stride of each axis, or one for all.

    Returns:
        The new phases, ``(N,)``, and the shifts of the components, ``(N, D)``, in their pixels.

    Raises:
        TypeError: If the phases, the shifts or the strides are not integers.
        ValueError: If the shifts are no ``(N, D)``, a stride is below 1, or there is not one per
            axis.

    Examples:
        >>> phase, shift = shift_phase(torch.tensor([3]), torch.tensor([[1, 2]]), (2, 2))
        >>> phase.tolist(), shift.tolist()
        ([1], [[1, 1]])
    """
    _check_pixels("shift_phase", "shift", shift)
    stride = per_axis("shift_phase", stride, shift.shape[1])
    moved = phase_offsets(phase, stride).to(shift.device) + shift
    return phase_index(moved, stride), moved // constants(stride, moved)
