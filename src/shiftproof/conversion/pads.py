"""Padding as a call of its own, which the windows behind it do in its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from shiftproof.conversion.calls import Call, UnknownError
from shiftproof.conversion.layout import Layout, has_margin, plain, still, whole

_WINDOWED = frozenset(
    f"{kind}{axes}d" for kind in ("conv", "max_pool", "avg_pool") for axes in (1, 2, 3)
)


@dataclass
class DeferredPad:
    """Padding that the windows behind it do, so that it is left out."""

    paddings: tuple[str, str] | None = None
    geometry: str = ""

    @property
    def pads(self) -> bool:
        """Whether it changes what is padded with."""
        return True

    def run(self, call: Call) -> Tensor:
        """Compute what the call will give: its input."""
        value: Tensor = call.value(call.args[0])
        return value

    def rewrite(self, node: fx.Node, model: nn.Module) -> None:
        """Change the graph."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node.replace_all_uses_with(source)


@dataclass
class ShiftPlan:
    """Padding on one side and cropping on the other: a shift.

    Attributes:
        shifts: By how much, per dimension.
        dims: The dimensions.
    """

    shifts: tuple[int, ...]
    dims: tuple[int, ...]
    paddings: tuple[str, str] | None = ("zeros", "circular")
    geometry: str = ""

    @property
    def pads(self) -> bool:
        """Whether it changes what is padded with."""
        return True

    def run(self, call: Call) -> Tensor:
        """Compute what the call will give."""
        return torch.roll(call.value(call.args[0]), self.shifts, self.dims)

    def rewrite(self, node: fx.Node, model: nn.Module) -> None:
        """Change the graph."""
        node.op, node.target = "call_function", torch.roll
        node.args, node.kwargs = (node.args[0], self.shifts, self.dims), {}


def padding(call: Call) -> Layout:
    """``pad``, as function or layer: done by the windows that read it."""
    if call.module is not None:
        widths: Any = call.module.padding
        mode = _mode_of(call.module)
    else:
        given = call.bound("input", "pad", "mode", "value")
        widths, mode = call.value(given["pad"]), given.get("mode", "constant")
        mode = "zeros" if mode == "constant" else mode
    layout = list(call.layout(call.args[0]))
    if has_margin(tuple(layout)):
        raise UnknownError("a padded map that is padded again")
    pairs = [(int(a), int(b)) for a, b in zip(widths[::2], widths[1::2], strict=True)]
    padded = {len(layout) - 1 - index: pair for index, pair in enumerate(pairs) if any(pair)}
    if not padded:
        return tuple(layout)
    if all(still(layout[dim]) for dim in padded):
        for dim in padded:
            call.require_inner([factor for factor in layout[dim] if factor.is_inner])
            layout[dim] = plain(call.result.shape[dim])
        return tuple(layout)
    if any(whole(layout[dim]) is None for dim in padded):
        raise UnknownError("padding of something that is not an axis of the map")
    if all(first + last == 0 for first, last in padded.values()):
        shifts = tuple(first for first, _ in padded.values())
        call.plan = ShiftPlan(shifts, tuple(padded))
        return tuple(layout)
    if min(min(pair) for pair in padded.values()) < 0 or not _read_by_windows(call, padded):
        raise UnknownError("padding that no window reads")
    call.plan = DeferredPad(None if mode == "circular" else (mode, "circular"))
    for dim, (first, last) in padded.items():
        factor = layout[dim][0]
        layout[dim] = (replace(factor, size=factor.size + first + last, before=first, after=last),)
    return tuple(layout)


def _mode_of(module: nn.Module) -> str:
    kinds = {
        "reflect": nn.modules.padding._ReflectionPadNd,
        "replicate": nn.modules.padding._ReplicationPadNd,
        "circular": nn.modules.padding._CircularPadNd,
    }
    return next((name for name, kind in kinds.items() if isinstance(module, kind)), "zeros")


def _read_by_windows(call: Call, padded: dict[int, tuple[int, int]]) -> bool:
    """Whether windows, wider than the padding, are all that read it."""
    if min(padded) < 2:
        return False
    windows = 0
    for user in call.node.users:
        if user.op == "call_method" and user.target == "size":
            if user.users and (len(user.args) < 2 or user.args[1] in padded):
                return False
            continue
        widths = _window_of(call, user)
        if widths is None:
            return False
        for dim, pair in padded.items():
            width = widths[0] if len(widths) == 1 else widths[dim - 2]
            if max(pair) >= width:
                return False
        windows += 1
    return windows > 0


def _window_of(call: Call, user: fx.Node) -> tuple[int, ...] | None:
    """Size of the window of a call, per spatial dimension or for all; None if it has none."""
    model = call.node.graph.owning_module
    size: Any
    spread: Any
    if user.op == "call_module" and model is not None:
        module: Any = model.get_submodule(str(user.target))
        kinds = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd)
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return None
        if not isinstance(module, (*kinds, nn.modules.pooling._AvgPoolNd)):
            return None
        size, spread = module.kernel_size, getattr(module, "dilation", 1)
    elif user.op == "call_function" and getattr(user.target, "__name__", "") in _WINDOWED:
        if len(user.args) < 2 and "kernel_size" not in user.kwargs:
            return None
        size = user.args[1] if len(user.args) > 1 else user.kwargs["kernel_size"]
        if isinstance(size, fx.Node):  # the weights of a convolution
            size = size.meta["shape"][2:] if "shape" in size.meta else None
        spread = 1
    else:
        return None
    if size is None:
        return None
    sizes = size if isinstance(size, (tuple, list)) else (size,)
    steps = spread if isinstance(spread, (tuple, list)) else (spread,) * len(sizes)
    return tuple((int(a) - 1) * int(b) + 1 for a, b in zip(sizes, steps, strict=False))
