import json

import pytest
import torch
from certified import build, noise
from small_networks import Swinlike, Tokens, circular
from torch import nn

import shiftproof.nn
from shiftproof import create_model, ops
from shiftproof.certification import assert_invariant, certify
from shiftproof.nn import GlobalMean, PolyphaseDownsample2d


@pytest.mark.parametrize("name", ["cifar_resnet20_aps1", "cifar_resnet20_pa"])
def test_the_invariant_networks_of_the_zoo_are_exact(name):
    certificate = certify(build(lambda: create_model(name)), noise(2, 3, 16, 16))
    assert certificate.verdict == "exact"
    assert certificate.kind == "invariant"
    assert certificate.own.largest == certificate.own.typical == 0
    assert certificate.float64.largest < 1e-12
    assert certificate.flipped == 0
    assert certificate.num_pairs == 24
    assert certificate.blame is None
    assert certificate.suspects == certificate.notes == ()


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_downsampling_is_exact_for_every_number_of_axes(num_dims):
    down = getattr(shiftproof.nn, f"PolyphaseDownsample{num_dims}d")
    network = nn.Sequential(down(2), nn.ReLU(), down(2), GlobalMean())
    certificate = certify(network, noise(2, 3, *(8,) * num_dims))
    assert certificate.verdict == "exact"
    assert {len(shift) for shift in certificate.shifts} == {num_dims}
    strided = nn.Sequential(getattr(nn, f"MaxPool{num_dims}d")(2), GlobalMean())
    control = certify(strided, noise(2, 3, *(8,) * num_dims))
    assert control.verdict == "not invariant"
    assert control.blame[:2] == ("0", f"MaxPool{num_dims}d")


def test_ordinary_pooling_is_invariant_to_rounding():
    def factory():
        model = create_model("cifar_resnet20_pa")
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        return model

    certificate = certify(build(factory), noise(2, 3, 16, 16))
    assert certificate.verdict == "to rounding"
    assert 0 < certificate.own.largest < 1e-5
    assert certificate.blame is None


@pytest.mark.parametrize(
    ("factory", "channels"), [(lambda: Tokens(positions=False), 2), (lambda: circular(3, 2), 3)]
)
def test_tokens_and_bare_convolutions_pass(factory, channels):
    assert certify(build(factory), noise(2, channels, 16, 16)).verdict != "not invariant"


def test_windows_of_the_whole_map_pass():
    def factory():
        network = Swinlike()
        network.block[1].window_size = 16
        return network

    assert certify(build(factory), noise(2, 2, 16, 16)).verdict != "not invariant"


def test_flipped_predictions_are_counted():
    def corner(x):
        return x[:, :, 0, 0]

    x, shifts = noise(3, 2, 4, 4), [(0, 1), (1, 0), (2, 3), (0, 0)]
    certificate = certify(corner, x, shifts=shifts)
    moved = [corner(ops.circular_shift(x, shift)).argmax(1) for shift in shifts]
    assert certificate.flipped == sum(
        int((labels != corner(x).argmax(1)).sum()) for labels in moved
    )
    assert 0 < certificate.flipped < certificate.num_pairs == 12
    assert certificate.shifts == tuple(shifts)
    assert certify(lambda x: corner(x)[:, :1], x).flipped is None


def test_deviations_are_in_standard_deviations_of_the_output():
    def corner(x):
        return x[:, :, 0, 0]

    x = noise(2, 3, 4, 4).double()
    certificate = certify(corner, x, shifts=torch.tensor([[0, 1], [1, 0]]))
    pairs = torch.cat([(x[:, :, 0, -1] - x[:, :, 0, 0]), (x[:, :, -1, 0] - x[:, :, 0, 0])])
    expected = pairs.abs().amax(1) / corner(x).std(correction=0)
    assert certificate.own.largest == pytest.approx(expected.max().item())
    assert certificate.own.typical == pytest.approx(expected.median().item())
    assert certificate.float64 == certificate.own


def test_the_smallest_gap_of_each_choice_is_reported():
    network = nn.Sequential(PolyphaseDownsample2d(2), nn.Tanh(), PolyphaseDownsample2d(2))
    x = noise(3, 2, 8, 8)
    certificate = certify(network, x)
    assert [choice.module for choice in certificate.choices] == ["0.select", "2.select"]
    best, second = ops.phase_scores(x.double(), 2).topk(2).values.unbind(1)
    expected = ((best - second) / best).min().item()
    assert certificate.choices[0].gap == pytest.approx(expected, rel=1e-5)
    assert certificate.smallest_gap == min(certificate.choices, key=lambda part: part.gap)
    mirrored = torch.cat([x, x.flip(3)], 3)
    assert certify(network, mirrored).choices[0].gap == 0
    assert certify(network, mirrored).verdict == "exact"


def test_the_callers_model_and_input_stay_as_they_are():
    model = build(lambda: nn.Sequential(nn.ReLU(inplace=True), create_model("cifar_resnet20")))
    x = noise(2, 3, 16, 16)
    kept, image = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    model.train()
    model[1].layer1.eval()
    flags = [module.training for module in model.modules()]
    model[1].fc.weight.grad = torch.ones_like(model[1].fc.weight)
    state = torch.get_rng_state()
    assert certify(model, x).blame[:2] == ("1.layer2.0.conv1", "Conv2d")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, image)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert model[1].fc.weight.grad.sum() == model[1].fc.weight.numel()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_any_callable_gets_a_verdict_and_no_blame():
    network = nn.MaxPool2d(2)
    certificate = certify(lambda x: network(x).mean((2, 3)), noise(2, 3, 8, 8))
    assert certificate.verdict == "not invariant"
    assert certificate.blame is None
    assert certificate.notes == ()


def test_a_model_that_refuses_float64_is_measured_in_its_own_precision():
    network = build(lambda: nn.Sequential(circular(2, 4), nn.ReLU(), GlobalMean()))
    certificate = certify(lambda x: network(x), noise(2, 2, 8, 8))
    assert certificate.verdict != "not invariant"
    assert certificate.float64 is None
    assert certificate.notes[0].startswith("not measured in float64, which the model does not")


class Casting(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.conv = circular(2, 4, stride=stride)

    def forward(self, x):
        return self.conv(x).float().mean((2, 3)).to(x.dtype)


def test_a_model_that_computes_in_float32_whatever_its_input_is_measured_as_such():
    certificate = certify(build(lambda: Casting(1)), noise(2, 2, 8, 8))
    assert certificate.verdict == "to rounding"
    assert certificate.float64.tolerance == certificate.own.tolerance == 1e-3
    assert certificate.notes[0].startswith("a part of the model computes in float32")
    control = certify(build(lambda: Casting(2)), noise(2, 2, 8, 8))
    assert control.verdict == "not invariant"
    assert control.blame[:2] == ("conv", "Conv2d")


def test_short_types_are_told_apart_in_float64():
    model = build(lambda: create_model("cifar_resnet20").bfloat16())
    certificate = certify(model, noise(2, 3, 16, 16))
    assert (certificate.own.dtype, certificate.float64.dtype) == ("bfloat16", "float64")
    assert certificate.verdict == "not invariant"
    adaptive = build(lambda: create_model("cifar_resnet20_pa").bfloat16())
    assert certify(adaptive, noise(2, 3, 16, 16)).verdict == "exact"


class Amplifier(nn.Module):
    """Invariant, but amplifies the rounding of a sum."""

    def forward(self, x):
        return torch.sin(1e6 * x.mean((2, 3)))


def test_rounding_that_is_amplified_is_told():
    certificate = certify(Amplifier(), noise(2, 2, 16, 16))
    assert certificate.float64.passed
    assert not certificate.own.passed
    assert certificate.verdict == "not invariant"
    assert certificate.notes[0].startswith("invariant but for rounding, which in float32")
    assert certificate.blame is None
    assert certificate.notes[1].startswith("nobody is blamed, because every call is known to pass")


def test_weights_of_zero_hide_what_is_in_front_of_them():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))

        def forward(self, x):
            return ops.global_mean(x + self.branch(x))

    network = build(Residual)
    assert certify(network, noise(2, 2, 8, 8)).notes == ()
    nn.init.zeros_(network.branch[1].weight)
    certificate = certify(network, noise(2, 2, 8, 8))
    assert certificate.verdict == "exact"
    assert certificate.notes[0].startswith("branch.1.weight are all zeros")


class Reading(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if float(x[0, 0, 0, 0]) < 1e9 and False else x[:, :, 0, 0]


def test_a_model_that_cannot_be_followed_gets_a_verdict():
    certificate = certify(Reading(), noise(2, 3, 8, 8))
    assert not certificate.is_invariant
    assert certificate.blame is None
    assert certificate.notes[0].startswith("nobody is blamed, because the model cannot be followed")


def test_in_a_test_suite():
    assert assert_invariant(GlobalMean(), noise(2, 3, 8, 8)).is_invariant
    with pytest.raises(AssertionError, match="stride 2 keeps phase 0 whatever the content"):
        assert_invariant(nn.MaxPool2d(2), noise(2, 3, 8, 8))


def test_old_names_warn():
    certificate = certify(PolyphaseDownsample2d(2), noise(2, 2, 8, 8))
    with pytest.warns(DeprecationWarning, match="smallest_margin is now called smallest_gap"):
        assert certificate.smallest_margin == certificate.smallest_gap
    with pytest.warns(DeprecationWarning, match="margin is now called gap"):
        assert certificate.choices[0].margin == certificate.choices[0].gap


def test_default_shifts_are_few_different_and_fixed():
    certificate = certify(GlobalMean(), noise(1, 1, 16, 12))
    assert len(certificate.shifts) == len(set(certificate.shifts)) == 12
    assert certificate.shifts == certify(GlobalMean(), noise(1, 1, 16, 12, seed=1)).shifts
    assert {(1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1)} <= set(certificate.shifts)
    assert certify(GlobalMean(), noise(1, 1, 2)).shifts == ((1,),)


def test_a_certificate_is_plain_data_and_a_report():
    certificate = certify(build(lambda: create_model("cifar_resnet20")), noise(2, 3, 16, 16))
    data = json.loads(json.dumps(certificate.as_dict(), allow_nan=False))
    assert data["verdict"] == "not invariant"
    assert data["blame"]["module"] == "layer2.0.conv1"
    assert data["float64"]["largest"] == certificate.float64.largest
    report = str(certificate)
    assert report.startswith("not invariant: the output must stay the same")
    assert "24, 2 images under 12 circular shifts" in report
    assert f"blame: {certificate.blame}" in report
    for part in ("float64: deviation at most", "float32: deviation at most", "predictions that"):
        assert part in report


def test_an_infinite_deviation_has_no_number_in_json():
    def corner(x):
        return 1 / x[:, :, 0, 0]

    x = noise(1, 1, 4, 4)
    x[..., 0, -1] = 0
    certificate = certify(corner, x, shifts=[(0, 1)])
    assert certificate.verdict == "not invariant"
    assert certificate.as_dict()["own"]["largest"] is None
