"""Binomial low-pass filters, with the border treated as a named padding mode says.

References:
    R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019, section 3.2.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.ops.overrides import overridable
from shiftproof.ops.phases import check_map, per_axis

PaddingMode = Literal["circular", "zeros", "reflect"]
PADDING_MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)


def check_padding_mode(operation: str, mode: str) -> None:
    """Refuse an unknown padding mode.

    Args:
        operation: Name of the caller, for the error message.
        mode: Name of the mode.

    Raises:
        ValueError: If it is not one of ``PADDING_MODES``.
    """
    if mode not in PADDING_MODES:
        raise ValueError(
            f"{operation}: padding_mode must be one of {', '.join(PADDING_MODES)}, got {mode!r}; "
            "circular keeps shift invariance"
        )


def binomial_kernel(
    kernel_size: int, num_dims: int = 2, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Outer product of rows of Pascal's triangle, of sum 1.

    Args:
        kernel_size: Taps per axis, 1 or more; 1 is the identity.
        num_dims: Number of spatial axes.
        dtype: Dtype of the kernel; torch's default if None.

    Returns:
        The kernel, ``(kernel_size,) * num_dims``.

    Raises:
        ValueError: If the kernel size is below 1.

    Examples:
        >>> binomial_kernel(3, num_dims=1)
        tensor([0.2500, 0.5000, 0.2500])
    """
    if kernel_size < 1:
        raise ValueError(
            f"binomial_kernel: kernel_size must be at least 1, got {kernel_size}; 1 does not filter"
        )
    row = torch.tensor(
        [math.comb(kernel_size - 1, tap) / 2 ** (kernel_size - 1) for tap in range(kernel_size)],
        dtype=dtype,
    )
    kernel = row
    for _ in range(num_dims - 1):
        kernel = kernel[..., None] * row
    return kernel


def _wrapped(size: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """Source pixel of each padded pixel, for any amount of padding."""
    position = torch.arange(-before, size + after, device=device)
    if mode == "circular":
        return torch.remainder(position, size)
    period = max(2 * (size - 1), 1)
    folded = torch.remainder(position, period)
    return torch.minimum(folded, period - folded).clamp(max=size - 1)


@overridable
def pad(
    x: Tensor, before: Sequence[int], after: Sequence[int], padding_mode: PaddingMode
) -> Tensor:
    """Extend a map over its borders, also by more than its own size.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        before: Pixels to add before the first, per spatial axis.
        after: Pixels to add after the last, per spatial axis.
        padding_mode: ``"circular"`` (wraps as often as needed), ``"zeros"`` or ``"reflect"``
            (the border pixel is not repeated).

    Returns:
        The extended map.

    Raises:
        ValueError: If the padding mode is unknown.

    Equivariance:
        With circular padding a convolution that follows is exactly equivariant to circular shifts;
        with the others it is not.  Checked by ``tests/ops/test_lowpass.py``.
    """
    check_padding_mode("pad", padding_mode)
    widths = [
        width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair
    ]
    if not any(widths):
        return x
    if padding_mode == "zeros":
        return F.pad(x, widths)
    room = 0 if padding_mode == "circular" else 1
    if all(
        max(first, last) <= size - room
        for first, last, size in zip(before, after, x.shape[2:], strict=True)
    ):
        return F.pad(x, widths, mode=padding_mode)
    # torch refuses to pad by more than the map holds.
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        source = _wrapped(x.shape[2 + axis], first, last, padding_mode, x.device)
        x = x.index_select(2 + axis, source)
    return x


@overridable
def lowpass(
    x: Tensor,
    kernel: Tensor,
    padding_mode: PaddingMode = "circular",
    stride: int | Sequence[int] = 1,
) -> Tensor:
    """Filter every channel with the same kernel, and keep every ``stride``-th pixel.

    A kernel of size k is centred with ``(k - 1) // 2`` pixels of padding before and ``k // 2``
    after, so that stride 1 keeps the size of the map.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        kernel: Filter, one axis per spatial axis of ``x``.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"reflect"``.
        stride: Sampling stride in pixels; the pixels kept start at the origin.

    Returns:
        The filtered map, ``(N, C, *ceil(spatial / stride))``.

    Raises:
        ValueError: If the kernel does not have one axis per spatial axis, or the padding mode is
            unknown.

    Equivariance:
        To rounding under circular shifts with circular padding and stride 1; on CPU exact
        (bitwise) at the sizes tested.  None for stride > 1 or another padding.  Checked by
        ``tests/ops/test_lowpass.py``.
    """
    num_dims = check_map("lowpass", x)
    if kernel.ndim != num_dims:
        raise ValueError(
            f"lowpass: kernel must have one axis per spatial axis, {num_dims} here, got "
            f"{kernel.ndim}; build it with binomial_kernel(size, num_dims={num_dims})"
        )
    check_padding_mode("lowpass", padding_mode)
    strides = per_axis("lowpass", stride, num_dims)
    if kernel.numel() == 1:
        kept = tuple(slice(None, None, step) for step in (1, 1, *strides))
        return x[kept] * kernel.to(x.dtype).reshape(())
    before = [(size - 1) // 2 for size in kernel.shape]
    after = [size // 2 for size in kernel.shape]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[num_dims - 1]
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    padded = pad(x, before, after, padding_mode)
    return convolve(padded, weight, stride=strides, groups=channels)
