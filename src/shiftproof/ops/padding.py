"""Extending maps over their borders.

Circular padding is on the path of every layer here.  torch's own loses the channels_last format,
and is made of copies into slices, each of which clones the whole gradient on the way back.  Here
the format stays, and the backward pass adds the border of the gradient to where it was copied from.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.ops.channels import has_channels_last
from shiftproof.ops.overrides import is_jit_tracing, needs_gradient, overridable
from shiftproof.ops.phases import check_map, integers

PaddingMode = Literal["circular", "zeros", "reflect"]
PADDING_MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)


def check_padding_mode(
    operation: str,
    mode: str,
    modes: Sequence[str] = PADDING_MODES,
    advice: str = "circular keeps shift invariance",
) -> None:
    """Refuse an unknown padding mode.

    Args:
        operation: Name of the caller, for the error message.
        mode: Name of the mode.
        modes: Those that the caller knows.
        advice: Which one to take, for the error message.

    Raises:
        ValueError: If it is not one of them.
    """
    if mode not in modes:
        raise ValueError(
            f"{operation}: padding_mode must be one of {', '.join(modes)}, got {mode!r}; {advice}"
        )


Widths = tuple[tuple[int, int], ...]
"""Pixels before the first and after the last, per spatial axis."""


def _torch_order(widths: Widths) -> list[int]:
    return [width for pair in reversed(widths) for width in pair]


def _pieces(sizes: Sequence[int], widths: Widths) -> Iterator[list[tuple[int, int, int]]]:
    """The map and the pieces of its border, as (length, start in the padded map, start in the map).

    One triple per axis; the map itself comes first.
    """
    per_axis = []
    for size, (before, after) in zip(sizes, widths, strict=True):
        parts = [(size, before, 0), (before, 0, size - before), (after, before + size, 0)]
        per_axis.append([part for part in parts if part[0] > 0])
    return map(list, itertools.product(*per_axis))


def _cut(x: Tensor, starts_and_lengths: Iterable[tuple[int, int]]) -> Tensor:
    for axis, (start, length) in enumerate(starts_and_lengths, 2):
        x = x.narrow(axis, start, length)
    return x


def _concatenate(x: Tensor, widths: Widths) -> Tensor:
    for axis, (before, after) in enumerate(widths, 2):
        size = x.shape[axis]
        parts = [(size - before, before), (0, size), (0, after)]
        x = torch.cat([x.narrow(axis, start, width) for start, width in parts if width], axis)
    return x


def _wrap(x: Tensor, widths: Widths) -> Tensor:
    """Copy the map into a larger one, and its borders around it; the memory format stays."""
    if torch.compiler.is_compiling():
        # A copy into a slice becomes five nodes of an ONNX graph, which take the exporter minutes.
        return _concatenate(x, widths)
    sizes = [size + sum(pair) for size, pair in zip(x.shape[2:], widths, strict=True)]
    if has_channels_last(x):
        padded = x.new_empty((x.shape[0], *sizes, x.shape[1])).movedim(-1, 1)
    else:
        padded = x.new_empty((*x.shape[:2], *sizes))
    inner = [(before, size) for size, (before, _) in zip(x.shape[2:], widths, strict=True)]
    _cut(padded, inner).copy_(x)
    # One axis after the other, with the borders of those behind it: few and long copies.
    for axis in range(len(widths) - 1, -1, -1):
        inner[axis] = (0, sizes[axis])
        area, size = _cut(padded, inner), x.shape[2 + axis]
        before, after = widths[axis]
        for place, source, width in ((0, size, before), (before + size, before, after)):
            if width:
                area.narrow(2 + axis, place, width).copy_(area.narrow(2 + axis, source, width))
    return padded


def _fold(padded: Tensor, widths: Widths) -> Tensor:
    """Add every padded pixel to the pixel it is a copy of: the adjoint of ``_wrap``."""
    sizes = [size - sum(pair) for size, pair in zip(padded.shape[2:], widths, strict=True)]
    inner, *borders = _pieces(sizes, widths)
    folded = _cut(padded, [(start, length) for length, start, _ in inner]).clone()
    for piece in borders:
        target = _cut(folded, [(place, length) for length, _, place in piece])
        target += _cut(padded, [(start, length) for length, start, _ in piece])
    return folded


class _Wrap(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, widths: Widths) -> Tensor:
        return _wrap(x, widths)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.widths = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _fold_border(grad, ctx.widths), None


class _ForwardWrap(_Wrap):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _wrap(tangent, ctx.widths)


class _Fold(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(padded: Tensor, widths: Widths) -> Tensor:
        return _fold(padded, widths)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.widths = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _wrap_border(grad, ctx.widths), None


class _ForwardFold(_Fold):
    """The same with forward-mode derivatives, which the compiler refuses to trace."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _fold(tangent, ctx.widths)


def _wrap_border(x: Tensor, widths: Widths) -> Tensor:
    if is_jit_tracing() or not needs_gradient(x):
        return _wrap(x, widths)
    function = _Wrap if torch.compiler.is_compiling() else _ForwardWrap
    return cast(Tensor, function.apply(x, widths))


def _fold_border(padded: Tensor, widths: Widths) -> Tensor:
    if not needs_gradient(padded):
        return _fold(padded, widths)
    function = _Fold if torch.compiler.is_compiling() else _ForwardFold
    return cast(Tensor, function.apply(padded, widths))


def _wrapped(size: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """Source pixel of each padded pixel, for any amount of padding."""
    position = torch.arange(-before, size + after, device=device)
    period = size if mode == "circular" else max(2 * (size - 1), 1)
    is_open = isinstance(period, torch.SymInt)
    # The exporter to ONNX cannot divide by a size that it does not know.
    folded = torch.remainder(position, torch.full_like(position, period) if is_open else period)
    if mode == "circular":
        return folded
    return torch.minimum(folded, period - folded).clamp(max=size - 1)


def _fits(width: int, size: int | torch.SymInt) -> bool:
    """Whether a border is no wider than the map.

    Where it is not and the size is open, as in an export, nothing is asked of the size: what pads
    by more than the map holds serves every size.
    """
    if isinstance(size, torch.SymInt) and not torch.compiler.is_dynamo_compiling():
        node: Any = size.node
        if node.has_hint() and node.hint < width:
            return False
    return bool(width <= size)


@overridable
def pad(
    x: Tensor, before: Sequence[int], after: Sequence[int], padding_mode: PaddingMode
) -> Tensor:
    """Extend a map over its borders, also by more than its own size.

    Args:
        x: Feature map, ``(N, C, *spatial)``; or one of two or three spatial axes without its batch
            axis.
        before: Pixels to add before the first, per spatial axis; a negative number takes them away,
            before the rest of the border is made.
        after: Pixels to add after the last, likewise.
        padding_mode: ``"circular"`` (wraps as often as needed), ``"zeros"`` or ``"reflect"``
            (the border pixel is not repeated).

    Returns:
        The extended map.

    Raises:
        ValueError: If the padding mode is unknown, there is not one width per axis, the input is
            not a batch of maps, or less than a pixel of it would stay.
        TypeError: If the widths are not integers.

    Equivariance:
        With circular padding a convolution that follows is exactly equivariant to circular shifts;
        with the others it is not.  Checked by ``tests/ops/test_padding.py``.
    """
    check_padding_mode("pad", padding_mode)
    num_dims = check_map("pad", x)
    before = integers("pad", "before", before, num_dims)
    after = integers("pad", "after", after, num_dims)
    if len(before) == len(after) == x.ndim - 1:
        return pad(x[None], before, after, padding_mode)[0]
    if len(before) != num_dims or len(after) != num_dims:
        raise ValueError(
            f"pad: before and after must have one width per spatial axis, {num_dims} here, got "
            f"{tuple(before)} and {tuple(after)}; pass a width for each"
        )
    widths = tuple(zip(before, after, strict=True))
    if not any(map(any, widths)):
        return x
    if min(before + after) < 0:
        for axis, (first, last) in enumerate(widths):
            start, end = max(-first, 0), x.shape[2 + axis] - max(-last, 0)
            if end <= start:
                raise ValueError(
                    f"pad: a pixel of each axis must stay, got {before} and {after} for "
                    f"{'x'.join(map(str, x.shape[2:]))}; take away less"
                )
            x = x.narrow(2 + axis, start, end - start)
        before, after = ([max(width, 0) for width in side] for side in (before, after))
        return pad(x, before, after, padding_mode)
    if padding_mode == "zeros":
        return F.pad(x, _torch_order(widths))
    room = 0 if padding_mode == "circular" else 1
    if all(_fits(max(pair) + room, size) for pair, size in zip(widths, x.shape[2:], strict=True)):
        if padding_mode == "circular":
            return _wrap_border(x, widths)
        return F.pad(x, _torch_order(widths), mode=padding_mode)
    # torch refuses to pad by more than the map holds.
    for axis, (first, last) in enumerate(zip(before, after, strict=True)):
        source = _wrapped(x.shape[2 + axis], first, last, padding_mode, x.device)
        x = x.index_select(2 + axis, source)
    return x
