"""Arguments in every form that torch takes, and one line for those that it does not."""

import numpy as np
import pytest
import torch

from maps import distinct_map, random_map
from shiftproof import ops

KERNEL = ops.binomial_kernel(3)
TWO = [2, (2, 2), [2, 2], np.int64(2), np.array([2, 2]), torch.tensor(2), (np.int32(2), 2)]
STRIDED = {
    "split": lambda x, stride: ops.polyphase_split(x, stride),
    "merge": lambda x, stride: ops.polyphase_merge(ops.polyphase_split(x, 2), stride),
    "take": lambda x, stride: ops.take_phase(x, torch.tensor([1, 2]), stride),
    "place": lambda x, stride: ops.place_phase(x, torch.tensor([1, 2]), stride),
    "align": lambda x, stride: ops.align_phase(x, torch.tensor([1, 2]), stride),
    "scores": lambda x, stride: ops.phase_scores(x, stride),
    "largest": lambda x, stride: ops.largest_values(x, stride),
    "first": lambda x, stride: ops.first_phase(x, stride),
    "select": lambda x, stride: ops.select_phase(x, stride),
    "lowpass": lambda x, stride: ops.lowpass(x, KERNEL, stride=stride),
    "index": lambda x, stride: ops.phase_index(torch.tensor([[3, 5]]), stride),
    "shifted": lambda x, stride: ops.shift_phase(3, torch.tensor([[3, 5]]), stride)[1],
}


@pytest.mark.parametrize("operation", STRIDED.values(), ids=STRIDED)
def test_a_stride_is_an_integer_of_any_kind_and_no_truth_value(operation):
    x = random_map(2, 3, 4, 6)
    for stride in TWO:
        assert torch.equal(operation(x, stride), operation(x, (2, 2)))
    for stride in (True, (2, True), np.bool_(True), torch.tensor(True), 2.0, None, "22"):
        with pytest.raises(TypeError, match="stride must be made of integers"):
            operation(x, stride)


@pytest.mark.parametrize("move", [ops.take_phase, ops.place_phase, ops.align_phase])
def test_a_phase_is_one_for_all_or_one_for_each(move):
    x = random_map(2, 3, 4, 6)
    expected = move(x, torch.tensor([3, 3]), 2)
    for phase in (3, np.int64(3), torch.tensor(3), [3, 3], np.array([3, 3]), np.uint8(7)):
        assert torch.equal(move(x, phase, 2), expected)
    for phase in (True, 3.0, None, "3", [True, 1], torch.tensor(True), np.array([1.0, 2.0])):
        with pytest.raises(TypeError, match=f"{move.__name__}: phase must be made of integers"):
            move(x, phase, 2)
    with pytest.raises(ValueError, match=rf"{move.__name__}: phase must have shape \(2,\)"):
        move(x, [1, 2, 3], 2)


def test_phases_count_in_plain_integers():
    assert ops.phase_offsets(3, (2, 2)).tolist() == [[1, 1]]
    assert ops.phase_offsets([0, 3], np.array([2, 2])).tolist() == [[0, 0], [1, 1]]
    with pytest.raises(TypeError, match="phase_offsets: stride must have one integer per spatial"):
        ops.phase_offsets(torch.tensor([0]), 2)
    for phase in (True, 1.0, torch.tensor([0.5])):
        with pytest.raises(TypeError, match="phase_offsets: phase must be made of integers"):
            ops.phase_offsets(phase, (2, 2))
    with pytest.raises(TypeError, match="phase_index: offsets must be a tensor of integers"):
        ops.phase_index(torch.tensor([[0.5, 1.0]]), 2)
    with pytest.raises(ValueError, match=r"shift_phase: shift must have shape \(N, D\)"):
        ops.shift_phase(1, torch.tensor([1, 2]), 2)


SHIFTS = [
    ops.circular_shift,
    ops.zero_fill_shift,
    lambda x, shift: ops.crop_shift(x, shift, np.array([2, 3])),
]


@pytest.mark.parametrize("shift_by", SHIFTS, ids=["circular", "zero_fill", "crop"])
def test_a_shift_is_an_integer_of_any_kind_and_no_truth_value(shift_by):
    x = distinct_map(2, 1, 4, 6)
    expected = shift_by(x, (1, 2))
    for shift in ([1, 2], np.array([1, 2]), (np.int64(1), torch.tensor(2)), [[1, 2], [1, 2]]):
        assert all(map(torch.equal, shift_by(x, shift), expected))
    for shift in ((True, False), (1, True), torch.ones(2, dtype=torch.bool), None, "12"):
        with pytest.raises(TypeError, match="_shift: shift must be made of whole pixels"):
            shift_by(x, shift)
    with pytest.raises(ValueError, match=r"_shift: input must be \(N, C, \*spatial\)"):
        shift_by(torch.zeros(2, 3), ())


def test_a_shift_of_one_axis_is_one_integer():
    x = distinct_map(1, 1, 5)
    assert torch.equal(ops.circular_shift(x, 2), x.roll(2, 2))
    assert torch.equal(ops.circular_shift(x, np.int64(-1)), x.roll(-1, 2))


@pytest.mark.parametrize("sizes", [(7,), (5, 6), (4, 5, 6)])
@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "reflect"])
@pytest.mark.parametrize("widths", [(-1, 2), (2, -1), (-1, -2), (0, -3)])
def test_a_negative_border_is_torch_s(widths, padding_mode, sizes):
    x, (before, after) = distinct_map(2, 2, *sizes).requires_grad_(), widths
    mode = "constant" if padding_mode == "zeros" else padding_mode
    expected = torch.nn.functional.pad(x, widths * len(sizes), mode)
    padded = ops.pad(x, before, np.int64(after), padding_mode)
    assert torch.equal(padded, expected)
    grad = random_map(*padded.shape, dtype=torch.float64)
    assert torch.allclose(*(torch.autograd.grad(y, x, grad)[0] for y in (padded, expected)))


def test_an_aligned_map_with_a_negative_border():
    x, phase = distinct_map(2, 2, 4, 6), torch.tensor([1, 2])
    expected = ops.pad(ops.align_phase(x, phase, 2), (-1, 1), (2, -2), "circular")
    assert torch.equal(ops.align_phase(x, phase, 2, (-1, 1), (2, -2)), expected)


def test_of_a_map_a_pixel_must_stay():
    with pytest.raises(ValueError, match="pad: a pixel of each axis must stay"):
        ops.pad(torch.zeros(1, 1, 4, 4), (-2, 0), (-2, 1), "circular")
    for width in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="pad: before must be made of integers"):
            ops.pad(torch.zeros(1, 1, 4, 4), width, 1, "circular")


def test_sizes_of_kernels_are_integers_of_any_kind():
    assert torch.equal(ops.binomial_kernel(np.int64(3), torch.tensor(2)), KERNEL)
    for size in (True, 2.5, "3", (3, 3)):
        with pytest.raises(TypeError, match="binomial_kernel: kernel_size must be made of integ"):
            ops.binomial_kernel(size)


def test_what_is_no_map_is_refused_in_one_line():
    for operation in (ops.global_mean, lambda x: ops.select_phase(x, 2), SHIFTS[0]):
        with pytest.raises(TypeError, match="input must be a tensor, got ndarray"):
            operation(np.zeros((1, 1, 4)), *([(1,)] if operation is SHIFTS[0] else []))
    with pytest.raises(ValueError, match="polyphase_merge: components must be"):
        ops.polyphase_merge(torch.zeros(2, 3), 2)
    with pytest.raises(ValueError, match="select_phase: there must be at least one map"):
        ops.select_phase([], 2)
    with pytest.raises(TypeError, match="select_phase: scores must be a tensor"):
        ops.select_phase(torch.zeros(1, 1, 4), 2, [[1, 0]])
    with pytest.raises(ValueError, match="phase_scores: norm must be 1, 2 or infinity, got True"):
        ops.phase_scores(torch.zeros(1, 1, 4), 2, True)


def test_a_map_without_its_batch_axis_is_refused_with_the_way_out():
    x = torch.zeros(3, 4, 4)
    for operation in (
        lambda: ops.lowpass(x, KERNEL),
        lambda: ops.select_phase(x, (2, 2)),
        lambda: ops.take_phase(x, 0, (2, 2)),
    ):
        with pytest.raises(ValueError, match=r"add the batch axis with unsqueeze\(0\)"):
            operation()
