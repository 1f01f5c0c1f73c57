"""A recorded forward pass: which function was called on which tensors, inside which module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


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
    counts: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass
class Graph:
    """A recorded forward pass.

    Attributes:
        input: The images.
        calls: The calls, in order.
        visits: The calls of modules, in the order in which they begin; the network itself first.
        output: What the network returned, with values in the place of tensors.
    """

    input: Value
    calls: list[CallRecord]
    visits: list[Visit]
    output: Any

    def is_called_once(self, name: str) -> bool:
        """Whether a module is called exactly once."""
        return sum(visit.name == name for visit in self.visits) == 1


def map_nested(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to all leaves of tuples, named tuples, lists, dicts, slices, dataclasses.

    Args:
        value: Nested values.
        function: Applied to whatever is not nested.

    Returns:
        The same structure, of the same classes.
    """

    def apply(leaf: Any) -> Any:
        if isinstance(leaf, slice):
            return slice(*map(function, (leaf.start, leaf.stop, leaf.step)))
        if not _is_nested(leaf):
            return function(leaf)
        twin = copy.copy(leaf)
        for part in fields(leaf):
            object.__setattr__(twin, part.name, map_nested(getattr(leaf, part.name), function))
        return twin

    return tree_map(apply, value)


def _is_nested(value: Any) -> bool:
    """Whether a value is a dataclass, of which PyTrees know nothing."""
    return is_dataclass(value) and not isinstance(value, (type, Value))


def leaves_of(value: Any) -> list[Any]:
    """Everything in nested values, in order.

    Args:
        value: Tuples, lists, dicts, slices, dataclasses.

    Returns:
        What is not nested.
    """
    found: list[Any] = []
    map_nested(value, found.append)
    return found


def check_images(operation: str, images: object) -> None:
    """Refuse what is no batch of maps.

    Args:
        operation: Name of the caller, for the error message.
        images: What was given.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it is empty, or has no or too many spatial axes.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{operation}: the images must be a tensor, got {type(images).__name__}; pass images "
            "of shape (N, C, *spatial)"
        )
    if not 3 <= images.ndim <= 5 or images.numel() == 0:
        raise ValueError(
            f"{operation}: the images must be (N, C, *spatial) with 1 to 3 spatial axes and at "
            f"least one image, got shape {tuple(images.shape)}; add the missing axes with unsqueeze"
        )


def in_precision_of(model: object, images: Tensor) -> Tensor:
    """Images on the device of a model, in its precision.

    Args:
        model: The model; anything but a module takes images as they are.
        images: The images.

    Returns:
        The images, without their history.
    """
    images = images.clone() if images.is_inference() else images.detach()
    if not isinstance(model, nn.Module):
        return images
    tensors = (*model.parameters(), *model.buffers())
    first = next((value for value in tensors if value.is_floating_point()), images)
    return images.to(first.device, first.dtype if images.is_floating_point() else None)


def values_in(value: Any) -> list[Value]:
    """The recorded tensors in nested values."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, Value)]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in what a model takes or returns.

    Args:
        value: A tensor, or dicts, lists, tuples and dataclasses of them.

    Returns:
        The tensors, in order.
    """
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor)]


def exchanged(value: Any, old: Tensor, new: Tensor) -> Any:
    """Nested values with one tensor in the place of another.

    Args:
        value: Nested values, such as the arguments of a model.
        old: The tensor to be replaced, wherever it stands.
        new: What takes its place.

    Returns:
        The same structure.
    """
    return map_nested(value, lambda leaf: new if leaf is old else leaf)


def with_tensors(value: Any, tensors: Mapping[int, Tensor]) -> Any:
    """What a model returned, with some of its tensors replaced.

    Args:
        value: Nested values.
        tensors: The new ones, by position in ``tensors_in(value)``.

    Returns:
        The same structure; the very value where nothing is replaced.
    """
    if not tensors:
        return value
    position = iter(range(len(tensors_in(value))))

    def replace(leaf: Any) -> Any:
        return tensors.get(next(position), leaf) if isinstance(leaf, Tensor) else leaf

    return map_nested(value, replace)
