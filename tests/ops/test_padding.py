import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import reference
from maps import cases, distinct_map, laid_out, random_map, whole_map
from shiftproof import ops
from shiftproof.ops.padding import PADDING_MODES


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("sizes", [(5,), (1, 2), (3, 2, 1)])
@pytest.mark.parametrize("width", [0, 1, 3, 7])
def test_padding_matches_the_reference_beyond_the_size_of_the_map(width, sizes, padding_mode):
    x = random_map(2, 2, *sizes)
    before, after = [width] * len(sizes), [width // 2] * len(sizes)
    expected = reference.pad(reference.as_numpy(x), before, after, padding_mode)
    padded = ops.pad(x, before, after, padding_mode)
    np.testing.assert_array_equal(reference.as_numpy(padded), expected, strict=True)


@given(cases(fill=whole_map, dtypes=[torch.float64]), st.sampled_from(PADDING_MODES), st.data())
def test_padding_and_its_gradient_match_the_reference(case, padding_mode, data):
    widths = st.lists(st.integers(0, 3), min_size=len(case.stride), max_size=len(case.stride))
    before, after = data.draw(widths), data.draw(widths)
    x = case.x.requires_grad_()
    padded = ops.pad(x, before, after, padding_mode)
    expected = reference.pad(reference.as_numpy(x), before, after, padding_mode)
    np.testing.assert_array_equal(reference.as_numpy(padded), expected, strict=True)
    grad = whole_map(*padded.shape, seed=1, dtype=torch.float64)
    (actual,) = torch.autograd.grad(padded, x, grad)
    gradient = reference.pad_gradient(reference.as_numpy(grad), before, after, padding_mode)
    np.testing.assert_array_equal(reference.as_numpy(actual), gradient, strict=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by forward mode itself
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("sizes", [(3,), (2, 3), (2, 1, 2)])
@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
def test_derivatives_agree_with_differences(padding_mode, sizes, channels_last):
    x = laid_out(random_map(2, 2, *sizes, dtype=torch.float64), channels_last).requires_grad_()

    def pad(x):
        return ops.pad(x, [1] * len(sizes), [0, 1, 1][: len(sizes)], padding_mode)

    assert gradcheck(pad, x, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(pad, x, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize(
    ("sizes", "layout"),
    [((4, 6), torch.channels_last), ((2, 4, 6), torch.channels_last_3d)],
)
def test_circular_padding_and_its_gradient_keep_the_memory_format(sizes, layout):
    widths = [1] * len(sizes)
    for channels_last, expected in ((True, layout), (False, torch.contiguous_format)):
        x = laid_out(random_map(2, 3, *sizes), channels_last).requires_grad_()
        padded = ops.pad(x, widths, widths, "circular")
        (grad,) = torch.autograd.grad(padded, x, padded.detach())
        assert padded.is_contiguous(memory_format=expected)
        assert grad.is_contiguous(memory_format=expected)


def windows(x, padding_mode):
    return ops.pad(x, (1, 1), (1, 1), padding_mode).unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)


def test_a_shift_of_the_map_shifts_its_circularly_padded_windows(device):
    x, shift = distinct_map(2, 1, 4, 6).to(device), (3, 5)
    moved = windows(ops.circular_shift(x, shift), "circular")
    assert torch.equal(moved, torch.roll(windows(x, "circular"), shift, (2, 3)))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_control_windows_padded_otherwise_do_not_follow_a_shift(padding_mode):
    x, shift = distinct_map(2, 1, 4, 6), (3, 5)
    moved = windows(ops.circular_shift(x, shift), padding_mode)
    assert not torch.equal(moved, torch.roll(windows(x, padding_mode), shift, (2, 3)))


def test_a_padding_mode_is_known():
    message = "pad: padding_mode must be one of circular, zeros, reflect, got 'replicate'"
    with pytest.raises(ValueError, match=message):
        ops.pad(torch.zeros(1, 1, 4, 4), (1, 1), (1, 1), "replicate")


def test_widths_must_be_given_for_each_axis():
    with pytest.raises(ValueError, match="one width per spatial axis, 2 here"):
        ops.pad(torch.ones(1, 1, 4, 4), (1,), (1,), "zeros")
    with pytest.raises(ValueError, match=r"pad: input must be \(N, C, \*spatial\)"):
        ops.pad(torch.ones(4, 4), (1,), (1,), "circular")
