import copy
import io

import pytest
import torch
from model_samples import (
    EVERY_TRUNK,
    PLACEMENTS,
    ROUNDING,
    ZOO,
    build,
    noise,
    photographs,
    relative_difference,
)


@pytest.fixture(scope="module", params=ZOO)
def model(request):
    return build(request.param, num_classes=7)


def test_backward_reaches_every_parameter(model):
    logits = model.train()(photographs(model))
    assert logits.shape == (4, 7)
    model.zero_grad()
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_state_dict_round_trip(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    other = copy.deepcopy(model)
    for tensor in other.state_dict().values():
        tensor.add_(1)
    images = photographs(model)
    expected = model.eval()(images)
    assert not torch.equal(other.eval()(images), expected)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(other(images), expected)


@torch.no_grad()
def test_logits_do_not_depend_on_neighbours(model):
    images = photographs(model)
    others = images.clone()
    others[1:] = 1 - 2 * images[1:].flip(0, 3)
    model.eval()
    assert torch.equal(model(others)[0], model(images)[0])
    # The control: in training mode batch norm looks at all images.
    control = copy.deepcopy(model).train()
    assert not torch.equal(control(others)[0], control(images)[0])


@torch.no_grad()
def test_size_that_the_strides_do_not_divide(model):
    model.eval()
    for height in (3 * model.total_stride // 2, 2 * model.total_stride + 1):
        images = noise(1, 3, height, 2 * model.total_stride)
        if model.size_multiple > 1:
            with pytest.raises(ValueError, match=r"must be multiples of \d+, got \d+x\d+: "):
                model(images)
        else:
            assert model(images).shape == (1, 7)


@torch.no_grad()
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("trunk", ["cifar_resnet20", "resnet18"])
def test_memory_format_does_not_change_logits(trunk, placement):
    model = build(trunk + placement).eval()
    images = photographs(model)
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    actual = model(images.to(memory_format=torch.channels_last))
    assert relative_difference(actual, expected) < ROUNDING


@torch.no_grad()
@pytest.mark.parametrize("in_channels", [1, 5])
@pytest.mark.parametrize("name", ["cifar_resnet20_aps3", "resnet18_pa"])
def test_in_channels(name, in_channels):
    model = build(name, in_channels=in_channels)
    logits = model(noise(2, in_channels, 2 * model.total_stride))
    assert logits.shape == (2, model.fc.out_features)


@pytest.mark.parametrize(
    ("trunk", "num_classes", "total_stride"),
    [
        ("resnet18", 1000, 32),
        ("resnet50", 1000, 32),
        ("cifar_resnet20", 10, 4),
        ("cifar_resnet50", 10, 8),
    ],
)
def test_defaults_of_a_trunk(trunk, num_classes, total_stride):
    for placement in ("", "_aps3", "_pa"):
        model = build(trunk + placement)
        assert model.fc.out_features == num_classes
        assert model.total_stride == total_stride


@torch.no_grad()
@pytest.mark.parametrize("trunk", EVERY_TRUNK)
def test_total_stride_is_the_ratio_of_sizes(trunk):
    for placement in ("", "_lpf3", "_aps3", "_pa"):
        model = build(trunk + placement).eval()
        sizes = []
        model.avgpool.register_forward_pre_hook(
            lambda _, inputs, sizes=sizes: sizes.append(inputs[0].shape[2:])
        )
        model(noise(1, 3, 2 * model.total_stride, 3 * model.total_stride))
        assert sizes == [(2, 3)]
