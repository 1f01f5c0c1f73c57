"""What the placements have in common, and the choice that sets them apart."""

import pytest
import torch
from model_samples import TRUNKS, build, noise, photographs, relative_difference

from shiftproof.nn import FirstPhase

# A filter and a stride in one pass, or one after the other.
ROUNDING = 1e-5
# Another choice of pixels is another network.
DIFFERENT = 1e-3


@torch.no_grad()
def logits(name, weights_of=None, **options):
    model = build(name, **options).eval()
    if weights_of is not None:
        model.load_state_dict(build(weights_of).state_dict(), strict=True)
    return model(photographs(2 * model.total_stride, 3 * model.total_stride))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_all_placements_have_the_same_state_dict(trunk):
    expected = [(key, value.shape) for key, value in build(trunk).state_dict().items()]
    for placement in ("lpf1", "lpf7", "aps1", "aps7", "pa"):
        state = build(f"{trunk}_{placement}").state_dict()
        assert [(key, value.shape) for key, value in state.items()] == expected


@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_aligned_placement_at_phase_0_is_the_plain_network(trunk, padding_mode):
    expected = logits(trunk, padding_mode=padding_mode)
    options = {"weights_of": trunk, "padding_mode": padding_mode}
    assert torch.equal(logits(f"{trunk}_pa", selector=FirstPhase(), **options), expected)
    assert relative_difference(logits(f"{trunk}_pa", **options), expected) > DIFFERENT


@pytest.mark.parametrize("padding_mode", ["circular", "zeros"])
@pytest.mark.parametrize("size", [1, 3, 6])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_paper_placement_at_phase_0_is_the_lowpass_network(trunk, size, padding_mode):
    expected = logits(f"{trunk}_lpf{size}", padding_mode=padding_mode)
    options = {"weights_of": trunk, "padding_mode": padding_mode}
    first = logits(f"{trunk}_aps{size}", selector=FirstPhase(), **options)
    assert relative_difference(first, expected) < ROUNDING
    assert relative_difference(logits(f"{trunk}_aps{size}", **options), expected) > DIFFERENT


@torch.no_grad()
def test_cifar_trunks_stride_alike_at_phase_0_with_and_without_pools():
    # There the strided convolution and a stride behind it keep the same pixels.
    expected = logits("cifar_resnet20")
    assert relative_difference(logits("cifar_resnet20_lpf1"), expected) > DIFFERENT


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
