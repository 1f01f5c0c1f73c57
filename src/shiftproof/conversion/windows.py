"""Convolutions and pools: sliding windows, made to wrap around the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import fx, nn

from shiftproof import nn as layers
from shiftproof import ops
from shiftproof.conversion.calls import Call, UnknownError
from shiftproof.conversion.layout import (
    Dimension,
    Factor,
    Layout,
    factors,
    merged,
    plain,
    size_of,
    still,
    whole,
)
from shiftproof.conversion.refusal import IndivisibleError

CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
MAX_POOL = (
    *("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
)
AVERAGE_POOL = (
    *("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "divisor_override",
)


@dataclass(frozen=True)
class Window:
    """A sliding window along one dimension.

    Attributes:
        kernel: Its size, dilation included.
        stride: Its step.
        before: What the call pads before the first pixel.
        after: What it pads after the last.
        ceil: Whether windows may hang over the end.
    """

    kernel: int
    stride: int
    before: int
    after: int
    ceil: bool = False

    def count(self, size: int) -> int:
        """Number of windows on a map of some size, as torch counts them."""
        room = size + self.before + self.after - self.kernel
        if not self.ceil:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        return count - ((count - 1) * self.stride >= size + self.before)


@dataclass
class WindowPlan:
    """A window that reads a circular border, and its own padding set to none.

    Attributes:
        before: Pixels of border before the first, per spatial dimension.
        after: Pixels of border after the last.
        strides: Steps of the window.
        aligned: Whether the dimensions are those of the input, in their order, so that a phase of
            the input's axes can be applied.
        module: The layer without its padding, for a layer.
        kwargs: Arguments without the padding, for a function.
        circular: The layer with its padding made circular, where that is all there is to do.
        paddings: What is padded with before and after the conversion, in words.
        geometry: How the size of the output changes, in words; empty if it does not.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    strides: tuple[int, ...]
    aligned: bool
    module: nn.Module | None = None
    kwargs: dict[str, Any] | None = None
    circular: layers.Conv2d | None = None
    paddings: tuple[str, str] | None = None
    geometry: str = ""

    @property
    def pads(self) -> bool:
        """Whether it changes what is padded with."""
        return any(map(any, (self.before, self.after)))

    def run(self, call: Call) -> Any:
        """Compute what the call will give."""
        x = call.value(call.node.args[0] if call.node.args else call.kwargs["input"])
        padded = ops.pad(x, self.before, self.after, "circular")
        if self.module is not None:
            return self.module(padded)
        kwargs = {name: call.value(value) for name, value in (self.kwargs or {}).items()}
        assert callable(call.node.target)
        return call.node.target(padded, **kwargs)

    def rewrite(self, node: fx.Node, model: nn.Module, phase: fx.Node | None = None) -> None:
        """Change the graph.

        Args:
            node: The call.
            model: The network that holds the layers.
            phase: Node that gives a phase by whose stride the window samples, if there is one.
        """
        source = node.args[0] if node.args else node.kwargs["input"]
        if self.circular is not None:
            replace_module(model, str(node.target), self.circular)
            node.args, node.kwargs = (source,) if phase is None else (source, phase), {}
            return
        if self.module is not None:
            replace_module(model, str(node.target), self.module)
        widths = self.before, self.after
        with node.graph.inserting_before(node):
            if phase is not None:
                source = node.graph.call_function(
                    ops.align_phase, (source, phase, self.strides, *widths)
                )
            elif any(map(any, widths)):
                source = node.graph.call_function(ops.pad, (source, *widths, "circular"))
        node.args = (source,)
        node.kwargs = self.kwargs or {}


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another.

    Args:
        model: The network.
        name: Qualified name of the place.
        module: The new module.
    """
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def per_dim(value: Any, count: int) -> tuple[int, ...]:
    """One number per spatial dimension.

    Args:
        value: One for all, or one for each.
        count: Number of dimensions.

    Returns:
        The numbers.
    """
    if isinstance(value, (tuple, list)):
        return tuple(map(int, value)) * (count if len(value) == 1 else 1)
    return (int(value),) * count


def _padding(value: Any, kernel: Sequence[int], count: int) -> list[tuple[int, int]]:
    if value == "valid":
        return [(0, 0)] * count
    if value == "same":
        return [((size - 1) // 2, size // 2) for size in kernel]
    return [(width, width) for width in per_dim(value, count)]


def _windows(given: dict[str, Any], kernel: Sequence[int], count: int) -> list[Window]:
    stride = given.get("stride")
    strides = per_dim(1 if stride is None else stride, count)
    return [
        Window(size, step, before, after, bool(given.get("ceil_mode", False)))
        for size, step, (before, after) in zip(
            kernel, strides, _padding(given.get("padding", 0), kernel, count), strict=True
        )
    ]


def _slide(
    call: Call, layout: Layout, windows: list[Window]
) -> tuple[list[tuple[int, int]], list[Dimension | None], str]:
    """Border and output of each spatial dimension; None where nothing moves along it."""
    borders: list[tuple[int, int]] = []
    outputs: list[Dimension | None] = []
    geometry = []
    sizes = [size_of(dimension) for dimension in layout[2:]]
    for dimension, window in zip(layout[2:], windows, strict=True):
        factor = whole(dimension)
        if factor is None:
            if not still(dimension):
                raise UnknownError("a window over positions that are not an axis of the map")
            call.require_inner([factor for factor in dimension if factor.is_inner])
            borders.append((0, 0))
            outputs.append(None)
            continue
        step = factor.step * window.stride
        size = factor.size - factor.before - factor.after
        if size % window.stride:
            raise IndivisibleError(
                call.place, sizes, [w.stride for w in windows], _periods(layout, windows)
            )
        if window.stride > 1:
            call.require(factor, step, f"stride {window.stride}")
        before = window.before + factor.before
        after = max(window.kernel - window.stride - before, 0)
        padded = replace(window, before=before, after=window.after + factor.after)
        count = size // window.stride
        if replace(padded, after=after, ceil=False).count(size) != count or before < 0:
            raise UnknownError("padding wider than the window")
        if padded.count(size) != count:
            geometry.append(f"{padded.count(size)} to {count}")
        borders.append((before, after))
        outputs.append(merged([Factor(count, factor.axis, step, factor.span)]))
    return borders, outputs, " and ".join(dict.fromkeys(geometry))


def _periods(layout: Layout, windows: list[Window]) -> dict[int, Fraction]:
    periods: dict[int, Fraction] = {}
    for dimension, window in zip(layout[2:], windows, strict=True):
        factor = whole(dimension)
        if factor is not None and isinstance(factor.axis, int):
            periods[factor.axis] = factor.step * window.stride
    return periods


def _follows_axes(layout: Layout) -> bool:
    """Whether the spatial dimensions are the axes of the input, in their order."""
    spatial = [whole(dimension) for dimension in layout[2:]]
    moving = [factor for factor in factors(layout) if factor.moves]
    return (
        all(factor is not None and factor.axis == axis for axis, factor in enumerate(spatial))
        and len(moving) == len(spatial)
        and [factor.axis for factor in layout[0]] == ["batch"]
    )


def slide(
    call: Call,
    given: dict[str, Any],
    kernel: Sequence[int],
    channels: int | None,
    mode: str,
) -> Layout:
    """A convolution or a pool.

    Args:
        call: The call.
        given: Its arguments by name.
        kernel: Size of the window per dimension, dilation included.
        channels: Channels of the output; those of the input if None.
        mode: What is padded with.

    Returns:
        The layout of the output.

    Raises:
        UnknownError: If the channels move, or the border cannot be made circular.
        IndivisibleError: If the stride does not divide the map.
    """
    layout = call.layout(given["input"])
    if len(layout) != len(kernel) + 2 or not still(layout[1]):
        raise UnknownError("a window over positions that are not an axis of the map")
    windows = _windows(given, kernel, len(kernel))
    borders, outputs, geometry = _slide(call, layout, windows)
    moving = [output is not None for output in outputs]
    if any(moving):
        call.plan = _plan(call, given, layout, windows, borders, geometry, mode)
    shape = call.result.shape
    dims = [
        plain(int(size)) if output is None else output
        for output, size in zip(outputs, shape[2:], strict=True)
    ]
    for output, size in zip(dims, shape[2:], strict=True):
        assert size_of(output) == size, (call.place, shape, dims)
    return (layout[0], layout[1] if channels is None else plain(channels), *dims)


def _plan(
    call: Call,
    given: dict[str, Any],
    layout: Layout,
    windows: list[Window],
    borders: list[tuple[int, int]],
    geometry: str,
    mode: str,
) -> WindowPlan:
    stays = tuple(
        0 if whole(dimension) is not None else window.before
        for dimension, window in zip(layout[2:], windows, strict=True)
    )
    before, after = zip(*borders, strict=True)
    padded = any(window.before or window.after for window in windows)
    plan = WindowPlan(
        before,
        after,
        tuple(window.stride for window in windows),
        _follows_axes(layout),
        paddings=(mode, "circular") if mode != "circular" and padded else None,
        geometry=f"{call.place}: {geometry}" if geometry else "",
    )
    if call.module is None:
        names = MAX_POOL if call.name.startswith("max") else AVERAGE_POOL
        names = CONVOLUTION if "weight" in given else names
        plan.kwargs = {name: value for name, value in call.bound(*names).items() if name != "input"}
        plan.kwargs["padding"] = stays
        if "ceil_mode" in plan.kwargs:
            plan.kwargs["ceil_mode"] = False
        return plan
    plan.module = without_padding(call.module, stays)
    kept = all(
        (window.before, window.before) == (border[0], window.after) and border[1] <= window.after
        for window, border in zip(windows, borders, strict=True)
    )
    simple = type(call.module) in (nn.Conv2d, layers.Conv2d) and not _is_hooked(call.module)
    if simple and kept and plan.aligned and not geometry:
        plan.circular = _circular(call.module, windows)
    return plan


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def without_padding(module: nn.Module, padding: tuple[int, ...]) -> nn.Module:
    """A layer that shares its parameters with another, and pads otherwise.

    Args:
        module: The layer.
        padding: What it shall pad, per dimension.

    Returns:
        The new layer.
    """
    bare: Any = shallow_copy(module)
    if hasattr(bare, "padding"):
        single = isinstance(module.padding, int) and len(set(padding)) == 1
        bare.padding = padding[0] if single else padding
    if hasattr(bare, "padding_mode"):
        bare.padding_mode = "zeros"
    if hasattr(bare, "ceil_mode"):
        bare.ceil_mode = False
    stripped: nn.Module = bare
    return stripped


def shallow_copy(module: nn.Module) -> nn.Module:
    """A module that shares parameters and children with another, also a parametrised one.

    Args:
        module: The other.

    Returns:
        The copy.
    """
    twin = object.__new__(type(module))
    twin.__dict__.update(vars(module))
    return twin


def _circular(module: nn.Module, windows: Sequence[Window]) -> layers.Conv2d:
    circular = shallow_copy(module)
    circular.__class__ = layers.Conv2d
    assert isinstance(circular, layers.Conv2d)
    circular.padding = tuple(window.before for window in windows)
    circular.padding_mode = "circular"
    return circular
