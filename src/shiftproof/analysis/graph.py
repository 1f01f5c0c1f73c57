"""A recorded forward pass: which function was called on which tensors, inside which module."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from shiftproof.nested import leaves_of


@dataclass(eq=False)
class Value:
    """A tensor that flows through the network.

    Attributes:
        shape: Its shape.
        is_float: Whether it holds floating-point numbers.
        birth: Index of the call that made it; -1 for inputs and constants.
        name: Name of the parameter, buffer or attribute that holds it; ``"input"`` for the input.
        is_written: Whether its memory is written to later.
        users: Indices of the calls that read it.
    """

    is_leaf: ClassVar[bool] = True

    shape: tuple[int, ...]
    is_float: bool
    birth: int = -1
    name: str = ""
    is_written: bool = False
    users: list[int] = field(default_factory=list)


@dataclass(eq=False)
class CallRecord:
    """One call of a function of torch, or of a module that is known as a whole.

    Attributes:
        index: Position in the order of calls.
        function: Name of the function without the underscores of methods and of operations in
            place; ``ops.NAME`` for functions of this package; the class for a module.
        owner: The module whose forward pass makes the call.
        args: Arguments, with values in the place of tensors.
        kwargs: Keyword arguments, likewise.
        result: What it gives, with values in the place of tensors.
        number: How many calls of this function with a result of as many dimensions the forward pass
            of the owner has made before, those of its children included.
        is_module: Whether it is a module that is known as a whole.
        in_place: Whether it returns the very tensor it was given, and has written to.
        is_outside: Whether a hook of the network itself makes it, around its forward pass.
    """

    index: int
    function: str
    owner: Visit
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    number: int
    is_module: bool = False
    in_place: bool = False
    is_outside: bool = False

    @property
    def inputs(self) -> list[Value]:
        """The tensors that it reads."""
        return list(dict.fromkeys(values_in((self.args, self.kwargs))))

    @property
    def place(self) -> str:
        """How it is called in messages."""
        name = self.owner.name or "the network itself"
        is_whole = self.is_module or self.owner.is_layer
        return f"{name} ({self.owner.type})" if is_whole else f"{self.function} in {name}"


@dataclass(eq=False)
class Visit:
    """One call of a module.

    Attributes:
        name: Qualified name of the module; empty for the network itself.
        type: Name of its class.
        is_layer: Whether it is one of torch's or this package's own layers.
        parent: The call of the module that calls it.
        start: Index of the first call inside it.
        end: Index behind the last call inside it.
        args: Its arguments, with values in the place of tensors.
        kwargs: Its keyword arguments, likewise.
        result: What it returns.
        given: What its forward pass returned, before hooks of the user's saw it.
        keeps_hooks: Whether copies of the module have its hooks.
        in_hooks: Whether its hooks run, and not its forward pass.
        counts: How often each function gave a tensor of so many dimensions inside, its children
            included.
    """

    name: str
    type: str
    is_layer: bool
    parent: Visit | None
    start: int
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    end: int = -1
    result: Any = None
    given: Any = None
    keeps_hooks: bool = True
    in_hooks: bool = True
    counts: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass
class Graph:
    """A recorded forward pass.

    Attributes:
        inputs: The images.
        dims: Spatial axes of each of them.
        calls: The calls, in order.
        visits: The calls of modules, in the order in which they begin; the network itself first.
        output: What the network returned, with values in the place of tensors.
    """

    inputs: tuple[Value, ...]
    dims: tuple[tuple[int, ...], ...]
    calls: list[CallRecord]
    visits: list[Visit]
    output: Any

    def is_called_once(self, name: str) -> bool:
        """Whether a module is called exactly once."""
        return sum(visit.name == name for visit in self.visits) == 1


def values_in(value: Any) -> list[Value]:
    """The recorded tensors in nested values."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, Value)]


def keeps_hooks(module: nn.Module) -> bool:
    """Whether copies of a module have its hooks; those that copy themselves may forget them."""
    names = ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__")
    kind = type(module)
    if all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in names):
        return True

    def probe(*_: object) -> None: ...

    handle = module.register_forward_hook(probe)
    try:
        return probe in copy.deepcopy(module)._forward_hooks.values()
    except Exception:
        return False
    finally:
        handle.remove()
