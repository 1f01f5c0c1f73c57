import pytest
import torch
from broken_networks import BROKEN
from certified import build, noise
from torch import nn

from shiftproof import create_model
from shiftproof.certification import certify
from shiftproof.certification.blame import find_suspects
from shiftproof.inputs import find_inputs
from shiftproof.nn import FirstPhase


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_network_is_blamed_for_its_reason(broken):
    certificate = certify(build(broken.build), noise(2, 2, broken.size, broken.size))
    assert certificate.verdict == "not invariant"
    assert certificate.blame is not None
    assert certificate.blame[:2] == (broken.module, broken.type)
    assert certificate.blame.reason.startswith(broken.reason)
    assert certificate.blame in certificate.suspects


STRIDED = ["layer2.0.conv1", "layer2.0.downsample.0", "layer3.0.conv1", "layer3.0.downsample.0"]


@pytest.mark.parametrize(
    ("name", "options", "suspects"),
    [
        ("cifar_resnet20", {}, STRIDED),
        ("cifar_resnet20_pa", {"selector": FirstPhase()}, STRIDED),
        ("cifar_resnet20_lpf3", {}, ["layer2.0.pool.pool", "layer3.0.pool.pool"]),
        ("cifar_resnet20_aps3", {"padding_mode": "zeros"}, ["conv1"]),
        ("resnet18", {}, ["conv1", "maxpool.pool", *[f"layer{i}.0.conv1" for i in (2, 3, 4)]]),
    ],
)
def test_suspects_come_in_order_of_execution(name, options, suspects):
    model = build(lambda: create_model(name, **options))
    certificate = certify(model, noise(1, 3, 32, 32), shifts=[(1, 1)])
    found = [suspect.module for suspect in certificate.suspects]
    assert [module for module in found if module in suspects] == suspects
    assert certificate.blame == certificate.suspects[0]


def test_the_blame_is_about_the_shifts_that_were_asked_for():
    model = build(lambda: create_model("cifar_resnet20"))
    assert certify(model, noise(1, 3, 16, 16), shifts=[(4, 8)]).verdict != "not invariant"
    certificate = certify(model, noise(1, 3, 16, 16), shifts=[(2, 4)])
    assert certificate.blame.module == "layer3.0.conv1"
    assert certificate.suspects[0].module == "layer2.0.conv1"


def test_an_invariant_network_has_no_suspects():
    model = build(lambda: create_model("cifar_resnet20_pa")).double().eval()
    images = noise(6, 3, 16, 16).double()
    shifts = [(1, 0), (0, 1), (3, 2), (5, 7), (2, 2), (8, 1)]
    assert find_suspects(model, find_inputs("test", model, images, None, None), shifts) == (
        None,
        (),
    )


def test_functions_of_one_module_are_told_apart_by_their_parameters():
    model = torch.fx.symbolic_trace(build(lambda: create_model("cifar_resnet20")))
    certificate = certify(model, noise(2, 3, 16, 16))
    expected = "stride 2 keeps phase 0 whatever the content (in conv2d with layer2.0.conv1.weight)"
    assert certificate.blame == ("", "GraphModule", expected)
    assert [suspect.reason for suspect in certificate.suspects] == [
        expected.replace("layer2.0.conv1", name) for name in STRIDED
    ]


@pytest.mark.filterwarnings("ignore:.torch.jit.(trace|trace_method). is deprecated")
def test_a_scripted_module_gets_a_verdict_and_no_blame():
    model = torch.jit.trace(nn.Sequential(nn.MaxPool2d(2), nn.Flatten()), noise(2, 2, 8, 8))
    certificate = certify(model, noise(2, 2, 8, 8))
    assert (certificate.verdict, certificate.blame) == ("not invariant", None)
    assert certificate.notes[0].startswith("nobody is blamed, because the model cannot be followed")


def test_of_a_compiled_module_the_original_is_blamed():
    network = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
    certificate = certify(torch.compile(network, backend="eager"), noise(2, 2, 8, 8))
    assert certificate.blame == ("0", "MaxPool2d", "stride 2 keeps phase 0 whatever the content")


class TwoCalls(nn.Module):
    """Calls the same module first harmlessly, then on what it cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, 2)

    def forward(self, x):
        mean = self.conv(x.mean((2, 3), keepdim=True))
        return (self.conv(x) + mean).relu().mean((2, 3))


def test_a_module_that_is_called_twice_is_judged_by_each_call():
    certificate = certify(build(TwoCalls), noise(2, 2, 8, 8))
    assert certificate.blame[:2] == ("conv", "Conv2d")
    assert len(certificate.suspects) == 1
