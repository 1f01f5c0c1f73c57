"""What every tensor inside a network does when the input is shifted, and what must be aligned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from shiftproof.conversion.calls import Call, Layouts, Plan, UnknownError
from shiftproof.conversion.layers import layer
from shiftproof.conversion.layout import (
    Layout,
    factors,
    input_layout,
    moves,
    plain,
    repeated,
    size_of,
    whole,
)
from shiftproof.conversion.refusal import IndivisibleError
from shiftproof.conversion.rules import RULES


@dataclass
class Finding:
    """What was found out about a node.

    Attributes:
        place: How it is called in messages.
        layout: Where positions of the input are in what it gives.
        periods: By how many pixels the input must be aligned for it, per axis.
        reasons: Why, in words.
        plan: What to put in its place, given that alignment, while the map still moves.
        reads: Layout of the tensors that it reads and that move.
    """

    place: str
    layout: Layouts
    shape: tuple[int, ...] = ()
    periods: dict[int, Fraction] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    plan: Plan | None = None
    reads: tuple[fx.Node, ...] = ()
    is_float: bool = False

    @property
    def moves(self) -> bool:
        """Whether a shift of the input moves anything in what it gives."""
        return _any_moves(self.layout)


_VIEWS = ("getitem", "view", "reshape", "permute", "transpose", "select", "narrow", "expand")


def _is_written(node: fx.Node) -> bool:
    """Whether a tensor, or a view of it, is changed later."""
    for user in node.users:
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        if name == "setitem" or (name.endswith("_") and not name.endswith("__")):
            return True
        if name in _VIEWS and _is_written(user):
            return True
    return False


_ENLARGING = ("interpolate", "expand", "expand_as", "repeat")


def _any_moves(layout: Layouts) -> bool:
    if isinstance(layout, list):
        return any(map(_any_moves, layout))
    return layout is not None and moves(layout)


class Analysis(fx.Interpreter):
    """Goes through a recorded network, call by call.

    Args:
        module: The graph, with the modules that it calls.
        circular: Whether paddings are made circular.
        geometry: Whether windows that leave out the border may be made to wrap around it, which
            changes the size of what they give; aligned by the full size of the map if not.
    """

    def __init__(
        self, module: fx.GraphModule, *, circular: bool = True, geometry: bool = True
    ) -> None:
        super().__init__(module)
        self.geometry = geometry
        self.extra_traceback = False
        self.circular = circular
        self.findings: dict[fx.Node, Finding] = {}
        self._layouts: dict[fx.Node, Layouts] = {}
        self._span: dict[int, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Execute one node and note what was found.

        Args:
            n: The node.

        Returns:
            What it gives, by its plan if it has one.
        """
        if n.op == "placeholder":
            value = super().run_node(n)
            layout: Layouts = input_layout(value.shape)
            self._span = dict(enumerate(value.shape[2:]))
            self._note(n, Finding("the input", layout), value)
            return value
        reads = tuple(
            source for source in n.all_input_nodes if _any_moves(self._layouts.get(source))
        )
        if not reads or n.op == "output":
            value = super().run_node(n)
            finding = Finding(n.name, self._enlarged(n, value), reads=reads)
            for source in reads:
                self._check_output(source, finding)
            self._note(n, finding, value)
            return value
        call = self._call(n, lambda: fx.Interpreter.run_node(self, n))
        layout = self._layout(call, reads)
        finding = Finding(
            call.place, layout, (), call.periods, tuple(call.reasons), call.plan, reads
        )
        value = call.result
        self._note(n, finding, value)
        return value

    def _check_output(self, source: fx.Node, finding: Finding) -> None:
        """An output whose positions are not those of a map can only stay the same."""
        layout = self._layouts[source]
        for first in (2, 1):  # maps with channels, and without
            if not isinstance(layout, tuple) or len(layout) != first + len(self._span):
                continue
            if all(not part or whole(part) is not None for part in layout[first:]):
                return
        finding.place, finding.reasons = "the output", ("an output that is no map",)
        for axis in _axes(layout):
            finding.periods[axis] = Fraction(self._span[axis])

    def _enlarged(self, node: fx.Node, value: Any) -> Layouts:
        """Layout of what repeats one value in every position, as an enlarged mean does."""
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op not in ("call_function", "call_method") or name not in _ENLARGING:
            return None
        source = self.env[node.all_input_nodes[0]] if node.all_input_nodes else None
        if not isinstance(source, Tensor) or not isinstance(value, Tensor) or _is_written(node):
            return None
        sizes = [*[1] * (value.ndim - source.ndim), *source.shape]
        return tuple(
            repeated(after) if before == 1 else plain(after)
            for before, after in zip(sizes, value.shape, strict=True)
        )

    def _note(self, node: fx.Node, finding: Finding, value: Any) -> None:
        if isinstance(value, Tensor):
            finding.shape = tuple(value.shape)
            finding.is_float = value.is_floating_point()
        self.findings[node] = finding
        self._layouts[node] = finding.layout

    def _call(self, node: fx.Node, run: Callable[[], Any]) -> Call:
        module = None
        if node.op == "call_module":
            module = self.module.get_submodule(str(node.target))
            name, place = type(module).__name__, f"{node.target} ({type(module).__name__})"
        else:
            target = node.target if isinstance(node.target, str) else node.target.__name__
            name = target.strip("_")
            inside = node.meta.get("module", "")
            place = f"{name} in {inside or 'the network itself'}"
        return Call(
            node,
            name,
            place,
            node.args,
            dict(node.kwargs),
            self._layouts,
            self.env,
            module,
            run,
        )

    def _layout(self, call: Call, reads: tuple[fx.Node, ...]) -> Layouts:
        if call.name in ("size", "numel") or _reads_no_values(call):
            return None
        try:
            return self._found(call)
        except UnknownError as error:
            reason = str(error)
        except IndivisibleError:
            raise
        except AssertionError:
            raise
        except Exception:  # arguments that a rule does not expect
            reason = f"what {call.name} does to positions"
        call.forget()
        call.reasons[:] = [reason]
        for source in reads:
            for axis in _axes(self._layouts[source]):
                call.periods[axis] = Fraction(self._span[axis])
        if call.name == "setitem":
            self._layouts[call.args[0]] = None
        return None

    def _found(self, call: Call) -> Layouts:
        rule = layer if call.module is not None else RULES.get(call.name)
        if call.name == "setitem":
            raise UnknownError("a part of a tensor that is written to")
        if rule is None:
            raise UnknownError(f"what {call.name} does to positions")
        found: Layouts = rule(call)
        if call.plan is not None and call.plan.geometry and not self.geometry:
            raise UnknownError(f"a window that leaves out the border ({call.plan.geometry})")
        if not self.circular and call.plan is not None and call.plan.pads:
            call.plan = None
            call.forget_result()
        if isinstance(found, tuple) and not _fits(found, call.result):
            raise UnknownError(f"what {call.name} does to positions")
        return found


def _fits(layout: Layout, value: Any) -> bool:
    """Whether a layout has the sizes of a tensor, padding that is still to be done aside."""
    if not isinstance(value, Tensor) or len(layout) != value.ndim:
        return False
    with_margins = tuple(map(size_of, layout))
    margins = [sum(factor.before + factor.after for factor in part) for part in layout]
    without = tuple(size - extra for size, extra in zip(with_margins, margins, strict=True))
    return tuple(value.shape) in (with_margins, without)


def _reads_no_values(call: Call) -> bool:
    """Whether a call asks for the dtype or the device of a tensor."""
    return call.name == "getattr" and call.args[1] in ("device", "dtype")


def _axes(layout: Layouts) -> set[int]:
    if isinstance(layout, list):
        return {axis for part in layout for axis in _axes(part)}
    if layout is None:
        return set()
    return {
        factor.axis for factor in factors(layout) if factor.moves and isinstance(factor.axis, int)
    }


def analyse(
    model: nn.Module,
    graph: fx.Graph,
    example_input: Tensor,
    *,
    circular: bool = True,
    geometry: bool = True,
) -> dict[fx.Node, Finding]:
    """Find out what must be aligned, and where.

    Args:
        model: The network; it is left as it is.
        graph: Its recorded forward pass.
        example_input: An input, with at least two samples.
        circular: Whether paddings are made circular.
        geometry: Whether the sizes of maps may change for it.

    Returns:
        A finding per node.

    Raises:
        IndivisibleError: If a stride does not divide a map.
    """
    module = fx.GraphModule(model, graph)
    analysis = Analysis(module, circular=circular, geometry=geometry)
    with torch.no_grad():
        analysis.run(copy.deepcopy(example_input))
    graph.owning_module = None
    return analysis.findings
