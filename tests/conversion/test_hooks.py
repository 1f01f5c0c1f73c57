"""Networks whose hooks compute, and layers that others are made of."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof.certification import certify
from shiftproof.conversion import ConversionError, convert


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


def network(
    *, after: Callable[[Tensor], object] | None = None, before: Callable | None = None, at: str = ""
) -> nn.Module:
    """A small network with a hook on one of its layers, or on itself."""
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    module = model.get_submodule(at)
    if after is not None:
        module.register_forward_hook(lambda _m, _a, result: after(result))
    if before is not None:
        module.register_forward_pre_hook(lambda _m, args: (before(*args),))
    return model


HOOKS = {
    "a gate by the mean": {"after": lambda y: y * y.mean((2, 3), keepdim=True), "at": "0"},
    "a padded maximum": {"after": lambda y: F.max_pool2d(y, 3, 2, 1), "at": "0"},
    "a padded average, where a convolution is padded": {
        "after": lambda y: F.avg_pool2d(y, 3, 2, 1),
        "at": "0",
    },
    "an average behind a stride": {"after": lambda y: F.avg_pool2d(y, 3, 2, 1), "at": "2"},
    "an interpolation": {
        "after": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
        "at": "0",
    },
    "a pool in front": {"before": lambda x: F.max_pool2d(x, 3, 2, 1), "at": "2"},
    "a border in front": {"before": lambda x: F.pad(x, (1, 1, 1, 1)), "at": "2"},
    "a scale of the images": {"before": lambda x: x * 2},
    "a softmax of the logits": {"after": lambda y: y.softmax(1)},
}


@pytest.mark.parametrize("name", HOOKS)
def test_what_hooks_compute_is_changed_where_they_run(name: str) -> None:
    conversion = convert(network(**HOOKS[name]), images())
    assert not any(alignment.full for alignment in conversion.plan.alignments)
    certificate = certify(conversion.model, images())
    assert certificate.is_invariant, str(certificate)


OUTSIDE = {
    "interpolate": {"before": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear")},
    "max_pool2d": {"before": lambda x: F.max_pool2d(x, 2)},
    "avg_pool2d": {"before": lambda x: F.avg_pool2d(x, 3, 1, 1)},
}


@pytest.mark.parametrize("function", OUTSIDE)
def test_hooks_of_the_network_itself_that_would_have_to_change_are_refused(function: str) -> None:
    with pytest.raises(ConversionError, match=rf"hooks of the network itself .*got {function} in"):
        convert(network(**OUTSIDE[function]), images())
    wrapped = nn.Sequential(network(**OUTSIDE[function]))
    assert certify(convert(wrapped, images()).model, images()).is_invariant


class Keeping(nn.Module):
    """A hook keeps a map and gives on another; what it kept is read later."""

    def __init__(self, given: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.kept: list[Tensor] = []
        self.given = given
        self.first.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: object, result: Tensor) -> Tensor:
        self.kept.append(F.max_pool2d(result, 3, 2, 1))
        return self.given(result)

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        y = self.second(self.first(x)).relu()
        return (y + self.kept.pop()).mean((2, 3))


@pytest.mark.parametrize(
    "given", [lambda y: y, lambda y: y * 2, lambda y: F.avg_pool2d(y, 3, 1, 1)]
)
def test_a_hook_may_keep_one_map_and_give_on_another(given: Callable) -> None:
    converted = convert(Keeping(given).double().eval(), images()).model
    assert certify(converted, images()).is_invariant


# Layers whose forward pass was changed, when something makes others of them.

LAYERS = {
    "no padding": [nn.Conv2d(3, 8, 3)],
    "no padding, with a norm": [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)],
    "an even kernel": [nn.Conv2d(3, 8, 4, 1, 2)],
    "the same size": [nn.Conv2d(3, 8, 4, 1, "same")],
    "transposed": [nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 3, 2, 1, 1)],
    "padded by a layer": [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2)],
    "a stride without padding": [nn.Conv2d(3, 8, 1, 2)],
    "a pool": [nn.Conv2d(3, 8, 3, 1, 1), nn.MaxPool2d(3, 2, 1)],
}


def small(name: str, *, stubs: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [copy.deepcopy(layer) for layer in LAYERS[name]]
    body = [*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if stubs:
        quantization = torch.ao.quantization
        body = [quantization.QuantStub(), *body, quantization.DeQuantStub()]
    return nn.Sequential(*body).eval()


@pytest.mark.filterwarnings("ignore")  # torch's own, about its quantisation and its observers
@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_were_changed_stay_so_in_eight_bits(name: str) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    x = images().float()
    converted = convert(small(name), x).model
    prepared = prepare_fx(copy.deepcopy(converted), get_default_qconfig_mapping("x86"), (x,))
    with torch.no_grad():
        prepared(x)
        quantised = convert_fx(prepared)
        logits = quantised(x)
        for shift in ((1, 0), (3, 6), (17, 30)):
            assert torch.equal(quantised(x.roll(shift, (2, 3))), logits)
        assert (logits - converted(x)).abs().max() < 0.05 * converted(x).std() + 0.02


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["no padding", "an even kernel", "a pool"])
def test_eager_quantisation_which_replaces_layers_is_refused(name: str) -> None:
    from torch.ao import quantization

    x = images().float()
    converted = convert(small(name, stubs=True), x).model
    converted.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(converted)
    prepared(x)
    quantised = quantization.convert(prepared)
    with pytest.raises((RuntimeError, TypeError), match=r"with torch's quantize_fx"):
        quantised(x)


@pytest.mark.parametrize("name", LAYERS)
def test_a_symbolic_trace_holds_what_was_changed(name: str) -> None:
    converted = convert(small(name), images().float()).model
    with torch.no_grad():
        traced = torch.fx.symbolic_trace(converted)
        x = images().float().roll((3, 5), (2, 3))
        assert torch.equal(traced(x), converted(x))


def test_a_trace_of_a_network_that_was_changed_itself_is_refused_with_layers_alone() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(F.pad(x, (1, 1, 1, 1))).mean((2, 3))

    converted = convert(Padded().eval(), images().float()).model
    with pytest.raises(RuntimeError, match="leaves out what was changed in the forward pass"):
        torch.fx.symbolic_trace(converted)
