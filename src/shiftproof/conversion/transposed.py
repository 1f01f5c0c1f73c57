"""Transposed convolutions, made to wrap around the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from shiftproof import ops
from shiftproof.conversion.calls import Call, UnknownError
from shiftproof.conversion.layout import Layout, plain, size_of, still, whole
from shiftproof.conversion.windows import replace_module, without_padding


@dataclass
class TransposedPlan:
    """A transposed convolution that wraps around: computed with a border, which is cut off.

    Attributes:
        before: Pixels of border before the first, per spatial dimension.
        after: Pixels of border after the last.
        starts: Where the output starts in what the layer gives.
        ends: What to cut off after its end.
        module: The layer without its padding.
        paddings: What is padded with before and after the conversion.
        geometry: How the size of the output changes.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    module: nn.Module
    paddings: tuple[str, str] | None
    geometry: str

    @property
    def pads(self) -> bool:
        """Whether it changes what is padded with."""
        return True

    def run(self, call: Call) -> Tensor:
        """Compute what the call will give."""
        padded = ops.pad(call.value(call.args[0]), self.before, self.after, "circular")
        full: Tensor = self.module(padded)
        return crop(full, self.starts, self.ends)

    def rewrite(self, node: fx.Node, model: nn.Module) -> None:
        """Change the graph."""
        replace_module(model, str(node.target), self.module)
        with node.graph.inserting_before(node):
            padded = node.graph.call_function(
                ops.pad, (node.args[0], self.before, self.after, "circular")
            )
        node.args = (padded,)
        with node.graph.inserting_after(node):
            cropped = node.graph.call_function(crop, (node, self.starts, self.ends))
        node.replace_all_uses_with(cropped, lambda user: user is not cropped)


def crop(x: Tensor, starts: Sequence[int], ends: Sequence[int]) -> Tensor:
    """Cut the border off a map.

    Args:
        x: Feature map, ``(N, C, *spatial)``.
        starts: Pixels to leave out before the first, per spatial axis.
        ends: Pixels to leave out after the last.

    Returns:
        The inner part.
    """
    for axis, (start, end) in enumerate(zip(starts, ends, strict=True), 2):
        x = x[(slice(None),) * axis + (slice(start, x.shape[axis] - end),)]
    return x


def transposed_layer(call: Call) -> Layout:
    """``ConvTranspose2d`` and the like."""
    module: Any = call.module
    layout = call.layout(call.args[0])
    if len(call.args) > 1 or len(layout) != len(module.kernel_size) + 2 or not still(layout[1]):
        raise UnknownError("a window over positions that are not an axis of the map")
    before, after, starts, rests, dims, changes = [], [], [], [], [], []
    for axis, dimension in enumerate(layout[2:]):
        factor = whole(dimension)
        if factor is None or factor.has_margin:
            raise UnknownError("a window over positions that are not an axis of the map")
        stride, padding = module.stride[axis], module.padding[axis]
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1)
        first = max(0, -(-(reach - padding) // stride))
        last = max(0, (stride - 1 + padding) // stride)
        size = factor.size * stride
        full = (factor.size + first + last - 1) * stride + reach + 1
        natural = (factor.size - 1) * stride - 2 * padding + reach + module.output_padding[axis] + 1
        if natural != size:
            changes.append(f"{natural} to {size}")
        before.append(first)
        after.append(last)
        starts.append(first * stride + padding)
        rests.append(full - size - first * stride - padding)
        dims.append((replace(factor, size=size, step=factor.step / stride),))
    if min(rests) < 0:
        raise UnknownError("a kernel smaller than its stride")
    bare: Any = without_padding(module, (0,) * len(dims))
    bare.output_padding = (0,) * len(dims)
    call.plan = TransposedPlan(
        tuple(before),
        tuple(after),
        tuple(starts),
        tuple(rests),
        bare,
        ("zeros", "circular") if any(before) or any(after) else None,
        f"{call.place}: {' and '.join(dict.fromkeys(changes))}" if changes else "",
    )
    assert call.result.shape[2:] == torch.Size(map(size_of, dims))
    return (layout[0], plain(module.out_channels), *dims)
