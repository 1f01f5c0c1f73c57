import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from maps import distinct_map
from shiftproof import nn

# Values a whole number apart, so that no difference quotient can change a choice.
LAYERS = [
    nn.PolyphaseDownsample2d(2),
    nn.PolyphaseDownsample2d((1, 2), nn.SmallestNorm(1)),
    nn.PolyphaseDownsample2d(2, nn.LargestValue(), nn.LowPass2d(3)),
    nn.AlignPhase2d(2),
    nn.LowPass2d(4, "reflect"),
    nn.BlurPool2d(3, 2),
    nn.MaxPool2d(3, 1, (1, 1)),
]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by forward mode itself
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_derivatives_agree_with_differences(layer):
    x = distinct_map(2, 2, 4, 4).requires_grad_()
    assert gradcheck(layer, x, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(layer, x, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_derivatives_of_upsampling_agree_with_differences():
    up, phase = nn.PolyphaseUpsample2d(2, nn.LowPass2d(3)), torch.tensor([1, 2])
    y = distinct_map(2, 2, 2, 2).requires_grad_()
    assert gradcheck(lambda y: up(y, phase), y, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(lambda y: up(y, phase), y, fast_mode=True)
