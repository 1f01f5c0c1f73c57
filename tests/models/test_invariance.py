import pytest
import torch
from model_samples import (
    DIFFERENT,
    ROUNDING,
    ROUNDING_FLOAT64,
    ZOO,
    build,
    photographs,
    relative_difference,
)

from shiftproof.nn import FirstPhase, LargestNorm, LargestValue, SmallestNorm
from shiftproof.ops import circular_shift


def random_shifts(count, batch):
    """Shifts of up to a few times the size, another for each image."""
    source = torch.Generator().manual_seed(0)
    return torch.randint(-200, 200, (count, batch, 2), generator=source)


@torch.no_grad()
def worst_difference(model, images):
    """Largest relative difference of logits under twenty shifts, five of each of four images."""
    model.eval()
    expected = model(images)
    moved = [circular_shift(images, shift) for shift in random_shifts(5, len(images))]
    return max(relative_difference(model(other), expected) for other in moved)


@pytest.mark.parametrize("name", ZOO)
def test_logits_under_shifts(device, name):
    model = build(name).to(device)
    adaptive = "_aps" in name or name.endswith("_pa")
    assert model.is_shift_invariant == adaptive
    worst = worst_difference(model, photographs(model).to(device))
    assert worst < ROUNDING if adaptive else worst > DIFFERENT


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet18_pa", "cifar_resnet50_aps1"])
def test_float64(device, name):
    model = build(name).to(device).double()
    assert worst_difference(model, photographs(model).to(device).double()) < ROUNDING_FLOAT64


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet18_pa", "cifar_resnet50_pa"])
def test_channels_last(device, name):
    model = build(name).to(device).to(memory_format=torch.channels_last)
    images = photographs(model).to(device).to(memory_format=torch.channels_last)
    assert circular_shift(images, (1, 2)).is_contiguous(memory_format=torch.channels_last)
    assert worst_difference(model, images) < ROUNDING


@pytest.mark.parametrize(
    "name", ["cifar_resnet20_aps7", "cifar_resnet20_pa", "resnet18_aps6", "resnet18_pa"]
)
def test_smallest_size_where_filters_are_wider_than_the_map(device, name):
    model = build(name).to(device)
    size = model.total_stride
    images = photographs(model).to(device)[:, :, :size, :size]
    assert images.shape[2:] == (size, size)
    assert worst_difference(model, images) < ROUNDING


@pytest.mark.parametrize("name", ["cifar_resnet20_aps3", "cifar_resnet20_pa"])
@pytest.mark.parametrize(
    "selector",
    [LargestNorm(1), LargestNorm(torch.inf), SmallestNorm(2), SmallestNorm(1), LargestValue()],
    ids=str,
)
def test_every_selector(device, name, selector):
    model = build(name, selector=selector).to(device)
    assert model.is_shift_invariant
    assert worst_difference(model, photographs(model).to(device)) < ROUNDING


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18_aps1", {"pool_only": True}),
        ("resnet50_aps3", {"pool_only": True}),
        ("resnet18_aps1", {"padding_mode": "zeros"}),
        ("resnet18_pa", {"padding_mode": "zeros"}),
        ("cifar_resnet20_aps3", {"padding_mode": "zeros"}),
        ("cifar_resnet20_aps3", {"padding_mode": "reflect"}),
        ("cifar_resnet20_pa", {"padding_mode": "reflect"}),
        ("cifar_resnet20_aps3", {"selector": FirstPhase()}),
        ("resnet18_pa", {"selector": FirstPhase()}),
    ],
)
def test_options_that_give_invariance_up(device, name, options):
    model = build(name, **options).to(device)
    assert not model.is_shift_invariant
    assert worst_difference(model, photographs(model).to(device)) > DIFFERENT


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["resnet18_aps3", "resnet18_pa", "cifar_resnet20_aps1", "cifar_resnet20_pa"]
)
def test_no_bit_of_the_logits_changes_in_channels_last(name):
    model = build(name).eval().to(memory_format=torch.channels_last)
    images = photographs(model).contiguous(memory_format=torch.channels_last)
    expected = model(images)
    for shift in random_shifts(5, len(images)):
        assert torch.equal(model(circular_shift(images, shift)), expected)


# Only a network that chooses on the image itself meets all of its symmetry.
@pytest.mark.parametrize("name", ["cifar_resnet20_aps3", "cifar_resnet20_pa", "resnet18_pa"])
def test_mirror_symmetric_and_enlarged_photographs_are_covered(device, name):
    model = build(name).to(device)
    images = photographs(model).to(device)
    mirrored = torch.cat([images, images.flip(3)], 3)
    enlarged = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert worst_difference(model, mirrored) < ROUNDING
    assert worst_difference(model, enlarged) < ROUNDING
