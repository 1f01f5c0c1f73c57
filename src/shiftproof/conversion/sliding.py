"""Which calls are windows: convolutions and pools, as layers and as functions."""

from __future__ import annotations

from typing import Any

from torch import nn

from shiftproof.conversion.calls import Call, UnknownError
from shiftproof.conversion.layout import Layout, factors
from shiftproof.conversion.windows import AVERAGE_POOL, CONVOLUTION, MAX_POOL, per_dim, slide


def convolution_layer(call: Call) -> Layout:
    """``Conv1d``, ``Conv2d``, ``Conv3d`` and classes with their forward pass."""
    module = call.module
    assert isinstance(module, nn.modules.conv._ConvNd)
    kernel = [
        (size - 1) * dilation + 1
        for size, dilation in zip(module.kernel_size, module.dilation, strict=True)
    ]
    given = {
        "input": call.args[0] if call.args else call.kwargs["input"],
        "stride": module.stride,
        "padding": module.padding,
    }
    return slide(call, given, kernel, module.out_channels, module.padding_mode)


def pool_layer(call: Call) -> Layout:
    """``MaxPool2d``, ``AvgPool2d``, ``LPPool2d`` and the like."""
    module: Any = call.module
    if getattr(module, "return_indices", False):
        raise UnknownError("positions of maxima")
    count = len(call.layout(call.args[0])) - 2
    kernel = per_dim(module.kernel_size, count)
    dilation = per_dim(getattr(module, "dilation", 1), count)
    given = {
        "input": call.args[0],
        "stride": module.kernel_size if module.stride is None else module.stride,
        "padding": getattr(module, "padding", 0),
        "ceil_mode": module.ceil_mode,
    }
    spread = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    mode = "minus infinity" if isinstance(module, nn.modules.pooling._MaxPoolNd) else "zeros"
    return slide(call, given, spread, None, mode)


def convolution(call: Call) -> Layout:
    """``torch.nn.functional.conv2d`` and the like."""
    given = call.bound(*CONVOLUTION)
    weight = call.value(given["weight"])
    count = weight.ndim - 2
    dilation = per_dim(given.get("dilation", 1), count)
    kernel = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilation, strict=True)]
    if any(factor.is_spatial for factor in factors(call.layout(given["weight"]))):
        raise UnknownError("weights that depend on the input")
    given = {name: _plain(call, name, value) for name, value in given.items()}
    return slide(call, given, kernel, weight.shape[0], "zeros")


def pool(call: Call) -> Layout:
    """``torch.nn.functional.max_pool2d`` and the like."""
    is_max = call.name.startswith("max")
    given = call.bound(*(MAX_POOL if is_max else AVERAGE_POOL))
    if given.get("return_indices"):
        raise UnknownError("positions of maxima")
    given = {name: _plain(call, name, value) for name, value in given.items()}
    count = len(call.layout(given["input"])) - 2
    kernel = per_dim(given["kernel_size"], count)
    if given.get("stride") in (None, ()):
        given["stride"] = given["kernel_size"]
    dilation = per_dim(given.get("dilation", 1), count)
    spread = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    return slide(call, given, spread, None, "minus infinity" if is_max else "zeros")


def _plain(call: Call, name: str, value: Any) -> Any:
    """Numbers in the place of the nodes that compute them."""
    return value if name in ("input", "weight", "bias") else call.value(value)
