"""What is done in the place of a call, so that it follows a circular shift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof import ops
from shiftproof.analysis.circular import crop, interpolate, mean_over, on_floats
from shiftproof.analysis.errors import UnknownError

_ALIASES = {
    "self": "input",
    "x": "input",
    "a": "input",
    "axis": "dim",
    "axes": "dims",
    "keepdims": "keepdim",
}
PARAMETERS: dict[str, tuple[str, ...]] = {}
"""Names of the positional parameters of each function that a rule knows, filled by the rules."""


def function_name(func: Callable[..., Any], raw: str) -> str:
    """Name of a function, the same for methods, operators and operations in place.

    Args:
        func: A function of torch, a method of tensors, or a function of this package.
        raw: Its own name.

    Returns:
        The name without underscores around it; ``ops.NAME`` for functions of this package.
    """
    name = raw.strip("_")
    own = (getattr(func, "__module__", "") or "").startswith("shiftproof.")
    return f"ops.{name}" if own else name


_FUNCTIONS: dict[str, tuple[Any, ...]] = {}


def functions_named(name: str) -> tuple[Any, ...]:
    """All functions and methods that ``function_name`` gives one name.

    Args:
        name: The name.

    Returns:
        The functions, looked up once.
    """
    known = _FUNCTIONS.get(name)
    if known is None:
        known = _FUNCTIONS[name] = tuple(_looked_up(name))
    return known


def _looked_up(name: str) -> list[Any]:
    if name.startswith("ops."):
        return [getattr(ops, name.removeprefix("ops."), None)]
    forms = (name, f"{name}_", f"__{name}__")
    owners = (F, torch, torch.Tensor, torch.special, torch.linalg)
    found = [getattr(owner, form, None) for owner in owners for form in forms]
    if name.startswith("linalg_"):
        found.append(getattr(torch.linalg, name.removeprefix("linalg_"), None))
    return [function for function in found if callable(function)]


def bind(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name: one form for every way to write a call.

    Args:
        function: Name of the function.
        args: Positional arguments.
        kwargs: Keyword arguments; ``axis`` counts as ``dim``, ``keepdims`` as ``keepdim``, and so
            on, as torch has it.

    Returns:
        What was given, by the names that the function's rule declares; a name that begins with a
        star takes the rest, given one by one or as one tuple.

    Raises:
        UnknownError: If an argument has no name in the rule.
    """
    names = PARAMETERS[function]
    if names == ("*",):
        return {**{str(index): value for index, value in enumerate(args)}, **kwargs}
    plain = [name for name in names if not name.startswith("*")]
    bound = dict(zip(plain, args, strict=False))
    rest = tuple(args[len(plain) :])
    star = next((name[1:] for name in names if name.startswith("*")), None)
    if rest and star is not None:
        single = len(rest) == 1 and isinstance(rest[0], (tuple, list))
        bound[star] = tuple(rest[0]) if single else rest
    elif rest:
        raise UnknownError(f"{len(rest)} more arguments of {function} than its rule knows")
    known = [*plain, *([star] if star else [])]
    for key, value in kwargs.items():
        if key == "out" and value is None:
            continue
        name = key
        if name not in known:
            name = _ALIASES.get(key, key)
            name = next(
                (n for n in known if name in ("dim", "dims") and n in ("dim", "dims")), name
            )
        if name not in known:
            raise UnknownError(f"the argument {key} of {function}")
        bound[name] = value
    return bound


_DEFAULTS = {
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "count_include_pad": True,
    "return_indices": False,
    "keepdim": False,
    "antialias": False,
}
"""Arguments that torch itself may add to a call, or the compiler leave out."""


def plain_values(bound: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are no tensors and not the default, lists as tuples."""
    return {
        name: _plain(value)
        for name, value in bound.items()
        if value is not None and name != "groups"  # which may depend on the number of samples
        if _is_plain(value) and _DEFAULTS.get(name) != value
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return isinstance(value, (int, float, str, bool, type(None), torch.SymInt))


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, (tuple, list)) else value


class Change:
    """What a call does instead.  Subclasses are frozen dataclasses of plain values.

    Attributes:
        open: Names of arguments that it reads from the call itself, and that may differ.
    """

    open: ClassVar[tuple[str, ...]] = ()

    def run(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """Compute what the call gives.

        Args:
            func: The function that was called.
            bound: Its arguments by name.

        Returns:
            The result.
        """
        raise NotImplementedError

    def compared(self, bound: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by which calls are told apart."""
        return {k: v for k, v in plain_values(bound).items() if k not in self.open}

    def as_dict(self) -> dict[str, Any]:
        """The change as plain values, for JSON."""
        return {"kind": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Change:
        """The change that ``as_dict`` described."""
        values = {key: _plain(value) for key, value in data.items() if key != "kind"}
        kinds = {kind.__name__: kind for kind in Change.__subclasses__()}
        return kinds[data["kind"]](**values)


def _called(func: Callable[..., Any], x: Tensor, bound: dict[str, Any]) -> Any:
    """Call a window; a convolution as torch's layers call it, for quantisation reads it so."""
    names = PARAMETERS.get(function_name(func, func.__name__), ()) if "weight" in bound else ()
    given = list(takewhile(bound.__contains__, names[1:]))
    return func(x, *[bound.pop(name) for name in given], **bound)


@dataclass(frozen=True)
class CircularWindow(Change):
    """A sliding window that reads a circular border.

    Attributes:
        before: Pixels of border before the first, per spatial dimension.
        after: Pixels of border after the last.
        padding: What the function itself pads, where nothing moves.
        cropped: Pixels that were padded before, which are cut off first: before the first and after
            the last, per spatial dimension.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: tuple[int, ...]
    cropped: tuple[tuple[int, int], ...] = ()

    def run(
        self, func: Callable[..., Any], bound: dict[str, Any], phase: Tensor | None = None
    ) -> Any:
        """Compute what the call gives; with a phase, read from there by the window's stride."""
        x = bound.pop("input")
        if self.cropped:
            x = crop(x, *zip(*self.cropped, strict=True))
        if phase is None:
            x = ops.pad(x, self.before, self.after, "circular")
        else:
            stride = bound.get("stride") or bound.get("kernel_size") or 1
            x = ops.align_phase(x, phase, stride, self.before, self.after)
        if "padding" in bound or any(self.padding):
            bound["padding"] = self.padding
        if "ceil_mode" in bound:
            bound["ceil_mode"] = False
        return _called(func, x, bound)


@dataclass(frozen=True)
class Roll(Change):
    """Padding on one side and cropping on the other: a circular shift.

    Attributes:
        shifts: By how much, per dimension of the tensor.
    """

    shifts: tuple[int, ...]

    def run(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """Compute what the call gives."""
        dims = [dim for dim, amount in enumerate(self.shifts) if amount]
        return torch.roll(bound["input"], [self.shifts[dim] for dim in dims], dims)


@dataclass(frozen=True)
class NewArguments(Change):
    """The same function with other arguments.

    Attributes:
        names: Names of the arguments.
        values: Their values.
    """

    names: tuple[str, ...]
    values: tuple[Any, ...]

    def run(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """Compute what the call gives."""
        return func(**{**_renamed(func, bound), **dict(zip(self.names, self.values, strict=True))})


def _renamed(func: Callable[..., Any], bound: dict[str, Any]) -> dict[str, Any]:
    return {"x" if name == "input" else name: value for name, value in bound.items()}


@dataclass(frozen=True)
class ExactMean(Change):
    """A mean over whole axes, of which no bit depends on where they start.

    Attributes:
        dims: The dimensions.
        keepdim: Whether they stay.
    """

    dims: tuple[int, ...]
    keepdim: bool

    def run(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """Compute what the call gives."""
        return mean_over(bound["input"], self.dims, self.keepdim)


@dataclass(frozen=True)
class CircularInterpolation(Change):
    """Interpolation that wraps around: computed with a border, which is cut off.

    Attributes:
        reach: Pixels of border of the input, on every side.
        mode: Kind of interpolation.
    """

    open = ("size", "scale_factor")
    reach: int
    mode: str

    def run(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """Compute what the call gives; what is not enlarged by whole factors stays as it is."""
        sizes = bound["input"].shape[2:]
        size, scale = bound.get("size"), bound.get("scale_factor")
        given: Any = scale if size is None else size
        wanted = tuple(given) if isinstance(given, (tuple, list)) else (given,) * len(sizes)
        if size is not None:
            pairs = list(zip(wanted, sizes, strict=True))
            wanted = tuple(new // old if new % old == 0 else 0 for new, old in pairs)
        times = tuple(map(int, wanted))
        if times != wanted or min(times) < 1:
            return func(**bound)
        return interpolate(bound["input"], self.reach, times, self.mode)


@dataclass(frozen=True)
class CircularTransposed(Change):
    """A transposed convolution that wraps around: computed with a border, which is cut off.

    Attributes:
        before: Pixels of border before the first, per spatial dimension.
        after: Pixels of border after the last.
        starts: Where the output starts in what the function gives.
        ends: What to cut off after its end.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def run(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """Compute what the call gives."""
        x = ops.pad(bound.pop("input"), self.before, self.after, "circular")
        zeros = (0,) * len(self.before)
        bound.update(padding=zeros, output_padding=zeros)
        return crop(_called(func, x, bound), self.starts, self.ends)


@dataclass(frozen=True)
class Edit:
    """A change of certain calls.

    Attributes:
        module: Qualified name of the module whose forward pass makes them; empty for the network.
        function: Name of the function.
        arguments: Arguments that are no tensors, by name; calls with others stay as they are.
        change: What is done instead.
    """

    module: str
    function: str
    arguments: dict[str, Any]
    change: Change

    def matches(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Whether this edit is for a call."""
        # Compared as objects: the compiler does not know the names of methods.
        if func not in functions_named(self.function):
            return False
        function = self.function
        try:
            return self.change.compared(bind(function, args, kwargs)) == self.arguments
        except UnknownError:
            return False

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Compute what the call gives."""
        bound = bind(self.function, args, kwargs)
        return on_floats(lambda x: self.changed(func, {**bound, "input": x}), bound["input"])

    def changed(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """The same, with the arguments by name."""
        return self.change.run(func, bound)

    def as_dict(self) -> dict[str, Any]:
        """The edit as plain values, for JSON."""
        return {**vars(self), "change": self.change.as_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Edit:
        """The edit that ``as_dict`` described."""
        arguments = {key: _plain(value) for key, value in data["arguments"].items()}
        change = Change.from_dict(data["change"])
        return cls(data["module"], data["function"], arguments, change)
