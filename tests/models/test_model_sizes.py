import pytest
import torch

import shiftproof
from shiftproof.models.sizes import describe_misfit


def test_a_network_says_which_sizes_it_accepts():
    assert shiftproof.valid_sizes(shiftproof.create_model("resnet18_aps1"), 90, 130) == [96, 128]
    assert shiftproof.valid_sizes(shiftproof.create_model("cifar_resnet20_pa"), 1, 9) == [4, 8]
    assert shiftproof.valid_sizes(shiftproof.create_model("resnet18_lpf2"), 5, 7) == [5, 6, 7]


@pytest.mark.parametrize("name", ["resnet18_aps1", "resnet18_pa"])
def test_a_size_that_does_not_fit_names_the_stage_and_the_way_out(name):
    model = shiftproof.create_model(name).eval()
    with pytest.raises(ValueError, match="got 112x112: layer4 would see 7x7; use 96x96 or 128x128"):
        model(torch.zeros(1, 3, 112, 112))
    with pytest.raises(ValueError, match="got 64x66: maxpool would see 32x33; use 64x64 or 64x96"):
        model(torch.zeros(1, 3, 64, 66))
    with pytest.raises(ValueError, match="got 32x5: conv1 would see 32x5; use 32x32"):
        model(torch.zeros(1, 3, 32, 5))


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet20_lpf3"])
def test_control_the_others_take_any_size(name):
    model = shiftproof.create_model(name).eval()
    assert model(torch.zeros(1, 3, 13, 10)).shape == (1, 10)


def test_a_size_that_fits_has_no_misfit():
    assert describe_misfit((8, 16), (("a", 2), ("b", 4))) is None
    assert describe_misfit((7, 7), ()) is None


def test_other_modules_are_refused():
    with pytest.raises(TypeError, match="must be a network of the zoo, got Linear"):
        shiftproof.valid_sizes(torch.nn.Linear(1, 1))
