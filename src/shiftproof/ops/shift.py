"""Translations of images: around the circle, of the crop window, and with zeros moved in."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shiftproof.ops.lattice import read_lattice
from shiftproof.ops.overrides import may_branch, may_read_values, overridable
from shiftproof.ops.phases import check_map, integers
from shiftproof.ops.window import read_window


def per_sample_shift(operation: str, x: Tensor, shift: Sequence[int] | Tensor) -> Tensor:
    """Bring a shift to one row per sample.

    Args:
        operation: Name of the caller, for the error message.
        x: Images, ``(N, C, *spatial)``.
        shift: One integer per spatial axis for all samples, or ``(N, D)`` integers.

    Returns:
        The shifts, ``(N, D)`` int64, on the device of ``x``.

    Raises:
        ValueError: If the shift does not have one value per axis.
        TypeError: If the shift is not made of integers.
    """
    num_dims = check_map(operation, x)
    if isinstance(shift, Sequence) and not any(isinstance(row, Sequence) for row in shift):
        is_whole = not any(isinstance(pixels, bool) for pixels in shift)
    else:
        is_whole = not isinstance(shift, bool) and shift is not None
    if isinstance(shift, str) or not is_whole:
        raise TypeError(f"{operation}: shift must be made of whole pixels, got {shift!r}; round it")
    if isinstance(shift, (tuple, list)) and shift and all(type(n) is int for n in shift):
        # Made on the device, without a copy from the host.
        columns = [torch.full((x.shape[0],), value, device=x.device) for value in shift]
        shifts = torch.stack(columns, 1)
    else:
        shifts = torch.as_tensor(shift, device=x.device)
    if shifts.is_floating_point() or shifts.is_complex() or shifts.dtype == torch.bool:
        raise TypeError(
            f"{operation}: shift must be made of whole pixels, got {shifts.dtype}; round it"
        )
    if shifts.ndim == 0 and num_dims == 1:
        shifts = shifts[None]
    if shifts.ndim == 1:
        shifts = shifts.expand(x.shape[0], -1)
    if shifts.ndim != 2 or shifts.shape != (x.shape[0], num_dims):
        raise ValueError(
            f"{operation}: shift must have one value per spatial axis, {num_dims} here, for all "
            f"samples or for each of {x.shape[0]}, got shape {tuple(shifts.shape)}; "
            "pass a tuple or an (N, D) tensor"
        )
    return shifts.to(torch.int64)


@overridable
def circular_shift(x: Tensor, shift: Sequence[int] | Tensor) -> Tensor:
    """Translate images; what leaves on one side comes back on the other.

    ``circular_shift(x, d)[..., i] == x[..., (i - d) mod size]`` on each spatial axis.

    Args:
        x: Images, ``(N, C, *spatial)``.
        shift: Pixels per spatial axis, ``(dy, dx)`` in 2-D, any integers; or an ``(N, D)`` tensor
            with a different shift for each sample.

    Returns:
        The shifted images, of the shape and memory format of ``x``.

    Raises:
        ValueError: If the shift does not have one value per axis.
        TypeError: If the shift is not made of integers.

    Equivariance:
        The group action itself: exact (bitwise), shifts add.  Checked by
        ``tests/ops/test_shift.py``.

    Examples:
        >>> x = torch.arange(4.0).reshape(1, 1, 4)
        >>> circular_shift(x, (1,))
        tensor([[[3., 0., 1., 2.]]])
    """
    sizes = x.shape[2:]
    shifts = per_sample_shift("circular_shift", x, shift)
    start = torch.stack([torch.remainder(-shifts[:, i], size) for i, size in enumerate(sizes)], 1)
    return read_window(x, start, 0, sizes[-1] - 1, sizes)


def _check_window(shifts: Tensor, sizes: Sequence[int], size: Sequence[int]) -> None:
    room = [full - part for full, part in zip(sizes, size, strict=True)]
    columns = [(shifts[:, axis] < 0) | (shifts[:, axis] > end) for axis, end in enumerate(room)]
    outside = torch.stack(columns).any()
    if not may_branch(outside):  # asserted on the device, so that nobody waits for the answer
        torch._assert_async(~outside, "crop_shift: the window must lie inside the image")
    elif bool(outside):
        raise ValueError(
            f"crop_shift: the window must lie inside the image of {'x'.join(map(str, sizes))}, "
            f"got size {'x'.join(map(str, size))} at shifts {shifts.min().item()} to "
            f"{shifts.max().item()}; shift by at most {tuple(room)}"
        )


@overridable
def crop_shift(x: Tensor, shift: Sequence[int] | Tensor, size: Sequence[int]) -> Tensor:
    """Cut a window out of larger images: the shift of a camera, with new content at the border.

    Args:
        x: Images, ``(N, C, *spatial)``.
        shift: First pixel of the window per spatial axis; or an ``(N, D)`` tensor with a
            different window for each sample.
        size: Size of the window per spatial axis, in pixels.

    Returns:
        The windows, ``(N, C, *size)``.

    Raises:
        ValueError: If the shift or the size does not have one value per axis, or the window leaves
            the image.  On a GPU that is an assertion on the device, and the error is torch's; a
            compiled or exported graph, which must not look at values, takes the nearest window
            inside.
        TypeError: If the shift is not made of integers.

    Equivariance:
        None: content is lost at one border and new content enters at the other.  Checked, as a
        control, by ``tests/ops/test_shift.py``.
    """
    sizes = x.shape[2:]
    shifts = per_sample_shift("crop_shift", x, shift)
    size = integers("crop_shift", "size", size, len(sizes))
    if len(size) != len(sizes):
        raise ValueError(
            f"crop_shift: size must have one value per spatial axis, {len(sizes)} here, got "
            f"{tuple(size)}; pass for instance {tuple(sizes)}"
        )
    if may_read_values(shifts):
        _check_window(shifts, sizes, size)
    else:
        room = [full - part for full, part in zip(sizes, size, strict=True)]
        shifts = torch.stack([shifts[:, axis].clamp(0, end) for axis, end in enumerate(room)], 1)
    return read_lattice(x, shifts, (1,) * len(sizes), size)


@overridable
def zero_fill_shift(x: Tensor, shift: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Translate images; what leaves is lost and zeros come in.

    Args:
        x: Images, ``(N, C, *spatial)``.
        shift: Pixels per spatial axis, any integers; or an ``(N, D)`` tensor with a different
            shift for each sample.

    Returns:
        The shifted images, of the shape of ``x``, and the validity mask ``(N, 1, *spatial)``,
        bool, true where a pixel shows content of ``x``.

    Raises:
        ValueError: If the shift does not have one value per axis.
        TypeError: If the shift is not made of integers.

    Equivariance:
        None: content is lost at the border.  Checked, as a control, by ``tests/ops/test_shift.py``.
    """
    shifts = per_sample_shift("zero_fill_shift", x, shift)
    mask = torch.ones((x.shape[0], 1, *x.shape[2:]), dtype=torch.bool, device=x.device)
    for axis, size in enumerate(x.shape[2:]):
        source = torch.arange(size, device=x.device) - shifts[:, axis, None]
        inside = (source >= 0) & (source < size)
        shape = [x.shape[0]] + [1] * (x.ndim - 1)
        shape[2 + axis] = size
        mask = mask & inside.view(shape)
    return torch.where(mask, circular_shift(x, shifts), 0), mask
