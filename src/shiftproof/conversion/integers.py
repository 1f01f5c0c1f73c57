"""Sizes that remember where they come from, so that a recorded graph works for every batch."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx


class RecordedInt(int):
    """An integer read from a tensor's shape, with the node of the graph that computes it.

    Everything that takes an integer takes it.  Arithmetic gives another recorded integer;
    comparisons with numbers and conversions give ordinary values, and are noted in the node's
    ``meta["looked"]``, because what was decided may not hold for another size.

    Args:
        value: The integer.
        node: The node that computes it.
    """

    node: fx.Node

    def __new__(cls, value: int, node: fx.Node) -> RecordedInt:
        """Make the integer, with its node."""
        integer = super().__new__(cls, value)
        integer.node = node
        return integer

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int(self)


def _as_argument(value: Any) -> Any:
    return value.node if isinstance(value, RecordedInt) else value


def _recording(name: str, function: Callable[..., Any], *, reflected: bool) -> Callable[..., Any]:
    plain = getattr(int, name)

    def method(self: RecordedInt, *others: Any) -> Any:
        result = plain(self, *others)
        if type(result) is not int:
            return result
        operands = [self, *others]
        if reflected:
            operands.reverse()
        node = self.node.graph.call_function(function, tuple(map(_as_argument, operands)))
        return RecordedInt(result, node)

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod", "neg"):
    _function = getattr(operator, _name)
    setattr(RecordedInt, f"__{_name}__", _recording(f"__{_name}__", _function, reflected=False))
    if _name != "neg":
        setattr(
            RecordedInt, f"__r{_name}__", _recording(f"__r{_name}__", _function, reflected=True)
        )


def _looking(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def method(self: RecordedInt, *others: Any) -> Any:
        if not any(isinstance(other, RecordedInt) for other in others):
            self.node.meta["looked"] = int.__index__(self)
        return plain(self, *others)

    return method


for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool", "float", "int", "truediv", "rtruediv"):
    setattr(RecordedInt, f"__{_name}__", _looking(f"__{_name}__"))
