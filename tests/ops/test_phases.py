import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from maps import num_phases
from shiftproof import ops
from shiftproof.ops.phases import check_map, per_axis

strides = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@given(strides)
def test_offsets_are_row_major(stride):
    phases = torch.arange(num_phases(stride))
    offsets = ops.phase_offsets(phases, stride)
    assert [tuple(row) for row in offsets.tolist()] == reference.offsets(stride)
    assert torch.equal(ops.phase_index(offsets, stride), phases)


@given(strides, st.data())
def test_shifted_phases_follow_the_pixels(stride, data):
    shift = data.draw(st.tuples(*[st.integers(-20, 20)] * len(stride)))
    for p, offset in enumerate(reference.offsets(stride)):
        q, steps = ops.shift_phase(torch.tensor([p]), torch.tensor([shift]), stride)
        start = reference.offsets(stride)[q.item()]
        arrived = [a + s * n for a, s, n in zip(start, stride, steps[0].tolist(), strict=True)]
        assert arrived == [first + d for first, d in zip(offset, shift, strict=True)]


def test_shifts_of_phases_add():
    phase, stride = torch.arange(6), (2, 3)
    shifts = [torch.tensor([d]).expand(6, -1) for d in itertools.product((-3, 1), (-1, 4))]
    for first, second in itertools.product(shifts, shifts):
        once, _ = ops.shift_phase(phase, first + second, stride)
        twice, _ = ops.shift_phase(ops.shift_phase(phase, first, stride)[0], second, stride)
        assert torch.equal(once, twice)


@pytest.mark.parametrize("stride", [(2,), (2, 2, 2), 0, (2, -1), ()])
def test_a_stride_is_positive_and_one_per_axis(stride):
    with pytest.raises(ValueError, match="layer: stride must be one integer >= 1, or one for each"):
        per_axis("layer", stride, 2)


@pytest.mark.parametrize("stride", [2.0, (2, 1.5), "22", None])
def test_a_stride_is_made_of_integers(stride):
    with pytest.raises(TypeError, match="layer: stride must be made of integers"):
        per_axis("layer", stride, 2)


@pytest.mark.parametrize("num_axes", [2, 6])
def test_a_map_has_one_to_three_spatial_axes(num_axes):
    with pytest.raises(ValueError, match=r"layer: input must be \(N, C, \*spatial\)"):
        check_map("layer", torch.zeros((1,) * num_axes))
