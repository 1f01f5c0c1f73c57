"""The mean over a map, the same in whatever order its pixels come.

Floating-point sums depend on their order, and a circular shift changes the order: ordinary global
pooling moves the logits of an exactly invariant network in their last bits.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from shiftproof.ops.overrides import is_jit_tracing, overridable
from shiftproof.ops.phases import check_floats, check_map

_EXACT_BITS = 52
"""Whole numbers of so many bits, and one for the sign, add without error in float64."""

_SHORT_BITS = 30
"""Bits that are kept of the largest value where the map itself has 24 at most."""


def _mean(x: Tensor) -> Tensor:
    """Round each channel to multiples of one unit, so small that float64 sums are exact."""
    count = math.prod(x.shape[2:])
    narrow = x.dtype != torch.float64
    # A trace does not know the size; its maps are taken to be of fewer than four million pixels.
    short = narrow and (is_jit_tracing() or count <= 1 << (_EXACT_BITS - _SHORT_BITS))
    values = x.reshape(*x.shape[:2], count).to(torch.float32 if short else _wide(x))
    largest = values.abs().amax(-1, keepdim=True)
    # Zero, infinite and NaN maps need no rounding, and infinity would spoil the arithmetic below.
    scalable = (largest > 0) & (largest < math.inf)
    scale = torch.where(scalable, largest, 1.0)
    levels = 2.0**_SHORT_BITS if short else 2.0**_EXACT_BITS / count
    # Two steps, because one factor could leave the range of float32.
    whole = (values / scale).mul_(levels).round_()
    total = whole.sum(-1, keepdim=True, dtype=_wide(x)) / levels * scale
    mean = torch.where(scalable, total, values.sum(-1, keepdim=True)) / count
    return mean.squeeze(-1).to(x.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def _ordinary_mean(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:])).mean(-1)


class _Mean(torch.autograd.Function):
    """The exact mean; its derivative is that of the ordinary mean."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _mean(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.sizes = tuple(inputs[0].shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shape = (*grad.shape, *[1] * len(ctx.sizes))
        mean: Tensor = grad / math.prod(ctx.sizes)
        return mean.view(shape).expand(*grad.shape, *ctx.sizes)


class _ForwardMean(_Mean):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _ordinary_mean(tangent)


@overridable
def global_mean(x: Tensor) -> Tensor:
    """Average each channel over all pixels, with a result that no shift can change.

    Values are rounded to multiples of the channel's largest magnitude times ``2^-30``, in float64
    ``M / 2^52`` for a map of M pixels: far below the precision of their dtype.

    Args:
        x: Feature map, ``(N, C, *spatial)``.

    Returns:
        The means, ``(N, C)``, in the dtype of ``x``.

    Raises:
        ValueError: If the input is not a batch of 1-D, 2-D or 3-D maps.
        TypeError: If the map is not of a floating-point dtype of 16 bits or more.

    Equivariance:
        Invariant, exact (bitwise), under circular shifts, and under any permutation of the pixels.
        On Apple's GPUs, which lack float64, to rounding.  Checked by ``tests/ops/test_pooling.py``.

    Examples:
        >>> global_mean(torch.tensor([[[1.0, 2.0, 6.0]]]))
        tensor([[3.]])
    """
    check_map("global_mean", x)
    check_floats("global_mean", x)
    if is_jit_tracing():  # with a zero added that has the slope
        ordinary = _ordinary_mean(x)
        return _mean(x.detach()) + (ordinary - ordinary.detach())
    function = _Mean if torch.compiler.is_compiling() else _ForwardMean
    return cast(Tensor, function.apply(x))
