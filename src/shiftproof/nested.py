"""Nested values, as networks take and return them: tuples, lists, dicts, dataclasses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map


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
    return is_dataclass(value) and not (isinstance(value, type) or hasattr(value, "is_leaf"))


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
