"""Numerical checks of first and second derivatives; exact ones stand beside each operator."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from maps import laid_out, random_map
from shiftproof import ops

PHASE = torch.tensor([1, 2])

MOVES = {
    "polyphase_split": lambda x: ops.polyphase_split(x, 2),
    "polyphase_merge": lambda x: ops.polyphase_merge(ops.polyphase_split(x, 2).flip(2), 2),
    "take_phase": lambda x: ops.take_phase(x, PHASE, 2),
    "place_phase": lambda x: ops.place_phase(x, PHASE, 2),
    "align_phase": lambda x: ops.align_phase(x, PHASE, 2),
    "circular_shift": lambda x: ops.circular_shift(x, (1,) * (x.ndim - 2)),
    "circular_shift of each": lambda x: ops.circular_shift(
        x, torch.tensor([[1] * (x.ndim - 2), [-2] * (x.ndim - 2)])
    ),
    "crop_shift": lambda x: ops.crop_shift(x, (1,) * (x.ndim - 2), (1,) * (x.ndim - 2)),
    "fractional_shift": lambda x: ops.fractional_shift(x, (0.3,) * (x.ndim - 2)),
    "fractional_shift bilinear": lambda x: ops.fractional_shift(
        x, (-0.3,) * (x.ndim - 2), "bilinear"
    ),
    "zero_fill_shift": lambda x: ops.zero_fill_shift(x, (1,) * (x.ndim - 2))[0],
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by forward mode itself
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("sizes", [(2,), (2, 4), (2, 2, 2)])
@pytest.mark.parametrize("name", MOVES)
def test_derivatives_agree_with_differences(name, sizes, channels_last):
    x = laid_out(random_map(2, 2, *sizes, dtype=torch.float64), channels_last).requires_grad_()
    assert gradcheck(MOVES[name], x, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(MOVES[name], x, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("sizes", [(4,), (2, 4), (2, 2, 2)])
@pytest.mark.parametrize(("kernel_size", "options"), [(3, ()), (2, ("reflect", 2))])
def test_derivatives_of_lowpass_agree_with_differences(kernel_size, options, sizes):
    kernel = ops.binomial_kernel(kernel_size, len(sizes))
    x = random_map(1, 2, *sizes, dtype=torch.float64).requires_grad_()
    assert gradcheck(
        lambda x: ops.lowpass(x, kernel, *options), x, check_forward_ad=True, fast_mode=True
    )
    assert gradgradcheck(lambda x: ops.lowpass(x, kernel, *options), x, fast_mode=True)
