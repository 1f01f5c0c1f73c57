import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from maps import cases, distinct_map, laid_out, num_phases, random_map, whole_map
from shiftproof import ops


def assert_same(actual, expected):
    np.testing.assert_array_equal(reference.as_numpy(actual), expected, strict=True)


@given(cases())
def test_moves_match_the_reference(case):
    x, stride, phase = case.x, case.stride, case.phase
    numbers, phases = reference.as_numpy(x), phase.tolist()
    assert_same(ops.polyphase_split(x, stride), reference.split(numbers, stride))
    assert_same(ops.take_phase(x, phase, stride), reference.take(numbers, phases, stride))
    assert_same(ops.place_phase(x, phase, stride), reference.place(numbers, phases, stride))
    assert_same(ops.align_phase(x, phase, stride), reference.align(numbers, phases, stride))
    components = ops.polyphase_split(x, stride)
    merged = reference.merge(reference.as_numpy(components), stride)
    assert_same(ops.polyphase_merge(components, stride), merged)


@given(cases())
def test_gradients_match_the_reference(case):
    stride, phase, phases = case.stride, case.phase, case.phase.tolist()
    x = case.x.requires_grad_()

    def check(move, adjoint):
        y = move(x)
        grad = random_map(*y.shape, seed=1, dtype=x.dtype)
        (actual,) = torch.autograd.grad(y, x, grad)
        assert_same(actual, adjoint(reference.as_numpy(grad)))

    check(lambda x: ops.polyphase_split(x, stride), lambda g: reference.merge(g, stride))
    check(lambda x: ops.take_phase(x, phase, stride), lambda g: reference.place(g, phases, stride))
    check(lambda y: ops.place_phase(y, phase, stride), lambda g: reference.take(g, phases, stride))
    check(
        lambda x: ops.align_phase(x, phase, stride),
        lambda g: reference.align_gradient(g, phases, stride),
    )


@given(cases())
def test_a_shift_permutes_and_shifts_the_components(device, case):
    case = case.to(device)
    before = ops.polyphase_split(case.x, case.stride)
    after = ops.polyphase_split(case.moved, case.stride)
    for p in range(num_phases(case.stride)):
        q, steps = ops.shift_phase(torch.full_like(case.phase, p), case.shift, case.stride)
        arrived = after[torch.arange(len(q)), :, q]
        assert torch.equal(arrived, ops.circular_shift(before[:, :, p], steps))


@given(cases())
def test_take_is_equivariant(device, case):
    case = case.to(device)
    q, steps = ops.shift_phase(case.phase, case.shift, case.stride)
    kept = ops.take_phase(case.x, case.phase, case.stride)
    assert torch.equal(ops.take_phase(case.moved, q, case.stride), ops.circular_shift(kept, steps))


@given(cases())
def test_place_is_equivariant(device, case):
    case = case.to(device)
    q, steps = ops.shift_phase(case.phase, case.shift, case.stride)
    y = ops.take_phase(case.x, case.phase, case.stride)
    placed = ops.place_phase(y, case.phase, case.stride)
    assert torch.equal(
        ops.place_phase(ops.circular_shift(y, steps), q, case.stride),
        ops.circular_shift(placed, case.shift),
    )


@given(cases())
def test_align_is_equivariant_by_multiples_of_the_stride(device, case):
    case = case.to(device)
    q, steps = ops.shift_phase(case.phase, case.shift, case.stride)
    aligned = ops.align_phase(case.x, case.phase, case.stride)
    assert torch.equal(
        ops.align_phase(case.moved, q, case.stride),
        ops.circular_shift(aligned, steps * torch.tensor(case.stride, device=device)),
    )


def test_control_the_same_phase_after_a_shift_keeps_other_content():
    x, phase = distinct_map(1, 1, 4, 4), torch.tensor([0])
    moved = ops.circular_shift(x, (1, 0))
    kept, other = ops.take_phase(x, phase, 2), ops.take_phase(moved, phase, 2)
    assert not torch.equal(kept.flatten().sort().values, other.flatten().sort().values)


def test_control_a_shift_that_loses_content_does_not_permute_the_components():
    x, shift = distinct_map(1, 1, 4, 4), torch.tensor([[1, 0]])
    moved, _ = ops.zero_fill_shift(x, shift)
    q, steps = ops.shift_phase(torch.tensor([2]), shift, (2, 2))
    kept = ops.take_phase(x, torch.tensor([2]), 2)
    assert not torch.equal(ops.take_phase(moved, q, 2), ops.circular_shift(kept, steps))


@given(cases())
def test_merge_inverts_split(device, case):
    case = case.to(device)
    components = ops.polyphase_split(case.x, case.stride)
    assert torch.equal(ops.polyphase_merge(components, case.stride), case.x)


@given(cases())
def test_take_inverts_place(device, case):
    case = case.to(device)
    placed = ops.place_phase(case.x, case.phase, case.stride)
    assert torch.equal(ops.take_phase(placed, case.phase, case.stride), case.x)


@given(cases())
def test_take_is_align_then_stride(device, case):
    case = case.to(device)
    aligned = ops.align_phase(case.x, case.phase, case.stride)
    kept = aligned[(..., *(slice(None, None, step) for step in case.stride))]
    assert torch.equal(ops.take_phase(case.x, case.phase, case.stride), kept)


@given(cases(dtypes=[torch.float64], fill=whole_map))
def test_take_and_place_are_adjoint(device, case):
    case = case.to(device)
    kept = ops.take_phase(case.x, case.phase, case.stride)
    y = whole_map(*kept.shape, seed=1, dtype=torch.float64).to(device)
    placed = ops.place_phase(y, case.phase, case.stride)
    assert (kept * y).sum() == (case.x * placed).sum()


@pytest.mark.parametrize("phase", [[-1, -5], [3, 7], [7, 3 - 4 * 10]])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_phases_count_modulo_their_number(phase, dtype):
    x, third = distinct_map(2, 1, 4, 4), torch.tensor([3, 3])
    phase = torch.tensor(phase, dtype=dtype)
    for move in (ops.take_phase, ops.place_phase, ops.align_phase):
        assert torch.equal(move(x, phase, 2), move(x, third, 2))


@pytest.mark.parametrize("move", [ops.take_phase, ops.place_phase, ops.align_phase])
@pytest.mark.parametrize(
    ("sizes", "layout"),
    [((4, 8), torch.channels_last), ((4, 4, 8), torch.channels_last_3d)],
)
def test_moves_and_their_gradients_keep_the_memory_format(move, sizes, layout):
    phase = torch.tensor([1, 3])
    for channels_last, expected in ((True, layout), (False, torch.contiguous_format)):
        x = laid_out(random_map(2, 3, *sizes), channels_last).requires_grad_()
        y = move(x, phase, 2)
        (grad,) = torch.autograd.grad(y, x, y.detach())
        assert y.is_contiguous(memory_format=expected)
        assert grad.is_contiguous(memory_format=expected)


@given(cases(dtypes=(torch.float64,), fill=whole_map), st.integers(0, 9), st.integers(0, 9))
def test_a_border_of_an_aligned_map_is_circular_padding(device, case, first, last):
    case = case.to(device)
    num_dims = len(case.stride)
    before, after = (first, *[1] * (num_dims - 1)), (0, *[last] * (num_dims - 1))[:num_dims]
    results = []
    for move in (
        lambda x: ops.align_phase(x, case.phase, case.stride, before, after),
        lambda x: ops.pad(ops.align_phase(x, case.phase, case.stride), before, after, "circular"),
    ):
        x = case.x.detach().requires_grad_()
        y = move(x)
        weights = whole_map(*y.shape, dtype=torch.float64).to(device)
        (grad,) = torch.autograd.grad(y, x, weights)
        results.append((y, grad))
    assert all(map(torch.equal, *results))


def test_a_border_has_one_width_per_axis():
    with pytest.raises(ValueError, match="align_phase: before and after must have one width"):
        ops.align_phase(torch.zeros(1, 1, 4, 4), torch.tensor([0]), 2, (1,), (1, 1))


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_maps_take_another_way_to_the_same_result(channels_last):
    x = laid_out(random_map(2, 8, 128, 128), channels_last).requires_grad_()
    kept = ops.take_phase(x, torch.tensor([1, 2]), 2)
    assert torch.equal(kept, torch.stack([x[0, :, ::2, 1::2], x[1, :, 1::2, ::2]]))
    (grad,) = torch.autograd.grad(kept, x, kept.detach())
    assert torch.equal(grad, ops.place_phase(kept, torch.tensor([1, 2]), 2))
    expected = torch.zeros_like(x)
    expected[0, :, ::2, 1::2], expected[1, :, 1::2, ::2] = kept[0], kept[1]
    assert torch.equal(grad, expected)
    assert grad.stride() == x.stride()


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (lambda x, phase: ops.polyphase_split(x, 2), "polyphase_split: each spatial size must be"),
        (lambda x, phase: ops.take_phase(x, phase, 2), "take_phase: each spatial size must be"),
        (lambda x, phase: ops.align_phase(x, phase, 2), "align_phase: each spatial size must be"),
    ],
)
def test_a_stride_must_divide_the_map(move, message):
    with pytest.raises(ValueError, match=f"{message} a multiple of stride=2, got 5x4"):
        move(torch.zeros(1, 1, 5, 4), torch.tensor([0]))


@pytest.mark.parametrize("move", [ops.take_phase, ops.place_phase, ops.align_phase])
def test_a_phase_is_one_integer_per_sample(move):
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=rf"{move.__name__}: phase must have shape \(2,\)"):
        move(x, torch.tensor([0]), 2)
    with pytest.raises(TypeError, match=f"{move.__name__}: phase must be made of integers"):
        move(x, torch.tensor([0.0, 1.0]), 2)


def test_merge_needs_one_component_per_phase():
    with pytest.raises(ValueError, match="polyphase_merge: the number of components must be"):
        ops.polyphase_merge(torch.zeros(1, 1, 3, 2, 2), 2)
