"""One call in a recorded network, as the rules about functions and layers see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from shiftproof.conversion.layout import Factor, Layout, factors, plain_layout

Layouts = Layout | list[Any] | None
"""The layout of a tensor, a list of them for a tuple, None for anything else."""


class UnknownError(Exception):
    """A call that does not move with its input in any way that is known; the reason in words."""


class Plan(Protocol):
    """What to put in the place of a call where the map still moves."""

    paddings: tuple[str, str] | None
    geometry: str

    @property
    def pads(self) -> bool:
        """Whether it changes what is padded with."""

    def run(self, call: Call) -> Any:
        """Compute what the call will give."""

    def rewrite(self, node: fx.Node, model: nn.Module) -> None:
        """Change the graph."""


@dataclass
class Call:
    """A node of the graph, with what is known when it is reached.

    Attributes:
        node: The node.
        name: Name of the function or method; the class for a module.
        place: How it is called in messages: the module's name, or the function's and where it is.
        args: Arguments; nodes in place of tensors.
        kwargs: Keyword arguments, likewise.
        layouts: Layout of every node so far.
        values: Value of every node that is still needed.
        module: The module, for a call of one.
        run: Executes the call as it was recorded.
        plan: What to do instead, if anything.
        periods: What every axis of the input must be aligned by, in pixels.
        reasons: Why, in words.
    """

    node: fx.Node
    name: str
    place: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    layouts: dict[fx.Node, Layouts]
    values: dict[fx.Node, Any]
    module: nn.Module | None
    run: Callable[[], Any]
    plan: Plan | None = None
    periods: dict[int, Fraction] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    _result: Any = None

    @property
    def result(self) -> Any:
        """What the call gives, by its plan if it has one."""
        if self._result is None:
            self._result = self.run() if self.plan is None else self.plan.run(self)
        return self._result

    def forget_result(self) -> None:
        """Compute again what the call gives."""
        self._result = None

    def forget(self) -> None:
        """Forget what a rule found."""
        self.plan = None
        self.forget_result()
        self.periods.clear()

    def value(self, argument: Any) -> Any:
        """What stands behind an argument."""
        return fx.node.map_arg(argument, self.values.__getitem__)

    def layout(self, argument: Any) -> Layout:
        """Layout of a tensor; anything else has none.

        Args:
            argument: A node, or a number.

        Returns:
            The layout; the empty one for a number.
        """
        if not isinstance(argument, fx.Node):
            return ()
        known = self.layouts.get(argument)
        if isinstance(known, tuple):
            return known
        value = self.values[argument]
        return plain_layout(value.shape) if isinstance(value, Tensor) else ()

    def bound(self, *names: str) -> dict[str, Any]:
        """Arguments by name.

        Args:
            names: Names of the positional parameters, in order.

        Returns:
            What was given.
        """
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    def require(self, factor: Factor, period: Fraction | int, reason: str) -> None:
        """Ask that the input be aligned along an axis.

        Args:
            factor: A factor on that axis.
            period: By how many pixels of the input.
            reason: Why, in words.
        """
        assert isinstance(factor.axis, int)
        known = self.periods.get(factor.axis, Fraction(1))
        self.periods[factor.axis] = least_common_multiple(known, Fraction(period))
        if reason not in self.reasons:
            self.reasons.append(reason)

    def require_inner(self, inner: Sequence[Factor]) -> None:
        """Ask that what counts positions inside a window or a patch stays in place.

        Args:
            inner: Such factors.
        """
        for factor in inner:
            size = factor.length / factor.step
            self.require(factor, factor.length, f"windows or patches of {size} positions")

    def require_layout(self, layout: Layout) -> None:
        """The same for all inner factors of a tensor.

        Args:
            layout: Layout of the tensor.
        """
        self.require_inner([factor for factor in factors(layout) if factor.is_inner])


def least_common_multiple(first: Fraction, second: Fraction) -> Fraction:
    """Smallest number that both divide."""
    product = first * second
    while second:
        first, second = second, first % second
    return product / first


def dims_of(value: Any, ndim: int) -> list[int]:
    """Dimensions given as one number or several, counted from the front.

    Args:
        value: One number, several, or None for all.
        ndim: Number of dimensions of the tensor.

    Returns:
        The dimensions.
    """
    if value is None:
        return list(range(ndim))
    given = value if isinstance(value, (tuple, list)) else [value]
    return [int(dim) % ndim for dim in given]


def is_tensor_node(value: Any, values: dict[fx.Node, Any]) -> bool:
    """Whether an argument is a tensor."""
    return isinstance(value, fx.Node) and isinstance(values.get(value), torch.Tensor)
