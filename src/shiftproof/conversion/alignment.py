"""What a converted network does while it runs: choose, align, and move outputs back.

Everything here is a plain object that holds no state of a call, so that threads may share a network
and copies, pickles and compilers take it along.  What must travel from an alignment to the output
travels with the call: in a context variable, or, while the compiler traces, which does not follow
those, in a dict that the outermost module empties.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from shiftproof import ops
from shiftproof.analysis.circular import on_floats
from shiftproof.nn import LargestNorm
from shiftproof.ops.overrides import overridable
from shiftproof.ops.phases import constants, phase_offsets

Offsets = dict[int, Tensor]
_CALL: ContextVar[Offsets | None] = ContextVar("offsets", default=None)
_TRACED: Offsets = {}

Told = dict[int, Tensor]
_TOLD: ContextVar[Told | None] = ContextVar("told", default=None)
"""Offset of every alignment in pixels of the input, for ``call_with_offset``."""


def _offsets() -> Offsets | None:
    """Where the alignments of this call note what they did; None outside of a whole network."""
    return _TRACED if torch.compiler.is_compiling() else _CALL.get()


class Travelling:
    """A context in which the offsets of one call of a network travel."""

    def __enter__(self) -> Offsets:
        self.traced = torch.compiler.is_compiling()
        if self.traced:
            _TRACED.clear()
            return _TRACED
        offsets: Offsets = {}
        self.token = _CALL.set(offsets)
        return offsets

    def __exit__(self, *error: object) -> None:
        if self.traced:
            _TRACED.clear()
        else:
            _CALL.reset(self.token)


class Telling:
    """A context in which the alignments of one call tell what they did."""

    def __enter__(self) -> Told:
        told: Told = {}
        self.token = _TOLD.set(told)
        return told

    def __exit__(self, *error: object) -> None:
        _TOLD.reset(self.token)


def _spread(x: Tensor, dims: Sequence[int], sizes: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
    """Give each spatial axis a dimension of its own."""
    if len(dims) == len(sizes):
        return x, dims
    return torch.unflatten(x, dims[0], tuple(sizes)), range(dims[0], dims[0] + len(sizes))


def _order(x: Tensor, dims: Sequence[int]) -> list[int]:
    """Samples first, spatial axes last."""
    return [0, *[dim for dim in range(1, x.ndim) if dim not in dims], *dims]


@overridable
def standard_map(x: Tensor, dims: Sequence[int], sizes: Sequence[int]) -> Tensor:
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


@overridable
def shift_map(x: Tensor, shift: Tensor, dims: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """``ops.circular_shift`` for a tensor that holds its map in another form.

    Args:
        x: Tensor with samples in its first dimension.
        shift: Pixels per sample and axis, ``(N, D)`` integers.
        dims: Dimension of each spatial axis, or the one into which they are flattened.
        sizes: Sizes of the spatial axes, where they are flattened.

    Returns:
        The shifted tensor, in the form of ``x``.

    Equivariance:
        Exact (bitwise), as for ``ops.circular_shift``.  Checked by
        ``tests/conversion/test_convert.py``.
    """
    spread, dims = _spread(x, dims, sizes)
    order = _order(spread, dims)
    moved = ops.circular_shift(standard_map(spread, dims, sizes), shift)
    moved = moved.reshape([spread.shape[dim] for dim in order])
    return moved.permute([order.index(dim) for dim in range(spread.ndim)]).reshape(x.shape)


@overridable
def require_sizes(x: Tensor, sizes: Sequence[int], dims: Sequence[int]) -> Tensor:
    """Refuse a map of another size than the network was converted for.

    Args:
        x: A tensor that holds a map.
        sizes: The sizes that it must have.
        dims: Dimension of each spatial axis.

    Returns:
        The tensor.

    Raises:
        ValueError: If it has others.
    """
    found = [x.shape[dim] for dim in dims]
    if found != list(sizes):
        raise ValueError(
            f"converted network: the input must be of the size it was converted for, "
            f"{'x'.join(map(str, sizes))}, got {'x'.join(str(int(size)) for size in found)}; "
            "convert again with an example of this size"
        )
    return x


@overridable
def require_multiples(x: Tensor, strides: Sequence[int], multiples: Sequence[int]) -> Tensor:
    """Refuse a map that cannot be aligned, because the images are of a size that does not fit.

    Args:
        x: The map, ``(N, C, *spatial)``.
        strides: By how many pixels it is aligned, per axis.
        multiples: What the sizes of the images must be multiples of.

    Returns:
        The map.

    Raises:
        ValueError: If a stride does not divide it.
    """
    sizes = x.shape[2:]
    if any(size % stride for size, stride in zip(sizes, strides, strict=True)):
        raise ValueError(
            "converted network: the sizes of the images must be multiples of "
            f"{'x'.join(map(str, multiples))}, got some that make a map of "
            f"{'x'.join(str(int(size)) for size in sizes)}, to be aligned by "
            f"{'x'.join(map(str, strides))}; resize or pad the images"
        )
    return x


def refuse_symbolic(x: Any) -> None:
    """Refuse ``torch.fx``, which traces a network without the ``forward`` that was set on it.

    Args:
        x: What a module is given.

    Raises:
        RuntimeError: If it is a symbol of ``torch.fx``.
    """
    if isinstance(x, torch.fx.Proxy):
        raise RuntimeError(
            "converted network: torch.fx leaves out what was changed in the forward pass of the "
            "network itself, got a symbolic trace; register hooks on the modules, or use "
            "torch.export"
        )


def refuse_replaced(module: nn.Module) -> NoReturn:
    """Refuse a layer that another was made of by its class, without what was changed in it.

    Args:
        module: The layer; eager quantisation and fusion give it the hooks of the old one.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError(
        "converted network: its layers must keep what was changed in them, got "
        f"{type(module).__name__} in the place of one; quantise with torch's quantize_fx, which "
        "keeps it, or fuse before converting"
    )


class KeepForward:
    """A forward pre-hook of a layer of torch whose forward pass was changed."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Refuse another layer that stands in its place."""
        if "forward" not in vars(module):
            refuse_replaced(module)


class RefuseSymbolic:
    """A forward pre-hook of a part, for a network whose own forward pass was changed."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Refuse symbols."""
        for value in args:
            refuse_symbolic(value)


class Aligner:
    """Chooses a phase of a map by its content and aligns the map with it.

    Args:
        index: Number of the alignment in the plan.
        strides: By how many positions of the tensor, per axis.
        dims: Dimension of each spatial axis of the tensor, or the one they are flattened into.
        sizes: Sizes of the axes in the example; those of every map where it is aligned by its full
            size or flattened.
        ndim: Dimensions of the tensor.
        is_full: Whether by the full size of the map.
        is_moved_back: Whether the network moves its outputs back, and must know the phase.
        steps: Pixels of the input per position of the tensor, per axis.
        multiples: What the sizes of the images must be multiples of.
        selector: Scores the phases.
    """

    def __init__(
        self,
        index: int,
        strides: Sequence[int],
        dims: Sequence[int],
        sizes: Sequence[int],
        ndim: int,
        is_full: bool,
        is_moved_back: bool,
        steps: Sequence[float],
        multiples: Sequence[int],
        selector: nn.Module | None,
    ) -> None:
        self.index = index
        self.strides = tuple(strides)
        self.dims = tuple(dims)
        self.sizes = tuple(sizes)
        self.is_standard = self.dims == tuple(range(2, ndim)) and ndim == 2 + len(self.sizes)
        self.is_full = is_full
        self.is_moved_back = is_moved_back
        self.steps = tuple(steps)
        self.multiples = tuple(multiples)
        self.selector = LargestNorm() if selector is None else copy.deepcopy(selector)

    def phase(self, x: Tensor) -> Tensor:
        """Choose a phase per sample, ``(N,)``, and note it for the output of the network."""
        if self.is_moved_back:
            refuse_symbolic(x)
        if self.is_full and self.is_standard:
            x = require_sizes(x, self.sizes, self.dims)
        standard = x if self.is_standard else standard_map(x, self.dims, self.sizes)
        standard = require_multiples(standard, self.strides, self.multiples)
        # Not the module itself: a tracer knows it for no part of the network.
        scores = self.selector.forward(standard, self.strides)
        phase = ops.select_phase(standard, self.strides, scores)
        offsets = _offsets() if self.is_moved_back else None
        told = None if torch.compiler.is_compiling() else _TOLD.get()
        if offsets is None and told is None:
            return phase
        found = phase_offsets(phase, self.strides)
        if offsets is not None:
            offsets[self.index] = found
        if told is not None:
            if self.index in told:
                raise ValueError(
                    "call_with_offset: the network must be called once, got another call of it, or "
                    "of another that is converted; call each with call_with_offset"
                )
            told[self.index] = found * found.new_tensor(self.steps, dtype=torch.float32)
        return phase

    def __call__(self, x: Tensor) -> Tensor:
        """Align a tensor."""
        return on_floats(lambda y: self.aligned(y, self.phase(y), self.dims, self.is_standard), x)

    def aligned(self, x: Tensor, phase: Tensor, dims: tuple[int, ...], is_standard: bool) -> Tensor:
        """Align a tensor of the same sizes with a phase."""
        if is_standard:
            return ops.align_phase(x, phase, self.strides)
        return shift_map(x, -phase_offsets(phase, self.strides), dims, self.sizes)


class AlignOutput:
    """A forward hook that aligns what a module returns."""

    def __init__(self, aligner: Aligner) -> None:
        self.aligner = aligner

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Align the output."""
        return self.aligner(output)


class AlignInput:
    """A forward pre-hook that aligns what a module is given.

    Args:
        aligner: Aligns it.
        positions: Which arguments hold the tensor.
        gives_phase: Whether the module, a ``shiftproof.nn.Conv2d``, takes the phase instead and
            reads the map from there.
    """

    def __init__(
        self, aligner: Aligner, positions: Sequence[int | str], gives_phase: bool = False
    ) -> None:
        self.aligner = aligner
        self.positions = tuple(positions)
        self.gives_phase = gives_phase

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Align the arguments, or add the phase to them."""
        if kwargs is None:
            refuse_replaced(module)
        if self.gives_phase:
            x = args[0] if args else kwargs["input"]
            return args, {**kwargs, "phase": self.aligner.phase(x)}
        first = self.positions[0]
        x = args[first] if isinstance(first, int) else kwargs[first]
        aligned = self.aligner(x)
        given = [aligned if index in self.positions else value for index, value in enumerate(args)]
        named = {key: aligned if key in self.positions else kwargs[key] for key in kwargs}
        return tuple(given), named


def move_back(
    y: Tensor,
    dims: Sequence[int],
    offsets: Offsets,
    scales: Sequence[tuple[int, ...]],
    cells: tuple[int, ...],
) -> Tensor:
    """Shift an output map back by what its input was shifted by, in whole pixels of its own.

    Args:
        y: Output map, with samples in its first dimension.
        dims: Dimension of each spatial axis.
        offsets: First pixel of the phase that each alignment chose, ``(N, D)``.
        scales: Per alignment and axis, positions of the aligned tensor in a common unit.
        cells: Per axis, a pixel of ``y`` in that unit.

    Returns:
        The map, where the content of the input is, but for less than a pixel of its own.

    Equivariance:
        Exact (bitwise): a circular shift of the input by whole pixels of ``y`` shifts the result by
        as many.  Checked by ``tests/conversion/test_convert.py`` and ``test_offsets.py`` beside it.
    """
    moves = (offsets[i] * constants(scale, offsets[i]) for i, scale in enumerate(scales))
    total = cast(Tensor, sum(moves))
    if max(cells) > 1:
        total = torch.div(total, constants(cells, total), rounding_mode="floor")
    return shift_map(y, total, dims, [y.shape[dim] for dim in dims])
