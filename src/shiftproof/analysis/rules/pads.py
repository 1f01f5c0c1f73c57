"""Padding as a call of its own; windows that follow read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shiftproof.analysis.calls import PADDED_AGAIN, Call, rule
from shiftproof.analysis.changes import Roll
from shiftproof.analysis.errors import UnknownError, shown
from shiftproof.analysis.layout import Layout, has_margin, plain, whole

BORDERS = {
    "zeros": "zero padding",
    "minus infinity": "padding with minus infinity",
    "constant": "constant padding",
    "reflect": "reflect padding",
    "replicate": "replicate padding",
}
"""What pads with something else than the other side of the map, in words."""


def pixels(widths: Sequence[int]) -> str:
    """Widths of a border in words, for instance ``of 1 pixel``."""
    if len(set(widths)) > 1:
        return f"of {shown(widths, ' x ')} pixels"
    return "of 1 pixel" if widths[0] == 1 else f"of {widths[0]} pixels"


@rule("pad", "input pad mode value")
def padding(call: Call) -> Layout:
    """``torch.nn.functional.pad``."""
    widths: Any = call.given["pad"]
    mode, value = call.given.get("mode") or "constant", call.given.get("value")
    if mode == "constant" and not value:
        mode = "zeros"
    elif mode == "constant" and value == float("-inf"):
        mode = "minus infinity"
    count = len(widths) // 2
    ndim = len(call.source)
    before, after = [0] * ndim, [0] * ndim
    for index in range(count):
        before[ndim - 1 - index] = int(widths[2 * index])
        after[ndim - 1 - index] = int(widths[2 * index + 1])
    return padded(call, before, after, mode)


@rule("ops.pad", "input before after padding_mode")
def own_padding(call: Call) -> Layout:
    """``shiftproof.ops.pad``."""
    widths = [[0, 0, *call.given[name]] for name in ("before", "after")]
    return padded(call, widths[0], widths[1], call.given["padding_mode"])


def padded(call: Call, before: list[int], after: list[int], mode: str) -> Layout:
    """The layout of a padded tensor.

    Args:
        call: The call; windows that read the padding of axes that move make it circular.
        before: Pixels before the first, per dimension; negative ones are cut off.
        after: Pixels after the last.
        mode: What is padded with.

    Returns:
        The layout.

    Raises:
        UnknownError: If something is padded that cannot be made circular.
    """
    layout = list(call.source)
    dims = [dim for dim in range(len(layout)) if before[dim] or after[dim]]
    if has_margin(tuple(layout)):
        raise UnknownError(PADDED_AGAIN)
    still_dims = [dim for dim in dims if whole(layout[dim]) is None]
    for dim in still_dims:
        call.require_free(layout[dim], "padding of something that is not an axis of the map")
        layout[dim] = plain(call.shape[dim])
    moving = [dim for dim in dims if dim not in still_dims]
    if not moving:
        return tuple(layout)
    if mode != "circular":
        widths = [max(before[dim], after[dim]) for dim in moving]
        call.border = f"{BORDERS.get(mode, f'{mode} padding')} {pixels(widths)}"
    if still_dims or (min(moving) < 2 and mode != "circular"):
        raise UnknownError("padding of something that is not an axis of the map")
    is_shift = all(before[dim] + after[dim] == 0 for dim in moving)
    if not is_shift and min(min(before[dim], after[dim]) for dim in moving) < 0:
        raise UnknownError("slicing cuts the map at a fixed place")
    if is_shift:
        call.change = Roll(tuple(before))
        return tuple(layout)
    for dim in moving:
        factor = layout[dim][0]
        size = factor.size + before[dim] + after[dim]
        layout[dim] = (
            replace(
                factor,
                size=size,
                before=before[dim],
                after=after[dim],
                is_wrapped=mode == "circular",
            ),
        )
    return tuple(layout)
