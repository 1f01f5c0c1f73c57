"""Change a recorded network so that the content chooses what its strides sample."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from shiftproof import ops
from shiftproof.conversion.analysis import Finding
from shiftproof.conversion.layout import moves
from shiftproof.conversion.pads import DeferredPad
from shiftproof.conversion.placement import Frame, MapForm, map_form, samplers
from shiftproof.conversion.refusal import ConversionError
from shiftproof.conversion.windows import WindowPlan, replace_module, shallow_copy
from shiftproof.nn import SelectPhase1d, SelectPhase2d, SelectPhase3d
from shiftproof.ops.overrides import overridable
from shiftproof.ops.phases import phase_offsets

_SELECTS = (SelectPhase1d, SelectPhase2d, SelectPhase3d)
_DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
}
_PURE = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg)


@overridable
def as_map(x: Tensor, dims: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Bring a tensor that holds a map to the form ``(N, C, *spatial)``.

    Args:
        x: Tensor with samples in its first dimension.
        dims: Dimension of each spatial axis, or the one into which they are flattened.
        sizes: Sizes of the spatial axes, where they are flattened.

    Returns:
        The map, a view where that is possible.
    """
    x, dims = _spread(x, dims, sizes)
    rest = len(x.shape) - 1 - len(dims)
    moved = x.permute(_order(x, dims))
    return moved.flatten(1, rest) if rest else moved[:, None]


def _spread(x: Tensor, dims: Sequence[int], sizes: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
    """Give each spatial axis a dimension of its own."""
    if len(dims) == len(sizes):
        return x, dims
    return torch.unflatten(x, dims[0], tuple(sizes)), range(dims[0], dims[0] + len(sizes))


def _order(x: Tensor, dims: Sequence[int]) -> list[int]:
    """Samples first, spatial axes last."""
    return [0, *[dim for dim in range(1, x.ndim) if dim not in dims], *dims]


def _through_map(
    x: Tensor, dims: Sequence[int], sizes: Sequence[int], function: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply a function of maps to a tensor that holds its map in another form."""
    spread, dims = _spread(x, dims, sizes)
    order = _order(spread, dims)
    changed = function(as_map(spread, dims, sizes)).reshape([spread.shape[dim] for dim in order])
    return changed.permute([order.index(dim) for dim in range(spread.ndim)]).reshape(x.shape)


@overridable
def align_map(
    x: Tensor, phase: Tensor, stride: Sequence[int], dims: Sequence[int], sizes: Sequence[int]
) -> Tensor:
    """``ops.align_phase`` for a tensor that holds its map in another form.

    Args:
        x: Tensor with samples in its first dimension.
        phase: Chosen phases, ``(N,)``.
        stride: Stride of what follows, in positions.
        dims: Dimension of each spatial axis, or the one into which they are flattened.
        sizes: Sizes of the spatial axes, where they are flattened.

    Returns:
        The aligned tensor, in the form of ``x``.
    """
    return _through_map(x, dims, sizes, lambda flat: ops.align_phase(flat, phase, stride))


@overridable
def put_back(
    y: Tensor,
    dims: Sequence[int],
    phases: Sequence[Tensor],
    strides: Sequence[Sequence[int]],
    scales: Sequence[Sequence[int]],
) -> Tensor:
    """Shift an output map back by what its input was shifted by.

    Args:
        y: Output map, with samples in its first dimension.
        dims: Dimension of each spatial axis.
        phases: The phases that were chosen, each ``(N,)``.
        strides: The strides of these choices, per axis.
        scales: Pixels of ``y`` per position of the tensor that was aligned, per axis.

    Returns:
        The map, where the content of the input is.

    Equivariance:
        Exact (bitwise): a circular shift of the input shifts the result by as much.  Checked by
        ``tests/conversion/test_convert.py``.
    """
    shift = torch.zeros(y.shape[0], len(strides[0]), dtype=torch.int64, device=y.device)
    for phase, stride, scale in zip(phases, strides, scales, strict=True):
        shift = shift + phase_offsets(phase, stride) * torch.tensor(scale, device=y.device)
    sizes = [y.shape[dim] for dim in dims]
    return _through_map(y, dims, sizes, lambda flat: ops.circular_shift(flat, shift))


@overridable
def require_size(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Refuse an input of another size than the network was converted for.

    Args:
        x: Input, ``(N, C, *spatial)``.
        sizes: The sizes that it must have.

    Returns:
        The input.

    Raises:
        ValueError: If it has others.
    """
    if tuple(x.shape[2:]) != tuple(sizes):
        raise ValueError(
            f"converted network: the input must be of the size it was converted for, "
            f"{'x'.join(map(str, sizes))}, got {'x'.join(map(str, x.shape[2:]))}; convert again "
            "with an example of this size"
        )
    return x


def described(plan: object) -> dict[str, object]:
    """What a plan decides, without the modules that it holds and what it tells.

    Args:
        plan: The plan, or None.

    Returns:
        Its values by name.
    """
    return {
        name: value
        for name, value in (vars(plan) if plan is not None else {}).items()
        if name != "geometry" and not isinstance(value, nn.Module)
    }


class Rewriter:
    """Applies what was found and decided.

    Args:
        model: The network, a copy of its own; its modules are replaced.
        graph: Its recorded forward pass.
        findings: What is known about each node.
        frames: The alignments.
        selector: Scores the phases; copied for each choice.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: fx.Graph,
        findings: dict[fx.Node, Finding],
        frames: list[Frame],
        selector: nn.Module | None,
    ) -> None:
        self.model = model
        self.graph = graph
        self.findings = findings
        self.frames = frames
        self.selector = selector
        self.sampled: list[bool] = []
        self.applied: list[Finding] = []
        self._phases: list[fx.Node] = []

    def rewrite(self) -> None:
        """Change the graph and the modules."""
        names = list(self.findings)
        scales = self._prepare_outputs()
        waiting: dict[fx.Node, fx.Node] = {}
        followers = [*self.frames[1:], None][: len(self.frames)]
        sampling = [
            samplers(frame, self.findings, following)
            for frame, following in zip(self.frames, followers, strict=True)
        ]
        for frame, nodes in zip(self.frames, sampling, strict=True):
            phase = self._choose(frame)
            self._phases.append(phase)
            self.sampled.append(nodes is not None)
            if nodes is None:
                self._align(frame, phase)
            else:
                waiting.update(dict.fromkeys(nodes, phase))
        planned = [node for position, node in enumerate(names) if self._is_applied(node, position)]
        self._part_shared_modules(planned)
        for node in planned:
            finding = self.findings[node]
            self.applied.append(finding)
            if isinstance(finding.plan, WindowPlan):
                finding.plan.rewrite(node, self.model, waiting.get(node))
            elif finding.plan is not None:
                finding.plan.rewrite(node, self.model)
        self._put_back(scales)
        self._restore_dropout()
        self._sweep()

    def _is_applied(self, node: fx.Node, position: int) -> bool:
        plan, frame = self.findings[node].plan, self._frame_of(position)
        if plan is None:
            return False
        return frame is None or bool(plan.geometry) or not self._has_settled(frame)

    def _part_shared_modules(self, planned: list[fx.Node]) -> None:
        """Let a module that is called in several places be another in each, where they differ."""
        calls: dict[str, list[fx.Node]] = {}
        for node in self.graph.nodes:
            if node.op == "call_module":
                calls.setdefault(str(node.target), []).append(node)
        for name, nodes in calls.items():
            own = [node for node in nodes if node in planned]
            plans = {str(described(self.findings[node].plan)) for node in own}
            if not own or (len(plans) == 1 and len(own) == len(nodes)):
                continue
            module = self.model.get_submodule(name)
            if any(True for _ in module.state_dict()):
                raise ConversionError(
                    f"convert: a layer must be padded in the same way wherever it is called, got "
                    f"{name} ({type(module).__name__}), which is called both where the map moves "
                    "and where it does not; give the network a layer for each"
                )
            for number, node in enumerate(own):
                node.target = f"{name}_call{number}"
                replace_module(self.model, node.target, shallow_copy(module))

    def _has_settled(self, frame: Frame) -> bool:
        """Whether nothing moves any more behind an alignment."""
        return frame.is_full and not self.sampled[self.frames.index(frame)]

    def _frame_of(self, position: int) -> Frame | None:
        return next((frame for frame in reversed(self.frames) if frame.index < position), None)

    def _choose(self, frame: Frame) -> fx.Node:
        name = self._free_name(frame)
        selector = copy.deepcopy(self.selector)
        kind = _SELECTS[len(frame.strides) - 1]
        setattr(self.model, name, kind(frame.strides, selector))
        with self.graph.inserting_after(frame.node):
            source = frame.node
            if frame.form.dims != tuple(range(2, 2 + len(frame.strides))):
                source = self.graph.call_function(
                    as_map, (frame.node, frame.form.dims, frame.form.sizes)
                )
        with self.graph.inserting_after(source):
            return self.graph.call_module(name, (source,))

    def _free_name(self, frame: Frame) -> str:
        place = frame.node.name if frame.node.op != "placeholder" else "input"
        name = f"select_{place}"
        while hasattr(self.model, name):
            name += "_"
        return name

    def _align(self, frame: Frame, phase: fx.Node) -> None:
        before = [user for user in frame.node.users if user is not phase]
        before = [user for user in before if user.target is not as_map]
        plain = frame.form.dims == tuple(range(2, 2 + len(frame.strides)))
        with self.graph.inserting_after(phase):
            if plain:
                aligned = self.graph.call_function(
                    ops.align_phase, (frame.node, phase, frame.strides)
                )
            else:
                aligned = self.graph.call_function(
                    align_map,
                    (frame.node, phase, frame.strides, frame.form.dims, frame.form.sizes),
                )
        if any(map(self._writes, before)):
            with self.graph.inserting_after(aligned):
                aligned = self.graph.call_method("clone", (aligned,))
        for user in before:
            user.replace_input_with(frame.node, aligned)

    def _writes(self, node: fx.Node) -> bool:
        """Whether a call changes its input, of which autograd then needs a copy of its own."""
        if node.op == "call_module":
            return bool(getattr(self.model.get_submodule(str(node.target)), "inplace", False))
        name = node.target if isinstance(node.target, str) else node.target.__name__
        written = name.endswith("_") and not name.endswith("__")
        return written or node.target is operator.setitem or bool(node.kwargs.get("inplace"))

    def _prepare_outputs(self) -> dict[fx.Node, list[tuple[int, ...]]]:
        """Put a node behind each output map that shall lie where the content of the input lies."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        restored: dict[fx.Node, fx.Node] = {}
        scales: dict[fx.Node, list[tuple[int, ...]]] = {}
        for source in output.all_input_nodes if self.frames else ():
            form = self._output_form(source)
            found = None if form is None else self._scales(form)
            if form is None or found is None:
                continue
            with self.graph.inserting_before(output):
                restored[source] = self.graph.call_function(put_back, (source, form.dims))
            scales[restored[source]] = found
        output.args = fx.node.map_arg(output.args, lambda node: restored.get(node, node))
        return scales

    def _put_back(self, scales: dict[fx.Node, list[tuple[int, ...]]]) -> None:
        strides = [frame.strides for frame in self.frames]
        for node, found in scales.items():
            node.args = (*node.args, self._phases, strides, found)

    def _output_form(self, node: fx.Node) -> MapForm | None:
        """How an output holds a map, if it does."""
        finding = self.findings[node]
        sizes = self.findings[next(iter(self.findings))].shape[2:]
        form = map_form(finding.layout, len(sizes))
        if form is not None:
            return form if len(form.dims) == len(sizes) else None
        settled = self.frames[-1].is_full  # what is behind has no layout any more
        dims = tuple(range(2, 2 + len(sizes)))
        if _moves(finding.layout) or not settled or len(finding.shape) != 2 + len(sizes):
            return None
        ratios = {Fraction(a, b) for a, b in zip(finding.shape[2:], sizes, strict=True)}
        if len(ratios) != 1 or min(ratios).denominator != 1:
            return None
        return MapForm(dims, finding.shape[2:], (1 / min(ratios),) * len(sizes))

    def _scales(self, form: MapForm) -> list[tuple[int, ...]] | None:
        """Pixels of an output per position of each aligned tensor; None if that is no whole one."""
        scales = [
            tuple(outer / inner for outer, inner in zip(frame.form.steps, form.steps, strict=True))
            for frame in self.frames
        ]
        if any(value.denominator != 1 for scale in scales for value in scale):
            return None
        return [tuple(map(int, scale)) for scale in scales]

    def _restore_dropout(self) -> None:
        """Functions that were told once whether this is training become layers that know."""
        for node in list(self.graph.nodes):
            kind = _DROPOUTS.get(node.target) if node.op == "call_function" else None
            if kind is None:
                continue
            given = {
                **dict(zip(("input", "p", "training"), node.args, strict=False)),
                **node.kwargs,
            }
            p = given.get("p", 0.5)
            if not isinstance(p, float) or p == 0:
                node.replace_all_uses_with(given["input"])
                continue
            name = f"{node.name}_layer"
            setattr(self.model, name, kind(p))
            node.op, node.target = "call_module", name
            node.args, node.kwargs = (given["input"],), {}

    def _sweep(self) -> None:
        """Remove what nobody reads: sizes, and what is computed from them."""
        for node in reversed(list(self.graph.nodes)):
            sizes = node.op == "call_method" and node.target in ("size", "numel")
            pure = node.op == "get_attr" or node.target in (*_PURE, getattr, operator.getitem)
            dropped = node.target in _DROPOUTS or node.target is F.pad
            finding = self.findings.get(node)
            padding = finding is not None and isinstance(finding.plan, DeferredPad)
            if not node.users and (sizes or pure or dropped or padding):
                self.graph.erase_node(node)


def _moves(layout: Any) -> bool:
    return isinstance(layout, tuple) and moves(layout)
