"""Compare a network recorded twice: what holds for one size and one batch only."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import fx


def same_graph(first: fx.Graph, second: fx.Graph, *, but: str = "") -> bool:
    """Whether two graphs do the same, constants included.

    Args:
        first: A graph.
        second: Another.
        but: Name of an argument of functions of dropout that may differ.

    Returns:
        The answer.
    """
    return list(_described(first, but)) == list(_described(second, but))


def looked_sizes(graph: fx.Graph) -> list[int]:
    """Sizes by which Python decided something while the network was recorded.

    Args:
        graph: The recorded graph.

    Returns:
        The sizes, in order.
    """
    return [node.meta["looked"] for node in graph.nodes if "looked" in node.meta]


def _described(graph: fx.Graph, but: str) -> Iterator[str]:
    places = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        kwargs = dict(node.kwargs)
        if "dropout" in str(node.target):
            kwargs.pop(but, None)
        arguments = fx.node.map_arg((node.args, kwargs), lambda other: f"<{places[other]}>")
        yield f"{node.op} {node.target} {arguments}"


def depends_on_batch(graph: fx.Graph, doubled: fx.Graph, num_samples: int) -> bool:
    """Replace numbers that double with the number of samples by what computes them.

    Args:
        graph: The recorded graph; changed in place.
        doubled: The same network, recorded with twice as many samples.
        num_samples: Number of samples of the former.

    Returns:
        Whether the graphs differ otherwise; the graph is then left as it is.
    """
    nodes = list(graph.nodes)
    others = list(doubled.nodes)
    if len(nodes) != len(others):
        return True
    partner = dict(zip(others, nodes, strict=True))
    found: list[tuple[fx.Node, Any]] = []

    def merged(one: Any, two: Any) -> Any:
        if isinstance(one, fx.Node) or isinstance(two, fx.Node):
            if partner.get(two) is not one:
                raise LookupError
            return one
        if isinstance(one, (tuple, list)) and type(one) is type(two) and len(one) == len(two):
            return type(one)(merged(a, b) for a, b in zip(one, two, strict=True))
        if isinstance(one, dict) and isinstance(two, dict) and set(one) == set(two):
            return {key: merged(one[key], two[key]) for key in one}
        if isinstance(one, slice) and isinstance(two, slice):
            return slice(*merged(_parts(one), _parts(two)))
        if type(one) is int and two == 2 * one and one and one % num_samples == 0:
            return _Samples(one // num_samples)
        if one is two or one == two:
            return one
        raise LookupError

    try:
        for node, other in zip(nodes, others, strict=True):
            if (node.op, str(node.target)) != (other.op, str(other.target)):
                return True
            args = merged(tuple(node.args), tuple(other.args))
            if set(node.kwargs) != set(other.kwargs):
                return True
            kwargs = {key: merged(node.kwargs[key], other.kwargs[key]) for key in node.kwargs}
            found.append((node, (args, kwargs)))
    except LookupError:
        return True
    source = nodes[0]
    for node, (args, kwargs) in found:
        if "_Samples" not in repr((args, kwargs)):
            continue
        with graph.inserting_before(node):
            node.args = _computed(graph, source, args)
            node.kwargs = _computed(graph, source, kwargs)
    return False


def _parts(part: slice) -> tuple[Any, Any, Any]:
    return part.start, part.stop, part.step


class _Samples(NamedTuple):
    """A number of the form: so many times the number of samples."""

    times: int


def _computed(graph: fx.Graph, source: fx.Node, value: Any) -> Any:
    if isinstance(value, _Samples):
        size = graph.call_method("size", (source, 0))
        return graph.call_function(operator.mul, (size, value.times))
    if isinstance(value, (tuple, list)):
        return type(value)(_computed(graph, source, part) for part in value)
    if isinstance(value, dict):
        return {key: _computed(graph, source, part) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*_computed(graph, source, _parts(value)))
    return value
