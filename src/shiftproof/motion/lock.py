"""A lock in front of any network: its total stride found, its dense outputs moved back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.analysis import analyse, capture
from shiftproof.analysis.changes import bind
from shiftproof.analysis.errors import CaptureError, IndivisibleError, shown
from shiftproof.analysis.findings import Findings
from shiftproof.analysis.graph import CallRecord, values_in
from shiftproof.analysis.layout import Layout, factors, whole
from shiftproof.nested import exchanged, tensors_in, with_tensors
from shiftproof.nn import grid
from shiftproof.nn.grid import BandLimited, WholePixels
from shiftproof.ops.phases import constants, per_axis
from shiftproof.ops.resample import EdgeMode

_LOCKS = (grid.GridLock1d, grid.GridLock2d, grid.GridLock3d)
_WINDOWS = re.compile(r"^(conv|(max|avg|lp)_pool)(\d)d$")
_MULTIPLES = (1, 32, 64, 128)
"""Sizes are rounded up to multiples of these, until every stride divides its map."""


@dataclass(frozen=True)
class LockedOutput:
    """An output map that is moved back by what the image was moved.

    Attributes:
        index: Which of the tensors that the network returns.
        dims: Dimension of each spatial axis.
        steps: Pixels of the image per position of the output, per axis.
    """

    index: int
    dims: tuple[int, ...]
    steps: tuple[Fraction, ...]


@dataclass(frozen=True)
class LockSummary:
    """What stands in front of a network, and what is done to its outputs.

    Attributes:
        model: Name of the class of the network.
        stride: Its total stride, in pixels per axis.
        is_given: Whether the stride was given and not found.
        margin: Pixels by which images are larger than what the network sees, per axis.
        padding_mode: What is shown beyond the edge.
        outputs: Outputs that are moved back.
        notes: What else is to be known.
    """

    model: str
    stride: tuple[int, ...]
    is_given: bool
    margin: tuple[int, ...]
    padding_mode: str
    outputs: tuple[LockedOutput, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        source = "as given" if self.is_given else "found by analysis"
        lines = [
            f"{self.model}, locked to the content modulo {shown(self.stride)} pixels ({source})"
        ]
        if any(self.margin):
            lines.append(f"  window    cut from images larger by {shown(self.margin)} pixels")
        invented = [max(0, (s - m) // 2) for s, m in zip(self.stride, self.margin, strict=True)]
        if any(invented):
            lines.append(
                f"  edge      up to {shown(invented)} pixels beyond it are shown by "
                f"{self.padding_mode}; margin={max(self.stride)} shows real ones"
            )
        for output in self.outputs:
            steps = shown(output.steps)
            lines.append(f"  output    {output.index}: moved back, {steps} pixels per position")
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join(lines)


class LockedModel(nn.Module):
    """A network behind a lock; made by ``lock_grid``.

    Args:
        model: The network.
        lock: The lock.
        summary: What was decided.

    Attributes:
        model: The network that was given, the same object.
        lock: A ``GridLock1d``, ``2d`` or ``3d``.
        summary: What was decided, to be printed.
    """

    def __init__(self, model: nn.Module, lock: nn.Module, summary: LockSummary) -> None:
        super().__init__()
        self.model, self.summary = model, summary
        self.lock: Any = lock

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network on images that are moved by at most half a stride.

        Args:
            args: The network's arguments; the first tensor holds the images, with the margin.
            kwargs: Its keyword arguments.

        Returns:
            What the network returns, maps moved back by as much.
        """
        images = tensors_in((args, kwargs))[0]
        offset = moved_by(self.lock, images)
        moved = self.lock(images, offset)
        args, kwargs = exchanged((args, kwargs), images, moved)
        result = self.model(*args, **kwargs)
        tensors = tensors_in(result) if self.summary.outputs else []
        back = {
            output.index: self._moved_back(tensors[output.index], offset, output)
            for output in self.summary.outputs
        }
        return with_tensors(result, back)

    def _moved_back(self, output: Tensor, offset: Tensor, how: LockedOutput) -> Tensor:
        start = -offset / constants([float(step) for step in how.steps], offset)
        reach = [
            math.ceil(stride / 2 / step)
            for stride, step in zip(self.summary.stride, how.steps, strict=True)
        ]
        x = output if how.dims[0] == 2 else output[:, None]
        is_whole = not x.is_floating_point()
        reader = WholePixels() if is_whole else BandLimited(2, 0)
        moved: Tensor = reader(x, start, x.shape[2:], reach, "replicate")
        return moved if how.dims[0] == 2 else moved[:, 0]


def moved_by(lock: Any, images: Tensor) -> Tensor:
    """By how much a lock moves images: its offset, rounded where it copies whole pixels.

    Args:
        lock: The lock.
        images: The images, the margin included.

    Returns:
        Pixels, ``(N, D)``.
    """
    offset: Tensor = lock.offset(images)
    return (offset + 0.5).floor() if isinstance(lock.interpolation, WholePixels) else offset


def lock_grid(
    model: nn.Module,
    args: Tensor | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    stride: int | Sequence[int] | None = None,
    selector: nn.Module | None = None,
    interpolation: nn.Module | None = None,
    padding_mode: EdgeMode = "reflect",
    margin: int | Sequence[int] = 0,
) -> LockedModel:
    """Put a lock in front of a network, so that it flickers less while the camera moves.

    The network, its weights and its paddings stay as they are.  Each image is moved by at most half
    the total stride of the network, so that its content fixes the grid; output maps are moved back.

    Args:
        model: The network; it is not changed, and is ``.model`` of the result.
        args: An example of its arguments, as ``torch.export`` has them, or the images alone; the
            first tensor holds the images, ``(N, C, *spatial)``, without the margin.
        kwargs: Its keyword arguments.
        stride: Total stride in pixels; found by following the network if None.
        selector: What the content is, see ``shiftproof.motion.locate_grid``.
        interpolation: How windows between pixels are read; ``nn.BandLimited()`` if None.
        padding_mode: What is shown beyond the edge of the images.
        margin: Pixels by which images will be larger than what the network shall see, even.

    Returns:
        The locked network, with ``.model`` and ``.summary``.

    Raises:
        ValueError: If the network samples by no stride, or cannot be followed and no stride is
            given, or the images are too small for it, or an argument of the lock is wrong.

    Equivariance:
        Approximate: measured in docs/guide/motion.md.  Checked by ``tests/motion/test_lock.py``.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2))
        >>> print(lock_grid(net, torch.rand(1, 3, 32, 32)).summary)
        Sequential, locked to the content modulo 4x4 pixels (found by analysis)
          edge      up to 2x2 pixels beyond it are shown by reflect; margin=4 shows real ones
          output    0: moved back, 4x4 pixels per position
    """
    given = (args,) if isinstance(args, Tensor) else tuple(args)
    named = dict(kwargs or {})
    images = tensors_in((given, named))[0]
    dims = images.ndim - 2
    if dims not in (1, 2, 3):
        raise ValueError(
            f"lock_grid: images must be (N, C) and 1 to 3 spatial axes, got shape "
            f"{tuple(images.shape)}; pass them as the first tensor"
        )
    notes: list[str] = []
    outputs: tuple[LockedOutput, ...] = ()
    found: tuple[int, ...] = (1,) * dims
    try:
        findings = _follow(model, given, named, images)
        found, unknown = _total_stride(findings, dims)
        outputs, notes = _maps(findings, dims)
        if unknown and stride is None:
            notes.append(f"behind {unknown} strides were read from the arguments of its calls")
    except CaptureError as error:
        if stride is None:
            raise ValueError(
                f"lock_grid: the network must be such that analysis can follow it, got "
                f"{error.module or type(model).__name__}, which {error.reason}; pass stride="
            ) from error
        notes.append(f"outputs are not moved back: {error.reason}")
    strides = found if stride is None else per_axis("lock_grid", stride, dims)
    if max(strides) == 1:
        raise ValueError(
            "lock_grid: the network must sample its maps by a stride, got none that analysis can "
            "follow; pass stride="
        )
    lock = _LOCKS[dims - 1](strides, selector, interpolation, padding_mode, margin)
    larger = [size + pixels for size, pixels in zip(images.shape[2:], lock.margin, strict=True)]
    lock(torch.zeros(1, 1, *larger), torch.zeros(1, dims))  # refuses images that are too small
    summary = LockSummary(
        type(model).__name__,
        strides,
        stride is not None,
        lock.margin,
        padding_mode,
        outputs,
        tuple(notes),
    )
    return LockedModel(model, lock, summary).train(model.training)


def _follow(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], images: Tensor
) -> Findings:
    """What is known about a network, at the first size that all its strides divide."""
    for multiple in _MULTIPLES:
        sizes = [-(-size // multiple) * multiple for size in images.shape[2:]]
        other = images.new_zeros((*images.shape[:2], *sizes))
        used = images if multiple == 1 else other
        try:
            return analyse(capture(model, *exchanged((args, dict(kwargs)), images, used)))
        except IndivisibleError:
            continue
    raise CaptureError("", "has strides that do not divide its maps at any size that was tried")


def _steps(layout: Layout | None, dims: int) -> tuple[Fraction, ...] | None:
    """Pixels of the image from one position of a map to the next, per axis; None if no map."""
    last = [whole(dimension) for dimension in (layout or ())[-dims:]]
    found = {f.axis: f.step for f in last if f is not None}
    return tuple(found[axis] for axis in range(dims)) if set(found) == set(range(dims)) else None


def _sampled(record: CallRecord, dims: int) -> int:
    """By which stride a call samples, as its arguments say."""
    if record.function == "getitem":
        index = bind("getitem", record.args, record.kwargs)["index"]
        parts = index if isinstance(index, tuple) else (index,)
        steps = [p.step for p in parts if isinstance(p, slice) and isinstance(p.step, int)]
        return max([1, *steps])
    window = _WINDOWS.search(record.function)
    if window is None or int(window[3]) != dims:
        return 1
    given = bind(record.function, record.args, record.kwargs)
    stride = given.get("stride") or given.get("kernel_size") or 1
    return max(stride) if isinstance(stride, (tuple, list)) else int(stride)


def _total_stride(findings: Findings, dims: int) -> tuple[tuple[int, ...], str]:
    """Least common multiple of the steps of all maps, per axis, and what analysis did not know.

    Of what is no map, such as tokens and windows of an attention, the step is that of the finest
    map that it is made from, times the strides that arguments of windows and slices name.
    """
    behind = dict.fromkeys(findings.graph.inputs, (Fraction(1),) * dims)
    unknown = ""
    for record in findings.graph.calls:
        read = [behind[value] for value in record.inputs if value in behind]
        for value in values_in(record.result) if read else ():
            stride = _sampled(record, dims)
            finest = [min(steps) * stride for steps in zip(*read, strict=True)]
            known = _steps(findings.layout(value), dims)
            behind[value] = tuple(finest) if known is None else known
            if known is None and stride > 1 and not unknown:
                unknown = next((f.place for f in findings.calls if f.is_unknown), record.place)
    steps = list(behind.values())
    if all(max(step) <= 1 for step in steps):  # patches that no window has cut
        layouts = [findings.layout(value) for value in behind]
        steps = [_finest(layout, dims) for layout in layouts if layout is not None]
    axes = zip(*steps, strict=True)
    return tuple(math.lcm(*(step.numerator for step in axis)) for axis in axes), unknown


def _finest(layout: Layout, dims: int) -> tuple[Fraction, ...]:
    """The least step of the positions of a tensor, per axis; 1 if it has none."""
    steps: dict[int, Fraction] = {}
    for factor in factors(layout):
        if isinstance(factor.axis, int) and factor.size > 1:
            steps[factor.axis] = min(steps.get(factor.axis, factor.step), factor.step)
    return tuple(steps.get(axis, Fraction(1)) for axis in range(dims))


def _maps(findings: Findings, dims: int) -> tuple[tuple[LockedOutput, ...], list[str]]:
    """Outputs that are maps, and what is to be said about the others."""
    outputs, notes = [], []
    for index, value in enumerate(values_in(findings.graph.output)):
        if not findings.moves(value):
            continue
        layout = findings.layout(value) or ()
        first = len(layout) - dims
        parts = [whole(dimension) for dimension in layout[first:]] if first in (1, 2) else []
        if parts and all(part is not None for part in parts):
            steps = tuple(part.step for part in parts if part is not None)
            outputs.append(LockedOutput(index, tuple(range(first, first + dims)), steps))
        else:
            notes.append(f"output {index} moves with the image and is not moved back")
    return tuple(outputs), notes
