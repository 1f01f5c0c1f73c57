import pytest
import torch
from model_samples import ZOO, build, photographs, random_shifts, relative_difference

from shiftproof.nn import FirstPhase, LargestNorm, LargestValue, SmallestNorm
from shiftproof.ops import circular_shift

# Rounding: the order of summation in the average pool moves with the shift.
ROUNDING = 1e-4
ROUNDING_FLOAT64 = 1e-10
# What every network that does not choose its phase exceeds by far.
VARIANT = 1e-3

NUM_SHIFTS = 20


@torch.no_grad()
def worst_difference(model, *, num_shifts=NUM_SHIFTS, size=None, dtype=torch.float32):
    """Largest relative difference of logits between photographs and their shifted copies."""
    height, width = size or (2 * model.total_stride, 3 * model.total_stride)
    model = model.eval().to(dtype)
    images = photographs(height, width).to(dtype)
    expected = model(images)
    return max(
        relative_difference(model(circular_shift(images, shift)), expected)
        for shift in random_shifts(num_shifts, len(images))
    )


@pytest.mark.parametrize("name", ZOO)
def test_logits_under_shifts(name):
    model = build(name)
    adaptive = "_aps" in name or name.endswith("_pa")
    assert model.is_shift_invariant == adaptive
    worst = worst_difference(model)
    assert worst < ROUNDING if adaptive else worst > VARIANT


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet18_pa", "cifar_resnet50_aps1"])
def test_float64(name):
    assert worst_difference(build(name), num_shifts=5, dtype=torch.float64) < ROUNDING_FLOAT64


@pytest.mark.parametrize("name", ["resnet18_aps3", "resnet18_pa", "cifar_resnet50_pa"])
def test_channels_last(name):
    model = build(name).to(memory_format=torch.channels_last).eval()
    images = photographs(2 * model.total_stride, 3 * model.total_stride)
    images = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(images)
        for shift in random_shifts(5, len(images)):
            moved = circular_shift(images, shift)
            assert moved.is_contiguous(memory_format=torch.channels_last)
            assert relative_difference(model(moved), expected) < ROUNDING


@pytest.mark.parametrize(
    "name", ["cifar_resnet20_aps7", "cifar_resnet20_pa", "resnet18_aps6", "resnet18_pa"]
)
def test_smallest_size_where_filters_are_wider_than_the_map(name):
    model = build(name)
    size = (model.total_stride, model.total_stride)
    assert worst_difference(model, num_shifts=5, size=size) < ROUNDING


@pytest.mark.parametrize("name", ["cifar_resnet20_aps3", "cifar_resnet20_pa"])
@pytest.mark.parametrize(
    "selector",
    [LargestNorm(1), LargestNorm(torch.inf), SmallestNorm(2), SmallestNorm(1), LargestValue()],
    ids=lambda selector: f"{selector}",
)
def test_every_selector(name, selector):
    model = build(name, selector=selector)
    assert model.is_shift_invariant
    assert worst_difference(model, num_shifts=5, size=(16, 24)) < ROUNDING


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
def test_options_that_give_invariance_up(name, options):
    model = build(name, **options)
    assert not model.is_shift_invariant
    # Reflection needs maps wider than its padding.
    size = (32, 48) if model.total_stride < 16 else (128, 128)
    assert worst_difference(model, num_shifts=5, size=size) > VARIANT
