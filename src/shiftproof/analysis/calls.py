"""One call, as the rules see it, and the register of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from shiftproof.analysis.changes import PARAMETERS, Change, bind
from shiftproof.analysis.errors import UnknownError
from shiftproof.analysis.graph import CallRecord, Value
from shiftproof.analysis.layout import (
    Dimension,
    Factor,
    Layout,
    factors,
    has_margin,
    plain_layout,
    still,
)

SAMPLES_MIXED = "samples of the batch that are mixed with one another"
PADDED_AGAIN = "a padded map that no window reads"
NO_AXIS = "a window over positions that are not an axis of the map"


@dataclass(frozen=True)
class Unreadable:
    """What stands for the layout of a tensor that must not be read while the map moves.

    Attributes:
        reason: Why, in words.
        axes: Axes of the input that move in what it was made from.
    """

    reason: str
    axes: frozenset[int]


Known = Layout | Unreadable


@dataclass
class Call:
    """A recorded call, with what is known when it is reached.

    Attributes:
        record: The call.
        given: Its arguments by name, values in the place of tensors.
        layouts: Layout of every value so far.
        fewest: How many positions a window must give to be allowed to give another number.
        periods: What every axis of the input must be aligned by, in pixels.
        reasons: Why, in words.
        change: What to do instead, while the map moves.
        border: What the call itself puts around the map that moves, in words.
        geometry: How the size of the result changes, in words; empty if it does not.
        misfit: What a window leaves out of the map, or adds to it, in words.
        limit: Why what is found holds for this size only, in words.
    """

    record: CallRecord
    given: dict[str, Any]
    layouts: Mapping[Value, Known]
    fewest: float = 1
    periods: dict[int, Fraction] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    change: Change | None = None
    border: str = ""
    geometry: str = ""
    misfit: str = ""
    limit: str = ""

    @property
    def name(self) -> str:
        """Name of the function."""
        return self.record.function

    @property
    def place(self) -> str:
        """How it is called in messages."""
        return self.record.place

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first tensor that it gives."""
        results: Any = self.record.result
        while not isinstance(results, Value):
            results = results[0]
        return results.shape

    @property
    def source(self) -> Layout:
        """Layout of the tensor called ``input``."""
        return self.layout(self.given["input"])

    def layout(self, argument: Any) -> Layout:
        """Layout of an argument.

        Args:
            argument: A value, or a number.

        Returns:
            The layout; the empty one for a number.

        Raises:
            UnknownError: If the tensor must not be read while the map moves.
        """
        if not isinstance(argument, Value):
            return ()
        known = self.layouts.get(argument)
        if isinstance(known, Unreadable):
            raise UnknownError(known.reason)
        return plain_layout(argument.shape) if known is None else known

    def dims(self, name: str, layout: Layout, default: Any = None) -> list[int]:
        """Dimensions given as one number or several, counted from the front.

        Args:
            name: Name of the argument.
            layout: Layout of the tensor that has them.
            default: What stands for a missing argument; None for all dimensions.

        Returns:
            The dimensions.
        """
        value = self.given.get(name)
        value = default if value is None else value
        if value is None or value == ():
            return list(range(len(layout)))
        if not isinstance(value, (int, tuple, list)) or isinstance(value, bool):
            raise UnknownError(f"dimensions given as {type(value).__name__}")
        given = value if isinstance(value, (tuple, list)) else [value]
        return [int(dim) % max(len(layout), 1) for dim in given]

    def require(self, factor: Factor, period: Fraction | int, reason: str) -> None:
        """Ask that the input be aligned along an axis, unless it is already.

        Args:
            factor: A factor on that axis.
            period: By how many pixels of the input.
            reason: Why, in words.
        """
        assert isinstance(factor.axis, int)
        if factor.is_aligned(Fraction(period)):
            return
        known = self.periods.get(factor.axis, Fraction(1))
        self.periods[factor.axis] = least_common_multiple(known, Fraction(period))
        if reason not in self.reasons:
            self.reasons.append(reason)

    def require_inner(self, parts: Iterable[Factor]) -> None:
        """Ask that what counts positions inside a window or a patch stays in place.

        Args:
            parts: Factors, of which the inner ones count.
        """
        for factor in parts:
            if factor.is_inner:
                size = factor.length / factor.step
                reason = f"windows or patches of {size} positions, which stay where they are"
                self.require(factor, factor.length, reason)

    def require_layout(self, layout: Layout) -> None:
        """The same for all factors of a tensor."""
        self.require_inner(factors(layout))

    def require_free(self, dimension: Dimension, reason: str) -> None:
        """Ask that nothing moves along a dimension, which then may be treated in any way.

        Args:
            dimension: The dimension.
            reason: What is done that a map that moves would not survive.

        Raises:
            UnknownError: If something moves, or the dimension counts samples.
        """
        if not still(dimension):
            raise UnknownError(reason)
        self.require_no_samples(dimension)
        self.require_inner(dimension)

    def require_no_samples(self, dimension: Dimension) -> None:
        """Refuse what mixes the samples of the batch, each of which has a phase of its own."""
        if any(isinstance(f.axis, str) and f.axis != "constant" for f in dimension):
            raise UnknownError(SAMPLES_MIXED)

    def require_no_margin(self, layout: Layout) -> None:
        """Refuse a padded map, which only windows can read."""
        if has_margin(layout):
            raise UnknownError(PADDED_AGAIN)


RuleFunction = Callable[[Call], Any]
RULES: dict[str, RuleFunction] = {}
"""The rule of each function, by name."""


def rule(names: str, parameters: str = "*") -> Callable[[RuleFunction], RuleFunction]:
    """Register the rule of one or several functions.

    Args:
        names: Their names, separated by spaces.
        parameters: Names of their positional parameters; the first tensor is ``input``.  A name
            with a star takes all that follow; a star alone means that names do not matter.

    Returns:
        The decorator.
    """

    def register(function: RuleFunction) -> RuleFunction:
        for name in names.split():
            assert name not in RULES, name
            RULES[name] = function
            PARAMETERS[name] = tuple(parameters.split())
        return function

    return register


def read(record: CallRecord, layouts: Mapping[Value, Known], fewest: float) -> Call:
    """A call as its rule sees it.

    Args:
        record: The recorded call.
        layouts: Layout of every value so far.
        fewest: How many positions a window must give to be allowed to give another number.

    Returns:
        The call.

    Raises:
        UnknownError: If there is no rule for the function or for an argument.
    """
    if record.function not in RULES:
        raise UnknownError(f"what {record.function} does to positions")
    given = bind(record.function, record.args, record.kwargs)
    return Call(record, given, layouts, fewest)


def least_common_multiple(first: Fraction, second: Fraction) -> Fraction:
    """Smallest number that both divide."""
    product = first * second
    while second:
        first, second = second, first % second
    return product / first


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


def replaced(layout: Layout, dim: int, *parts: Dimension) -> Layout:
    """A layout with other dimensions in the place of one."""
    return (*layout[:dim], *parts, *layout[dim + 1 :])
