import numpy as np
import pytest
import torch
from hypothesis import given

import reference
from maps import cases, distinct_map, laid_out, random_map
from shiftproof import ops


@given(cases())
def test_circular_shift_matches_the_reference(case):
    expected = reference.circular_shift(reference.as_numpy(case.x), case.shift.tolist())
    assert np.array_equal(reference.as_numpy(case.moved), expected)


@given(cases())
def test_circular_shift_gradient_is_the_opposite_shift(case):
    x, grad = case.x.requires_grad_(), random_map(*case.x.shape, seed=1, dtype=case.x.dtype)
    (actual,) = torch.autograd.grad(ops.circular_shift(x, case.shift), x, grad)
    expected = reference.circular_shift(reference.as_numpy(grad), (-case.shift).tolist())
    assert np.array_equal(reference.as_numpy(actual), expected)


@given(cases())
def test_circular_shifts_add_and_can_be_undone(case):
    twice = ops.circular_shift(case.moved, case.shift)
    assert torch.equal(twice, ops.circular_shift(case.x, 2 * case.shift))
    assert torch.equal(ops.circular_shift(case.moved, -case.shift), case.x)


@given(cases())
def test_one_shift_for_all_samples_equals_that_shift_for_each(case):
    shift = tuple(case.shift[0].tolist())
    expected = ops.circular_shift(case.x, case.shift[:1].expand(len(case.x), -1))
    assert torch.equal(ops.circular_shift(case.x, shift), expected)


def test_control_shifts_that_lose_content_cannot_be_undone():
    x = distinct_map(1, 1, 4, 4)
    there, _ = ops.zero_fill_shift(x, (1, 0))
    back, _ = ops.zero_fill_shift(there, (-1, 0))
    assert not torch.equal(back, x)


def test_control_crops_at_different_places_hold_different_content():
    x = distinct_map(1, 1, 6, 6)
    first, second = (ops.crop_shift(x, (0, dx), (4, 4)) for dx in (0, 1))
    assert not torch.equal(first.flatten().sort().values, second.flatten().sort().values)


def test_circular_shift_keeps_the_memory_format():
    x = laid_out(random_map(2, 3, 4, 6), channels_last=True)
    moved = ops.circular_shift(x, (1, 2))
    assert moved.is_contiguous(memory_format=torch.channels_last)


def test_crop_shift_cuts_a_window_for_each_sample():
    x = distinct_map(3, 2, 6, 7)
    shift = torch.tensor([[0, 0], [2, 1], [1, 3]])
    expected = [x[n, :, dy : dy + 4, dx : dx + 4] for n, (dy, dx) in enumerate(shift.tolist())]
    assert torch.equal(ops.crop_shift(x, shift, (4, 4)), torch.stack(expected))
    assert torch.equal(ops.crop_shift(x, (2, 3), (4, 4)), x[:, :, 2:, 3:])


@pytest.mark.parametrize("shift", [(0, 0), (1, -2), (-3, 2), (9, 0)])
def test_zero_fill_shift_moves_zeros_in_and_says_where(shift):
    x = distinct_map(2, 3, 4, 5)
    moved, mask = ops.zero_fill_shift(x, shift)
    source = [
        [position - d for position in range(size)] for d, size in zip(shift, (4, 5), strict=True)
    ]
    for i, row in enumerate(source[0]):
        for j, column in enumerate(source[1]):
            inside = 0 <= row < 4 and 0 <= column < 5
            expected = x[:, :, row, column] if inside else torch.zeros_like(x[:, :, 0, 0])
            assert torch.equal(moved[:, :, i, j], expected)
            assert (mask[:, 0, i, j] == inside).all()
    assert mask.shape == (2, 1, 4, 5)


@pytest.mark.parametrize(
    "shift_by",
    [
        ops.circular_shift,
        ops.zero_fill_shift,
        lambda x, shift: ops.crop_shift(x, shift, (2, 2)),
    ],
    ids=["circular_shift", "zero_fill_shift", "crop_shift"],
)
def test_a_shift_is_one_integer_per_axis(shift_by):
    x = torch.zeros(2, 1, 4, 4)
    for shift in [(1,), (1, 2, 3), torch.zeros(3, 2, dtype=torch.int64), torch.tensor(1)]:
        with pytest.raises(ValueError, match="_shift: shift must have one value per spatial axis"):
            shift_by(x, shift)
    with pytest.raises(TypeError, match="_shift: shift must be made of whole pixels"):
        shift_by(x, (0.5, 1.0))


@pytest.mark.parametrize("shift", [(0, 3), (-1, 0)])
def test_a_crop_must_lie_inside(shift):
    with pytest.raises(ValueError, match="crop_shift: the window must lie inside the image of 4x4"):
        ops.crop_shift(torch.zeros(2, 1, 4, 4), shift, (2, 2))


def test_a_window_must_have_one_size_per_axis():
    with pytest.raises(ValueError, match="crop_shift: size must have one value per spatial axis"):
        ops.crop_shift(torch.ones(1, 1, 4, 4), (0, 0), (2,))


def test_a_crop_that_cannot_look_at_its_shifts_takes_the_nearest_window_inside():
    x = distinct_map(1, 1, 6, 6)
    shifts = torch.tensor([[[9, -1]], [[1, 1]]])
    crops = torch.vmap(lambda shift: ops.crop_shift(x, shift, (4, 4)))(shifts)
    assert torch.equal(crops[0], x[:, :, 2:, :4])
    assert torch.equal(crops[1], x[:, :, 1:5, 1:5])
