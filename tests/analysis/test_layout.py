"""A layout must say where a shift of the input moves the values of a tensor."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shiftproof.analysis.layout import (
    BATCH,
    CONSTANT,
    Factor,
    Layout,
    factors,
    input_layout,
    matched,
    merged,
    moves,
    plain,
    reshaped,
    size_of,
    split,
    still,
    whole,
)

SIZES = (12, 6)


def moved(x: torch.Tensor, layout: Layout, shift: tuple[int, int]) -> torch.Tensor:
    """The tensor after a shift of the input, by its layout alone: every factor an axis of its own.

    The positions of an axis are its factors in order of their steps; a shift adds to them together.
    """
    parts = [factor for dimension in layout for factor in dimension]
    split_up = x.reshape([factor.size for factor in parts])
    for axis, amount in enumerate(shift):
        digits = [i for i, factor in enumerate(parts) if factor.axis == axis]
        digits.sort(key=lambda i: -parts[i].step)
        if not digits:
            continue
        rest = [i for i in range(len(parts)) if i not in digits]
        order = rest + digits
        arranged = split_up.permute(order)
        shape = arranged.shape
        rolled = arranged.flatten(len(rest)).roll(amount, -1).reshape(shape)
        split_up = rolled.permute([order.index(i) for i in range(len(parts))])
    return split_up.reshape(x.shape)


def arrange(x: torch.Tensor, steps: list[tuple[str, int, int]]) -> tuple[torch.Tensor, Layout]:
    """Exchange, join and cut dimensions."""
    layout: Layout = input_layout(x.shape, range(2, x.ndim))
    for kind, place, inner in steps:
        place %= x.ndim - 1
        shape = list(x.shape)
        if kind == "exchange":
            x = x.transpose(place, place + 1)
            swapped = list(layout)
            swapped[place], swapped[place + 1] = layout[place + 1], layout[place]
            layout = tuple(swapped)
            continue
        if kind == "join" and x.ndim > 2:
            shape[place : place + 2] = [shape[place] * shape[place + 1]]
        elif kind == "cut" and shape[place] % inner == 0:
            shape[place : place + 1] = [shape[place] // inner, inner]
        found = reshaped(layout, shape)
        if found is not None:
            x, layout = x.reshape(shape), found
    return x, layout


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["exchange", "join", "cut"]), st.integers(0, 7), st.sampled_from([2, 3, 6])
    ),
    max_size=6,
)


@given(steps=STEPS, shift=st.tuples(st.integers(0, 11), st.integers(0, 5)))
def test_layout_follows_a_shift(steps: list[tuple[str, int, int]], shift: tuple[int, int]) -> None:
    x = torch.arange(2 * 3 * 12 * 6).reshape(2, 3, *SIZES)
    before, layout = arrange(x, steps)
    after, again = arrange(x.roll(shift, (2, 3)), steps)
    assert layout == again
    assert tuple(map(size_of, layout)) == before.shape
    assert torch.equal(after, moved(before, layout, shift))


def test_layout_of_another_order_is_wrong() -> None:
    # The control: windows and the pixels inside them exchanged, and the layout not.
    x = torch.arange(12 * 6).reshape(1, 1, *SIZES)
    layout = reshaped(input_layout(x.shape, range(2, x.ndim)), (1, 1, 4, 3, 6))
    assert layout is not None
    windows = x.reshape(1, 1, 4, 3, 6)
    shifted = x.roll(1, 2).reshape(1, 1, 4, 3, 6)
    assert torch.equal(shifted, moved(windows, layout, (1, 0)))
    exchanged = (layout[0], layout[1], layout[3], layout[2], layout[4])
    wrong = moved(windows.transpose(2, 3), layout[:2] + layout[3:1:-1] + layout[4:], (1, 0))
    assert torch.equal(shifted.transpose(2, 3), wrong)
    assert exchanged != layout


def test_factors_of_a_cut_axis() -> None:
    outer, inner = split(Factor(12, 0, span=12), 3)
    assert (outer.size, outer.step, outer.moves, outer.is_inner) == (4, 3, True, False)
    assert (inner.size, inner.step, inner.moves, inner.is_inner) == (3, 1, False, True)
    assert merged([outer, inner]) == (Factor(12, 0, span=12),)
    assert merged([inner, outer]) == (inner, outer)


def test_a_single_position_does_not_move() -> None:
    assert not Factor(1, 0, Fraction(12), 12).moves
    assert not Factor(1, 0, Fraction(12), 12).is_inner


def test_a_margin_moves_with_the_map() -> None:
    padded = Factor(14, 0, span=12, before=1, after=1)
    assert padded.moves
    assert padded.has_margin
    assert reshaped(((padded,),), (2, 7)) is None


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        ((Factor(12, 0, span=12),), (), (Factor(12, 0, span=12),)),
        ((Factor(12, 0, span=12),), (Factor(12, 0, span=12),), (Factor(12, 0, span=12),)),
        ((Factor(12, 0, span=12),), (Factor(12, CONSTANT),), (Factor(12, 0, span=12),)),
        ((Factor(12, 0, span=12),), plain(12), None),
        ((Factor(12, 0, span=12),), (Factor(12, 1, span=12),), None),
        ((Factor(2, BATCH),), plain(2), (Factor(2, BATCH),)),
    ],
)
def test_matched(first, second, result) -> None:
    joint = matched(first, second)
    assert (joint and joint[0]) == result


def test_matched_windows_need_their_pixels_in_place() -> None:
    axis = Factor(12, 0, span=12)
    outer, inner = split(axis, 3)
    joint = matched((axis,), (outer, Factor(3)))
    assert joint == ((axis,), [inner])


def test_queries() -> None:
    layout = input_layout((2, 3, *SIZES), range(2, 2 + len(SIZES)))
    assert moves(layout)
    assert [factor.axis for factor in factors(layout)] == [BATCH, None, 0, 1]
    assert still(layout[1])
    assert not still(layout[2])
    assert whole(layout[2]) == Factor(12, 0, span=12)
    assert whole(layout[1]) is None
