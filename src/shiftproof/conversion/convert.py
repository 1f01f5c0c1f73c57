"""One call that makes a network shift invariant that somebody else has built and trained."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, fx, nn

from shiftproof.conversion.analysis import Finding, analyse
from shiftproof.conversion.comparing import depends_on_batch, looked_sizes, same_graph
from shiftproof.conversion.placement import Frame, place
from shiftproof.conversion.recording import record
from shiftproof.conversion.refusal import ConversionError, IndivisibleError, shown
from shiftproof.conversion.rewriting import Rewriter, described, require_size
from shiftproof.conversion.summary import Alignment, ConversionSummary, PaddingChange

Padding = Literal["circular", "keep"]


@dataclass(frozen=True)
class Conversion:
    """A converted network and what was changed in it.

    Attributes:
        model: The network, an ``fx.GraphModule`` with the parameters' names of the original.
        summary: What was aligned and padded; printing it gives a report.
    """

    model: fx.GraphModule
    summary: ConversionSummary


@dataclass
class _Recorded:
    model: nn.Module
    graph: fx.Graph
    findings: dict[fx.Node, Finding]
    frames: list[Frame]


def convert(
    model: nn.Module,
    example_input: Tensor,
    *,
    padding: Padding = "circular",
    selector: nn.Module | None = None,
) -> Conversion:
    """Make a network exactly invariant to circular shifts, with its own weights.

    The forward pass is recorded and followed from the input to the output.  Wherever something
    depends on the origin of the map (a stride, a window, a patch, a position embedding), the map in
    front of it is aligned with a phase that its content selects, at the last place that everything
    behind it passes through.  Paddings become circular.  The names, shapes and values of the
    parameters stay, and so does the amount of arithmetic.

    Where positions are mixed in a way that nothing short of the whole map aligns (a flattened map,
    a position embedding), the map is aligned by its full size; everything behind that place is left
    as it is, paddings included.

    Args:
        model: The network; it stays as it is, and a copy is converted.
        example_input: Images, ``(N, C, *spatial)``, of the size that the network is used at.
        padding: ``"circular"`` makes the paddings circular; ``"keep"`` leaves them, and with them
            the dependence on the border.
        selector: Scores the phases, ``(x, stride) -> (N, P)``; copied for every choice;
            ``nn.LargestNorm(2)`` if None.

    Returns:
        The converted network, in the mode of the original, and a summary.

    Raises:
        ConversionError: If the network cannot be recorded or aligned, or a stride does not divide a
            map; the message names the module and the way out.  A ``ValueError``.
        TypeError: If the model is no module or the input no tensor.
        ValueError: If ``padding`` is unknown or the input is no batch of maps.

    Equivariance:
        Invariant, or equivariant where the output is a map, under circular shifts of inputs of the
        example's size: exact or to rounding, see ``certify``.  Checked by
        ``tests/conversion/test_convert.py`` and for every network of torchvision and every family
        of timm by ``python -m benchmarks.coverage``.

    Examples:
        >>> network = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ... )
        >>> conversion = convert(network, torch.randn(1, 1, 8, 8))
        >>> x = torch.randn(1, 1, 8, 8)
        >>> torch.equal(conversion.model(x), conversion.model(x.roll(1, 3)))
        True
    """
    _check(model, example_input, padding)
    model = _unwrapped(model)
    example = _example(model, example_input)
    try:
        recorded = _record(model, example, padding)
    except IndivisibleError as error:
        raise ConversionError(f"{error}; {_sizes(model, example, padding, error)}") from None
    fixed = _is_fixed(model, example, padding, recorded)
    notes = _notes(model, example, recorded, padding)
    obstacle = _free_batch(model, example, recorded.graph)
    if obstacle:
        notes.append(f"known to work for batches of {len(example)} only: {obstacle}")
    rewriter = Rewriter(
        recorded.model, recorded.graph, recorded.findings, recorded.frames, selector
    )
    rewriter.rewrite()
    if fixed:
        _fix_size(recorded.graph, tuple(example.shape[2:]))
    name = type(recorded.model).__name__
    converted = fx.GraphModule(recorded.model, recorded.graph, name)
    _complete(converted, recorded.model)
    converted.train(model.training)
    summary = ConversionSummary(
        model=name,
        size=tuple(example.shape[2:]),
        any_size=not fixed,
        alignments=tuple(
            Alignment(
                where=recorded.findings[frame.node].place,
                stride=frame.strides,
                full=frame.is_full,
                sampled=sampled,
                readers=tuple(dict.fromkeys(frame.readers)),
                reasons=tuple(frame.reasons),
            )
            for frame, sampled in zip(recorded.frames, rewriter.sampled, strict=True)
        ),
        paddings=tuple(
            PaddingChange(finding.place, *finding.plan.paddings)
            for finding in rewriter.applied
            if finding.plan is not None and finding.plan.paddings is not None
        ),
        geometry=tuple(
            finding.plan.geometry
            for finding in rewriter.applied
            if finding.plan is not None and finding.plan.geometry
        ),
        notes=tuple(notes),
    )
    return Conversion(converted, summary)


def _check(model: nn.Module, example_input: Tensor, padding: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"convert: model must be a torch.nn.Module, got {type(model).__name__}; wrap it in one"
        )
    if not isinstance(example_input, Tensor):
        raise TypeError(
            f"convert: example_input must be a tensor, got {type(example_input).__name__}; pass "
            "images of shape (N, C, *spatial)"
        )
    if not 3 <= example_input.ndim <= 5 or example_input.numel() == 0:
        raise ValueError(
            "convert: example_input must be (N, C, *spatial) with 1 to 3 spatial axes, got shape "
            f"{tuple(example_input.shape)}; add the missing axes with unsqueeze"
        )
    if padding not in ("circular", "keep"):
        raise ValueError(
            f"convert: padding must be 'circular' or 'keep', got {padding!r}; circular keeps the "
            "guarantee"
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what compiles it or spreads it over devices."""
    model = getattr(model, "_orig_mod", model)
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, parallel) else model


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ConversionError(
            "convert: a network must survive copy.deepcopy, because a copy of it is converted, got "
            f"{type(error).__name__}: {str(error).splitlines()[0]}; use the forms of "
            "torch.nn.utils.parametrizations for weight and spectral norm"
        ) from error


def _example(model: nn.Module, example_input: Tensor) -> Tensor:
    """At least two samples, so that they cannot be mistaken for something of size one."""
    example = example_input.detach()
    first = next(iter(model.parameters()), example)
    if example.is_floating_point() and first.is_floating_point():
        example = example.to(first.device, first.dtype)
    return torch.cat([example, example]) if len(example) == 1 else example


def _record(model: nn.Module, example: Tensor, padding: str) -> _Recorded:
    """Record and analyse; where another geometry does not fit what follows, keep the geometry."""
    subject = _copied(model).eval()
    try:
        graph = record(subject, example)
    except ConversionError:
        raise
    except Exception as error:
        message = (str(error).splitlines() or [""])[0]
        raise ConversionError(
            "convert: the network must accept example_input, got "
            f"{type(error).__name__} for {shown(example.shape)}: {message}; pass images of the "
            "size that the network is made for"
        ) from error
    circular = padding == "circular"
    try:
        findings = analyse(subject, graph, example, circular=circular, geometry=circular)
    except IndivisibleError:
        raise
    except RuntimeError:
        findings = analyse(subject, graph, example, circular=circular, geometry=False)
    return _Recorded(subject, graph, findings, place(findings, example.ndim - 2))


def _free_batch(model: nn.Module, example: Tensor, graph: fx.Graph) -> str:
    """Let the graph take any batch; returns why it does not, if it does not.

    Python may have turned the number of samples into an ordinary number, as ``len(x)`` does.
    Recorded with twice as many samples, such numbers are twice as large.
    """
    try:
        other = record(_copied(model).eval(), torch.cat([example, example]))
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    if depends_on_batch(graph, other, len(example)):
        return "its forward pass does something else for another number of samples"
    return ""


def _period(recorded: _Recorded, sizes: tuple[int, ...]) -> list[int]:
    """By what a size can be enlarged so that every stride divides it again."""
    periods = [1] * len(sizes)
    for frame in recorded.frames:
        for axis, period in frame.periods.items():
            if period != sizes[axis] and period.denominator == 1:
                periods[axis] = math.lcm(periods[axis], int(period))
    return periods


def _is_fixed(model: nn.Module, example: Tensor, padding: str, recorded: _Recorded) -> bool:
    """Whether the conversion holds for this size only: then another size gives another graph."""
    if any(frame.is_full and math.prod(frame.strides) > 1 for frame in recorded.frames):
        return True
    sizes = tuple(example.shape[2:])
    larger = [size + period for size, period in zip(sizes, _period(recorded, sizes), strict=True)]
    other = example.new_zeros((len(example), example.shape[1], *larger))
    try:
        again = _record(model, other, padding)
    except Exception:
        return True
    if looked_sizes(recorded.graph) != looked_sizes(again.graph):
        return True
    return not same_graph(recorded.graph, again.graph) or _decided(recorded) != _decided(again)


def _decided(recorded: _Recorded) -> list[tuple[object, ...]]:
    plans = [
        (finding.place, finding.periods, finding.reasons, str(described(finding.plan)))
        for finding in recorded.findings.values()
    ]
    frames = [
        (frame.index, frame.strides, frame.form.dims, frame.form.sizes if flat else ())
        for frame in recorded.frames
        for flat in [len(frame.form.dims) < len(frame.form.sizes)]
    ]
    return [*plans, *frames]


def _sizes(model: nn.Module, example: Tensor, padding: str, error: IndivisibleError) -> str:
    """Name the nearest sizes that can be converted."""
    sizes = tuple(example.shape[2:])
    periods = _merge([1] * len(sizes), error)
    for _ in range(8):
        below = [size // period * period for size, period in zip(sizes, periods, strict=True)]
        above = [-(-size // period) * period for size, period in zip(sizes, periods, strict=True)]
        valid: list[str] = []
        for trial in (below, above):
            if min(trial) < 1:
                continue
            try:
                _record(model, example.new_zeros((2, example.shape[1], *trial)), padding)
            except IndivisibleError as further:
                periods = _merge(periods, further)
                valid = []
                break
            except Exception:
                continue
            valid.append(shown(trial))
        if valid:
            return f"the nearest valid input sizes are {' and '.join(dict.fromkeys(valid))}"
    return f"resize the input to a multiple of {shown(periods)}"


def _merge(periods: list[int], error: IndivisibleError) -> list[int]:
    found = error.period
    return [
        math.lcm(period, Fraction(found.get(axis, 1)).numerator)
        for axis, period in enumerate(periods)
    ]


def _fix_size(graph: fx.Graph, sizes: tuple[int, ...]) -> None:
    source = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(source):
        checked = graph.call_function(require_size, (source, sizes))
    source.replace_all_uses_with(checked, lambda user: user is not checked)


def _complete(converted: nn.Module, original: nn.Module) -> None:
    """Bring in what the graph does not call, and the order of the original."""
    for name, child in original._modules.items():
        held = converted._modules.get(name)
        if held is None and child is not None and _has_state(child):
            converted.add_module(name, child)
        elif held is not None and child is not None and held is not child:
            _complete(held, child)
    names = [name for name in original._modules if name in converted._modules]
    names += [name for name in converted._modules if name not in names]
    converted._modules = {name: converted._modules[name] for name in names}
    for name, parameter in original._parameters.items():
        if name not in converted._parameters:
            converted.register_parameter(name, parameter)
    for name, buffer in original._buffers.items():
        if name not in converted._buffers:
            persistent = name not in original._non_persistent_buffers_set
            converted.register_buffer(name, buffer, persistent)
        elif name in original._non_persistent_buffers_set:
            converted._non_persistent_buffers_set.add(name)
    # A tensor that is an ordinary attribute becomes a buffer of the graph, but not of its state.
    attributes = set(converted._buffers) - set(original._buffers)
    converted._non_persistent_buffers_set.update(attributes)
    converted._parameters = {name: converted._parameters[name] for name in original._parameters}


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.state_dict())


def _notes(model: nn.Module, example: Tensor, recorded: _Recorded, padding: str) -> list[str]:
    notes = []
    if padding == "keep":
        notes.append(
            "paddings were kept, so that borders still depend on where the content is: the "
            "guarantee holds away from them only"
        )
    trained = _added_in_training(model, example, recorded.graph)
    if trained is None:
        notes.append(
            "in training the original computes something else, by functions that are told whether "
            "this is training; the converted network computes what it does in evaluation"
        )
    elif trained:
        shortest = sorted(trained, key=lambda name: (name.count("."), name))
        more = f" and {len(trained) - 3} more" if len(trained) > 3 else ""
        notes.append(
            f"in training the original also runs {', '.join(shortest[:3])}{more}; the converted "
            "network keeps their parameters and does not run them"
        )
    return notes


def _added_in_training(model: nn.Module, example: Tensor, graph: fx.Graph) -> set[str] | None:
    """Modules that are called in training only; None if something else differs."""
    subject = _copied(model).train()
    try:
        trained = record(subject, example)
    except Exception:  # a network that cannot be trained as it stands
        return set()
    called = [
        {str(node.target) for node in part.nodes if node.op == "call_module"}
        for part in (trained, graph)
    ]
    if called[0] == called[1] and not same_graph(trained, graph, but="training"):
        return None
    return called[0] - called[1]
