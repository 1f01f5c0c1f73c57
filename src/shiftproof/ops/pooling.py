"""The mean over a map, the same in whatever order its pixels come.

Floating-point sums depend on their order, and a circular shift changes the order: ordinary global
pooling moves the logits of an exactly invariant network in their last bits.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from shiftproof.ops.overrides import is_jit_tracing, overridable
from shiftproof.ops.phases import check_map

_EXACT_BITS = 52
"""Whole numbers of so many bits, and one for the sign, add without error in float64."""


def _mean(x: Tensor) -> Tensor:
    """Round each channel to multiples of one unit, so small that float64 sums are exact."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    count = math.prod(x.shape[2:])
    values = x.reshape(*x.shape[:2], count).to(wide)
    largest = values.abs().amax(-1, keepdim=True)
    # Zero, infinite and NaN maps need no rounding, and infinity would spoil the arithmetic below.
    scalable = (largest > 0) & (largest < math.inf)
    unit = torch.where(scalable, largest, 1.0) * (count / 2.0**_EXACT_BITS)
    exact = (values / unit).round().sum(-1, keepdim=True) * unit
    mean = torch.where(scalable, exact, values.sum(-1, keepdim=True)) / count
    return mean.squeeze(-1).to(x.dtype)


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

    Values are rounded to multiples of the channel's largest magnitude times ``M / 2^52`` for a map
    of M pixels, far below the precision of float32.

    Args:
        x: Feature map, ``(N, C, *spatial)``.

    Returns:
        The means, ``(N, C)``, in the dtype of ``x``.

    Raises:
        ValueError: If the input is not a batch of 1-D, 2-D or 3-D maps.

    Equivariance:
        Invariant, exact (bitwise), under circular shifts, and under any permutation of the pixels.
        On Apple's GPUs, which lack float64, to rounding.  Checked by ``tests/ops/test_pooling.py``.

    Examples:
        >>> global_mean(torch.tensor([[[1.0, 2.0, 6.0]]]))
        tensor([[3.]])
    """
    check_map("global_mean", x)
    if is_jit_tracing():  # with a zero added that has the slope
        ordinary = _ordinary_mean(x)
        return _mean(x.detach()) + (ordinary - ordinary.detach())
    function = _Mean if torch.compiler.is_compiling() else _ForwardMean
    return cast(Tensor, function.apply(x))
