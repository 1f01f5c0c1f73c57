"""Translations by fractions of a pixel around the circle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from shiftproof.ops.overrides import may_branch, overridable
from shiftproof.ops.phases import check_map
from shiftproof.ops.shift import circular_shift
from shiftproof.ops.torus import positions

ShiftMethod = Literal["fft", "bilinear"]
SHIFT_METHODS: tuple[ShiftMethod, ...] = get_args(ShiftMethod)

_WIDE = (torch.float32, torch.float64)


def _kind_error(got: object) -> TypeError:
    return TypeError(
        f"fractional_shift: shift must be made of numbers of pixels, got {got}; pass one per "
        "spatial axis"
    )


def _per_sample(x: Tensor, shift: Sequence[float] | Tensor, dtype: torch.dtype) -> Tensor:
    """Bring a shift to one row per sample, ``(N, D)`` of a floating-point dtype."""
    num_dims = check_map("fractional_shift", x)
    parts = shift if isinstance(shift, (tuple, list)) else [shift]
    if any(part is None or isinstance(part, (str, bool)) for part in parts):
        raise _kind_error(repr(shift))
    plain = isinstance(shift, (tuple, list)) and all(type(n) in (int, float) for n in shift)
    if plain and shift:
        # Made on the device, without a copy from the host.
        columns = [torch.full((x.shape[0],), float(n), dtype=dtype, device=x.device) for n in shift]
        shifts = torch.stack(columns, 1)
    else:
        shifts = torch.as_tensor(shift, device=x.device)
    if shifts.dtype == torch.bool or shifts.is_complex():
        raise _kind_error(shifts.dtype)
    if shifts.ndim == 0 and num_dims == 1:
        shifts = shifts[None]
    if shifts.ndim == 1:
        shifts = shifts.expand(x.shape[0], -1)
    if shifts.shape != (x.shape[0], num_dims):
        raise ValueError(
            f"fractional_shift: shift must have one value per spatial axis, {num_dims} here, for "
            f"all samples or for each of {x.shape[0]}, got shape {tuple(shifts.shape)}; pass a "
            "tuple or an (N, D) tensor"
        )
    if may_branch(shifts) and not bool(torch.isfinite(shifts).all()):
        raise ValueError(
            "fractional_shift: shift must be finite, got NaN or infinity; pass numbers of pixels"
        )
    wide = shifts.dtype if shifts.dtype in _WIDE else dtype
    return shifts.to(wide)


def _by_fft(x: Tensor, fraction: Tensor, axis: int) -> Tensor:
    """Turn the phases of the frequencies of an axis."""
    size = x.shape[axis]
    angle = (-2 * math.pi / size) * positions(size // 2 + 1, fraction) * fraction
    cosine, sine = torch.cos(angle), torch.sin(angle)
    if size % 2 == 0:  # the highest frequency has no sine on these pixels
        sine = torch.cat([sine[..., :-1], torch.zeros_like(sine[..., :1])], -1)
    turned = torch.fft.rfft(x.movedim(axis, -1)) * torch.complex(cosine, sine)
    moved: Tensor = torch.fft.irfft(turned, n=size)
    return moved.movedim(-1, axis)


def _linear(x: Tensor, fraction: Tensor, axis: int) -> Tensor:
    """The mean of two neighbours on an axis, weighted by how near they are."""
    fraction = fraction.movedim(-1, axis)
    return (1 - fraction) * x + fraction * x.roll(1, axis)


@overridable
def fractional_shift(
    x: Tensor, shift: Sequence[float] | Tensor, method: ShiftMethod = "fft"
) -> Tensor:
    """Translate images by fractions of a pixel; what leaves on one side comes back on the other.

    ``"fft"`` reads the periodic band-limited signal through the pixels at other places: each
    frequency k of an axis of n pixels is multiplied by ``exp(-2 pi i k d / n)``.  Of an axis of
    even size, the highest frequency, k = n / 2, which alternates from pixel to pixel, is multiplied
    by ``cos(pi d)``: the shifted sine is zero on the pixels, and the result stays real.  At half a
    pixel that frequency is gone.

    ``"bilinear"`` is linear interpolation along each axis, in any number of axes; it softens, most
    at half a pixel.  Both copy pixels where a shift is whole along an axis.

    Args:
        x: Images, ``(N, C, *spatial)``, of a floating-point dtype of 16 bits or more; those of 16
            bits are computed in float32.
        shift: Pixels per spatial axis, ``(dy, dx)`` in 2-D; or an ``(N, D)`` tensor with a
            different shift for each sample.  It has a gradient except where it is whole.
        method: ``"fft"`` or ``"bilinear"``.

    Returns:
        The shifted images, of the shape and dtype of ``x``.

    Raises:
        ValueError: If the method is another, the shift does not have one value per axis, or, on the
            CPU, is not finite.
        TypeError: If the images are not of a floating-point dtype of 16 bits or more, or the shift
            is not made of numbers.

    Equivariance:
        A shift by whole pixels is ``circular_shift``, exact (bitwise), and exchanges with any
        other shift: exactly with ``"bilinear"``, to rounding with ``"fft"``.  Shifts of ``"fft"``
        add, and keep the norm, to rounding, for odd sizes and for images without the highest
        frequency; otherwise, and for ``"bilinear"``, approximately.  Checked by
        ``tests/ops/test_fractional.py``.

    References:
        T. Karras et al., "Alias-free generative adversarial networks", NeurIPS 2021, appendix E.3,
        where the equivariance to translations by fractions of a pixel is measured.

    Examples:
        >>> x = torch.tensor([[[0.0, 4.0, 0.0, 0.0]]])
        >>> fractional_shift(x, (0.25,), "bilinear")
        tensor([[[0., 3., 1., 0.]]])
        >>> fractional_shift(x, (1,))
        tensor([[[0., 0., 4., 0.]]])
    """
    if method not in SHIFT_METHODS:
        raise ValueError(
            f"fractional_shift: method must be one of {', '.join(SHIFT_METHODS)}, got {method!r}; "
            "fft keeps all frequencies"
        )
    if not x.is_floating_point() or x.dtype.itemsize < 2:
        raise TypeError(
            "fractional_shift: images must be of a floating-point dtype of 16 bits or more, got "
            f"{x.dtype}; pass x.float()"
        )
    dtype = x.dtype if x.dtype in _WIDE else torch.float32
    shifts = _per_sample(x, shift, dtype)
    whole = shifts.detach().floor()
    fractions = (shifts - whole).to(dtype)
    # A fraction that rounds up to a whole pixel in the narrower dtype.
    carry = (fractions.detach() == 1).to(whole.dtype)
    fractions = torch.where(carry.bool(), torch.zeros_like(fractions), fractions)
    moved = circular_shift(x, (whole + carry).to(torch.int64)).to(dtype)
    move = _by_fft if method == "fft" else _linear
    for axis in range(2, x.ndim):
        fraction = fractions[:, axis - 2].reshape(-1, *[1] * (x.ndim - 1))
        moved = torch.where(fraction == 0, moved, move(moved, fraction, axis))
    return moved.to(x.dtype)
