"""Binomial low-pass filters, with the border treated as a named padding mode says.

References:
    R. Zhang, "Making convolutional networks shift-invariant again", ICML 2019, section 3.2.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.ops.lattice import read_lattice
from shiftproof.ops.overrides import overridable
from shiftproof.ops.padding import PaddingMode, check_padding_mode, pad
from shiftproof.ops.phases import BATCH_AXIS, check_floats, check_map, integers, per_axis


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
        TypeError: If it is not an integer.

    Examples:
        >>> binomial_kernel(3, num_dims=1)
        tensor([0.2500, 0.5000, 0.2500])
    """
    (kernel_size,) = integers("binomial_kernel", "kernel_size", [kernel_size], 1)
    (num_dims,) = integers("binomial_kernel", "num_dims", [num_dims], 1)
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
        kernel: Filter, one axis per spatial axis of ``x``; brought to the device and dtype of
            ``x``.
        padding_mode: ``"circular"``, ``"zeros"`` or ``"reflect"``.
        stride: Sampling stride in pixels; the pixels kept start at the origin.

    Returns:
        The filtered map, ``(N, C, *ceil(spatial / stride))``.

    Raises:
        ValueError: If the kernel does not have one axis per spatial axis, or the padding mode is
            unknown.
        TypeError: If the map holds integers or floats of 8 bits, or the kernel alone is complex.

    Equivariance:
        To rounding under circular shifts with circular padding and stride 1; on CPU exact
        (bitwise) at the sizes tested.  None for stride > 1 or another padding.  Checked by
        ``tests/ops/test_lowpass.py``.
    """
    num_dims = check_map("lowpass", x)
    if kernel.ndim != num_dims:
        batch = f", or {BATCH_AXIS}" if kernel.ndim == num_dims + 1 else ""
        raise ValueError(
            f"lowpass: kernel must have one axis per spatial axis, {num_dims} here, got "
            f"{kernel.ndim}; build it with binomial_kernel(size, num_dims={num_dims}){batch}"
        )
    check_floats("lowpass", x, (torch.complex64, torch.complex128))
    if kernel.is_complex() and not x.is_complex():
        raise TypeError(
            f"lowpass: the kernel of a real map must be real, got {kernel.dtype}; filter with "
            "kernel.real and kernel.imag"
        )
    check_padding_mode("lowpass", padding_mode)
    if kernel.device != x.device:  # a layer without parameters cannot know where the others went
        kernel = kernel.to(x.device)
    strides = per_axis("lowpass", stride, num_dims)
    if kernel.numel() == 1:
        # A slice would give the gradient the default memory format.
        start = torch.zeros((x.shape[0], num_dims), dtype=torch.int64, device=x.device)
        counts = [-(-size // step) for size, step in zip(x.shape[2:], strides, strict=True)]
        kept = read_lattice(x, start, strides, counts) if max(strides) > 1 else x
        return kept * kernel.to(x.dtype).reshape(())
    before = [(size - 1) // 2 for size in kernel.shape]
    after = [size // 2 for size in kernel.shape]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[num_dims - 1]
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)
    padded = pad(x, before, after, padding_mode)
    return convolve(padded, weight, stride=strides, groups=channels)
