"""What the placements have in common, and the choice that sets them apart."""

import pytest
import torch
from model_samples import (
    DIFFERENT,
    EVERY_TRUNK,
    ROUNDING,
    build,
    noise,
    photographs,
    relative_difference,
)

from shiftproof.nn import FirstPhase


@torch.no_grad()
def logits(name, **options):
    # Weights are drawn in the order of the layers, so that all placements get the same.
    model = build(name, **options).eval()
    return model(photographs(model))


@pytest.mark.parametrize("trunk", EVERY_TRUNK)
def test_all_placements_have_the_same_state_dict(trunk):
    expected = [(key, value.shape) for key, value in build(trunk).state_dict().items()]
    for placement in ("lpf1", "lpf7", "aps1", "aps7", "pa"):
        state = build(f"{trunk}_{placement}").state_dict()
        assert [(key, value.shape) for key, value in state.items()] == expected


@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
@pytest.mark.parametrize("trunk", EVERY_TRUNK)
def test_aligned_placement_at_phase_0_is_the_plain_network(trunk, padding_mode):
    expected = logits(trunk, padding_mode=padding_mode)
    first = logits(f"{trunk}_pa", selector=FirstPhase(), padding_mode=padding_mode)
    # A 1 x 1 convolution of the kept pixels and one with a stride are different kernels of oneDNN.
    assert relative_difference(first, expected) < ROUNDING
    chosen = logits(f"{trunk}_pa", padding_mode=padding_mode)
    assert relative_difference(chosen, expected) > DIFFERENT


@pytest.mark.parametrize(
    ("size", "padding_mode"),
    [(1, "circular"), (3, "circular"), (6, "circular"), (3, "zeros")],
)
@pytest.mark.parametrize("trunk", EVERY_TRUNK)
def test_paper_placement_at_phase_0_is_the_lowpass_network(trunk, size, padding_mode):
    expected = logits(f"{trunk}_lpf{size}", padding_mode=padding_mode)
    first = logits(f"{trunk}_aps{size}", selector=FirstPhase(), padding_mode=padding_mode)
    assert relative_difference(first, expected) < ROUNDING
    chosen = logits(f"{trunk}_aps{size}", padding_mode=padding_mode)
    assert relative_difference(chosen, expected) > DIFFERENT


@pytest.mark.parametrize("trunk", ["cifar_resnet20", "cifar_resnet50"])
def test_a_strided_convolution_keeps_what_a_stride_behind_it_keeps(trunk):
    assert relative_difference(logits(f"{trunk}_lpf1"), logits(trunk)) < ROUNDING


def test_the_stem_of_the_paper_is_another():
    assert relative_difference(logits("resnet18_lpf1"), logits("resnet18")) > DIFFERENT


@pytest.mark.parametrize("trunk", ["cifar_resnet20", "resnet18"])
def test_scored_map(trunk):
    before = {size: logits(f"{trunk}_aps{size}", score_before_lowpass=True) for size in (1, 3)}
    after = {size: logits(f"{trunk}_aps{size}", score_before_lowpass=False) for size in (1, 3)}
    assert torch.equal(before[1], after[1])
    assert relative_difference(before[3], after[3]) > DIFFERENT
    default = before if trunk.startswith("cifar") else after
    assert torch.equal(logits(f"{trunk}_aps3"), default[3])


@torch.no_grad()
def test_pool_only_keeps_the_stride_of_the_first_convolution():
    model = build("resnet18_aps3", pool_only=True).eval()
    assert model.conv1.stride == (2, 2)
    assert model.total_stride == 32
    assert model(noise(1, 3, 64)).shape == (1, 1000)
    assert build("resnet18_aps3").conv1.stride == (1, 1)
