"""Where in a module a tensor can be aligned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from shiftproof.analysis.graph import Graph, Value, Visit

Kind = Literal["input", "output", "hooked", "window", "result"]


@dataclass(frozen=True)
class Site:
    """A point at which a tensor passes, once per call of the network.

    Attributes:
        kind: ``"input"`` of a module; ``"output"`` of its forward pass; ``"hooked"``, what hooks of
            the user's made of it; ``"window"``, the input of a
            window that a module's forward pass calls; ``"result"`` of a function that it calls.
        module: Qualified name of the module; empty for the network itself.
        positions: Which arguments of the module hold the tensor, for an input; empty for the images
            of the network.
        function: Name of the function, for a window or a result.
        ndim: How many dimensions the result has.
        number: How many calls of the function the forward pass makes before that give such a
            tensor; hooks that take statistics give others.
        total: How many it makes in all.
    """

    kind: Kind
    module: str
    positions: tuple[int | str, ...] = ()
    function: str = ""
    ndim: int = 0
    number: int = 0
    total: int = 0

    @property
    def is_boundary(self) -> bool:
        """Whether it lies between modules, so that no forward pass is looked into."""
        return self.kind in ("input", "output", "hooked") and bool(self.module)


def _positions(visit: Visit, value: Value) -> tuple[int | str, ...]:
    """Which arguments of a module a tensor is."""
    named: list[tuple[int | str, Any]] = [*enumerate(visit.args), *visit.kwargs.items()]
    return tuple(key for key, given in named if given is value)


def find_site(graph: Graph, value: Value, is_returned: bool) -> Site | None:
    """Find where a tensor can be replaced by another for everything that reads it.

    Args:
        graph: The recorded forward pass.
        value: The tensor.
        is_returned: Whether the network returns it.

    Returns:
        The output of a module, else the whole input of one, else the result of a function; None if
        the module that makes it is called more than once.
    """
    if value.birth < 0 and len(graph.inputs) > 1:
        return Site("input", "")
    visits = [visit for visit in graph.visits if visit.name and visit.keeps_hooks]
    once = [visit for visit in visits if graph.is_called_once(visit.name)]
    made = graph.calls[value.birth] if value.birth >= 0 else None
    old = made.inputs if made is not None and made.in_place else []
    for visit in once:  # the outermost first
        is_made = visit.result is value and visit.start <= value.birth < visit.end
        # Who gave a tensor that was written to may go on with it instead of what is returned.
        is_own = not any(_positions(visit, source) for source in old)
        if is_made and is_own and all(user >= visit.end for user in value.users):
            return Site("output" if visit.given is value else "hooked", visit.name)
    is_written = any(graph.calls[user].in_place for user in value.users)
    for visit in () if is_returned or is_written else reversed(once):  # the innermost first
        inside = all(visit.start <= user < visit.end for user in value.users)
        positions = _positions(visit, value)
        if inside and positions and value.users and value.birth < visit.start:
            return Site("input", visit.name, positions)
    if value.birth < 0:
        return Site("input", "")
    record = graph.calls[value.birth]
    if record.result is not value or record.in_place or not graph.is_called_once(record.owner.name):
        return None
    if record.is_module:
        return Site("output", record.owner.name)
    kind = (record.function, len(value.shape))
    return Site("result", record.owner.name, (), *kind, record.number, record.owner.counts[kind])
