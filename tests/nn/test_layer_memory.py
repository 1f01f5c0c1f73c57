"""Layers whose kernel no checkpoint holds, built without memory and given it later."""

import copy

import pytest
import torch

from maps import random_map
from shiftproof import create_model, nn


def networks(name):
    """A network, its input, and the same one built on the meta device."""
    torch.manual_seed(0)
    built = create_model(name, num_classes=3).eval()
    with torch.device("meta"):
        empty = create_model(name, num_classes=3).eval()
    return built, empty, random_map(1, 3, 32, 32)


def spoiled(empty):
    """With memory of its own, in which there is anything but the kernels."""
    empty.to_empty(device="cpu")
    for parameter in empty.parameters():
        parameter.data.fill_(7)
    return empty


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet18_lpf5", "resnet18_pa"])
def test_a_network_built_on_meta_computes_the_same_bits(name):
    built, empty, x = networks(name)
    spoiled(empty).load_state_dict(built.state_dict())
    assert torch.equal(empty(x), built(x))
    assert list(empty.state_dict()) == list(built.state_dict())


@pytest.mark.parametrize("late", [False, True])
def test_a_network_on_meta_takes_assigned_weights(late):
    built, empty, x = networks("resnet18_aps3")
    if late:
        empty = copy.deepcopy(built).to("meta")
    empty.load_state_dict(built.state_dict(), assign=True)
    assert torch.equal(empty(x), built(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize(
    "build", [lambda: nn.LowPass1d(4), lambda: nn.LowPass3d(3), lambda: nn.BlurPool2d(5)]
)
def test_new_memory_holds_the_kernel(build, dtype, monkeypatch):
    whole = build().to(dtype)
    monkeypatch.setattr(torch, "empty_like", lambda x, **to: torch.full_like(x, 9.0, **to))
    for layer in (build().to(dtype), build().to("meta").to(dtype)):
        emptied = layer.to_empty(device="cpu")
        assert emptied is layer
        assert emptied.kernel.dtype == dtype
        assert torch.equal(emptied.kernel, whole.kernel)


def test_a_convolution_can_skip_its_initialisation():
    conv = torch.nn.utils.skip_init(nn.Conv2d, 2, 3, 3, padding=1, device="cpu")
    assert conv.weight.device.type == "cpu"


def test_a_layer_on_meta_still_tells_shapes():
    with torch.device("meta"):
        layer, x = nn.BlurPool2d(3), torch.zeros(2, 3, 8, 8)
    assert layer(x).is_meta
    assert layer(x).shape == (2, 3, 4, 4)


def test_a_kernel_of_somebody_else_moves_along():
    layer = nn.LowPass2d(3)
    layer.kernel = torch.full((3, 3), 0.1)
    assert torch.equal(layer.double().kernel, torch.full((3, 3), 0.1).double())
    layer.reset_parameters()
    assert torch.equal(layer.kernel, nn.LowPass2d(3).double().kernel)


def test_moving_a_layer_nowhere_keeps_its_memory():
    layer = nn.LowPass2d(3)
    kernel = layer.kernel
    assert layer.float().kernel is kernel
    assert kernel._version == 0
    assert layer.share_memory().kernel.is_shared()
