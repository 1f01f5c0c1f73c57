import pytest
import torch

from shiftproof import nn

STRIDED = ["SelectPhase", "PolyphaseDownsample", "PolyphaseUpsample", "AlignPhase", "BlurPool"]


def build(name, num_dims, stride):
    return getattr(nn, f"{name}{num_dims}d")(stride=stride)


@pytest.mark.parametrize("num_dims", [1, 2, 3])
@pytest.mark.parametrize("name", STRIDED)
def test_a_stride_is_positive_and_one_per_axis(name, num_dims):
    for stride in (0, (2,) * (num_dims + 1), (-1,) * num_dims):
        with pytest.raises(ValueError, match=f"{name}{num_dims}d: stride must be one integer >= 1"):
            build(name, num_dims, stride)


@pytest.mark.parametrize("name", STRIDED)
def test_a_stride_is_made_of_integers(name):
    for stride in (2.0, (1.5, 2)):
        with pytest.raises(TypeError, match=f"{name}2d: stride must be made of integers"):
            build(name, 2, stride)


@pytest.mark.parametrize("layer", [nn.LowPass2d, nn.BlurPool2d])
def test_a_kernel_has_a_tap(layer):
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        layer(0)


@pytest.mark.parametrize(
    ("layer", "arguments"), [(nn.LowPass2d, (3,)), (nn.BlurPool2d, (3, 2)), (nn.MaxPool2d, (2,))]
)
def test_a_padding_mode_is_known(layer, arguments):
    message = f"{layer.__name__}: padding_mode must be one of circular, zeros, reflect, got 'same'"
    with pytest.raises(ValueError, match=message):
        layer(*arguments, padding_mode="same")


@pytest.mark.parametrize(
    "layer",
    [
        nn.SelectPhase2d(),
        nn.PolyphaseDownsample2d(),
        nn.AlignPhase2d(),
        nn.LowPass2d(3),
        nn.BlurPool2d(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_takes_maps_of_its_own_number_of_axes(layer):
    for sizes in [(4,), (4, 4, 4)]:
        with pytest.raises(ValueError, match=r"must (be|have) one"):
            layer(torch.zeros(1, 1, *sizes))


def test_upsampling_takes_maps_of_its_own_number_of_axes_and_integer_phases():
    up = nn.PolyphaseUpsample2d()
    with pytest.raises(ValueError, match="place_phase: stride must be one integer"):
        up(torch.zeros(1, 1, 4), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"place_phase: phase must have shape \(1,\)"):
        up(torch.zeros(1, 1, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="place_phase: phase must be made of integers"):
        up(torch.zeros(1, 1, 4, 4), torch.tensor([0.0]))


@pytest.mark.parametrize(
    "layer",
    [nn.SelectPhase2d(2), nn.PolyphaseDownsample2d(2), nn.AlignPhase2d(2)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_stride_must_divide_the_map(layer):
    with pytest.raises(ValueError, match="must be a multiple of stride=2, got 7x7"):
        layer(torch.zeros(1, 1, 7, 7))
