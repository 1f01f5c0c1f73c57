"""Layers and modules that are one node of the graph."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from shiftproof import nn as own
from shiftproof.conversion.calls import Call, UnknownError
from shiftproof.conversion.contractions import linear_layout
from shiftproof.conversion.elementwise import running
from shiftproof.conversion.layout import (
    Layout,
    has_margin,
    merged,
    plain,
    still,
    whole,
)
from shiftproof.conversion.pads import padding
from shiftproof.conversion.refusal import IndivisibleError
from shiftproof.conversion.reshaping import depth_to_space, reshape, shuffle, space_to_depth
from shiftproof.conversion.resizing import adaptive_pool, interpolation
from shiftproof.conversion.sliding import convolution_layer, pool_layer
from shiftproof.conversion.transposed import transposed_layer

_ADAPTIVE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)
_POOLS = (
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._LPPoolNd),
)
_PADS = (
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.modules.padding._CircularPadNd,
)
_OWN_STRIDES = (own.PolyphaseDownsample1d, own.PolyphaseDownsample2d, own.PolyphaseDownsample3d)
_OWN_BLURS = (own.BlurPool1d, own.BlurPool2d, own.BlurPool3d)
_OWN_SELECTS = (own.SelectPhase1d, own.SelectPhase2d, own.SelectPhase3d)
_ENOUGH = 6
_ROUNDING = 1e-9
_SHUFFLES = (
    (nn.PixelUnshuffle, "downscale_factor", space_to_depth),
    (nn.PixelShuffle, "upscale_factor", depth_to_space),
    (nn.ChannelShuffle, "groups", shuffle),
)
_POINTWISE = (nn.Identity, nn.modules.dropout._DropoutNd)


def layer(call: Call) -> Any:
    """Any module that was recorded as one node.

    Args:
        call: The call.

    Returns:
        The layout of its output.

    Raises:
        UnknownError: If the output does not move with the input.
    """
    module = call.module
    if module is None or not _keeps_forward(module):
        return _tested(call)
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return transposed_layer(call)
    if isinstance(module, own.Conv2d) and _is_given_phase(call):
        return _sampled(call, module.stride)
    if isinstance(module, nn.modules.conv._ConvNd):
        return convolution_layer(call)
    if isinstance(module, _POOLS):
        return pool_layer(call)
    if isinstance(module, _ADAPTIVE):
        return adaptive_pool(call)
    if isinstance(module, nn.Upsample):
        return interpolation(call)
    if isinstance(module, _PADS):
        return padding(call)
    if isinstance(module, nn.Linear):
        return linear_layout(call, call.layout(call.args[0]))
    if isinstance(module, (nn.Flatten, nn.Unflatten)):
        return reshape(call)
    if isinstance(module, nn.GLU):
        call.kwargs = {"dim": module.dim}
        return running(call)
    for kind, attribute, rule in _SHUFFLES:
        if isinstance(module, kind):
            call.kwargs = {attribute: getattr(module, attribute)}
            return rule(call)
    if isinstance(module, _OWN_SELECTS):
        return (plain(call.result.shape[0]),)
    if isinstance(module, _OWN_STRIDES):
        return _sampled(call, module.stride)
    if isinstance(module, own.GlobalMean):
        return call.layout(call.args[0])[:2]
    if isinstance(module, (own.MaxPool2d, *_OWN_BLURS)):
        return _own_window(call)
    return _tested(call)


def _keeps_forward(module: nn.Module) -> bool:
    """Whether a module does what its class in torch or here does, and nothing besides."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    forward = type(module).forward.__module__
    return forward.startswith(("torch.", "shiftproof.")) and all(
        type(hook).__module__.startswith("torch.nn.utils.") for hook in hooks
    )


def _is_given_phase(call: Call) -> bool:
    return (len(call.args) > 1 and call.args[1] is not None) or "phase" in call.kwargs


def _own_window(call: Call) -> Layout:
    """A pool of this package, whose padding is circular unless it was told otherwise."""
    module: Any = call.module
    if module.padding_mode != "circular":
        raise UnknownError(f"{module.padding_mode} padding of {type(module).__name__}")
    layout = call.layout(call.args[0])
    stride = module.pool.stride if isinstance(module, own.MaxPool2d) else module.stride
    strides = stride if isinstance(stride, tuple) else (stride,) * (len(layout) - 2)
    result = _sampled(call, strides)
    if not _is_given_phase(call):
        for dimension, step in zip(layout[2:], strides, strict=True):
            if step > 1:
                call.require(dimension[0], dimension[0].step * step, f"stride {step}")
    return result


def _sampled(call: Call, strides: tuple[int, ...]) -> Layout:
    """A layer that samples a phase which moves with the content already."""
    layout = call.layout(call.args[0])
    dims = []
    for dimension, stride in zip(layout[2:], strides, strict=True):
        factor = whole(dimension)
        if factor is None or factor.has_margin:
            raise UnknownError("a window over positions that are not an axis of the map")
        if factor.size % stride:
            period = {int(factor.axis or 0): factor.step * stride}
            raise IndivisibleError(call.place, [factor.size], [stride], period)
        coarse = replace(factor, size=factor.size // stride, step=factor.step * stride)
        dims.append(merged([coarse]))
    return (layout[0], plain(call.result.shape[1]), *dims)


def _tested(call: Call) -> Layout:
    """A module that gives a tensor of the same shape: try whether it moves with its input."""
    tensors = [value for value in (*call.args, *call.kwargs.values()) if isinstance(value, fx.Node)]
    if len(tensors) != 1 or not isinstance(call.result, Tensor):
        raise UnknownError("several inputs or outputs")
    layout = call.layout(tensors[0])
    if has_margin(layout) or call.module is None:
        raise UnknownError("a padded map that no window reads")
    if isinstance(call.module, _POINTWISE) and _keeps_forward(call.module):
        return layout
    value = call.value(tensors[0])
    dims = [dim for dim, dimension in enumerate(layout) if not still(dimension)]
    # Where a dimension holds more than one axis, it must not matter in which order positions come.
    joined = any(whole(layout[dim]) is None for dim in dims)
    if call.result.shape != value.shape or not _moves_along(call.module, value, dims, joined):
        raise UnknownError(f"what {type(call.module).__name__} does to positions")
    call.require_layout(layout)
    return layout


def _moves_along(module: nn.Module, value: Tensor, dims: list[int], shuffled: bool) -> bool:
    """Whether a circular shift of the input shifts the output likewise, with random parameters.

    With ``shuffled``, whether any other order of the positions gives the same in that order.
    A small map will do for the layers of torch, where they take one; others are tried on the full
    one too.
    """
    trial = copy.deepcopy(module).double().eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in (*trial.parameters(), *trial.buffers()):
        if tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(drawn + 0.5)
    full = (value.shape[0] if 0 in dims else min(2, value.shape[0]), *value.shape[1:])
    small = tuple(min(size, _ENOUGH) if dim in dims else size for dim, size in enumerate(full))
    known = _keeps_forward(module)
    passed = False
    for shape in dict.fromkeys((small, full)):
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(value.device)
        try:
            passed = all(
                _commutes(trial, x, order, dim)
                for dim in dims
                for order in _orders(x.shape[dim], generator, shuffled)
            )
        except (RuntimeError, TypeError, ValueError, AssertionError):
            continue
        if known or not passed:
            return passed
    return passed


def _orders(size: int, generator: torch.Generator, shuffled: bool) -> list[Tensor]:
    if shuffled:
        return [torch.randperm(size, generator=generator) for _ in range(3)]
    return [torch.arange(size).roll(amount) for amount in (1, 2, 5)]


def _commutes(module: nn.Module, x: Tensor, order: Tensor, dim: int) -> bool:
    order = order.to(x.device)
    with torch.no_grad():
        moved = module(x.clone()).index_select(dim, order)
        after = module(x.index_select(dim, order))
        return bool((after - moved).abs().max() <= _ROUNDING)
