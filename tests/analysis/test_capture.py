import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof.analysis import CaptureError, capture
from shiftproof.analysis.graph import values_in
from shiftproof.analysis.sizes import least_sizes
from shiftproof.conversion import convert
from shiftproof.inputs import find_inputs
from shiftproof.nested import leaves_of, map_nested


def images(num: int = 2, size: int = 32) -> Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(num))


def functions(model: nn.Module) -> list[tuple[str, str]]:
    graph = capture(model, (images(),))
    return [(call.function, call.owner.name) for call in graph.calls]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu_().mean((2, 3))


def test_calls_know_their_module() -> None:
    assert functions(Small()) == [
        ("conv2d", "conv"),
        ("batch_norm", "norm"),
        ("relu", ""),
        ("mean", ""),
    ]
    graph = capture(Small(), (images(),))
    assert graph.inputs[0].users == [0]
    assert [visit.name for visit in graph.visits] == ["", "conv", "norm"]
    assert values_in(graph.output)[0].shape == (2, 4)
    assert graph.calls[2].in_place
    assert not graph.calls[3].in_place


def test_the_model_stays_as_it_is() -> None:
    model = Small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, (images(),), training=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_attributes_constants_and_parameters_are_named() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(3, 1, 1))
            self.register_buffer("offset", torch.rand(3, 1, 1))
            self.constant = torch.rand(3, 1, 1)
            self.kept = [torch.rand(3, 1, 1)]

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.scale + self.offset - self.constant) * self.kept[0] + OUTSIDE

    graph = capture(Holding(), (images(),))
    names = [value.name for call in graph.calls for value in call.inputs if value.name]
    assert names == ["input", "scale", "offset", "constant", "kept", "a tensor"]


OUTSIDE = torch.rand(3, 1, 1)


def test_what_is_written_to_is_known() -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = x.new_ones(1, 1, 1, 1).repeat(1, 1, 32, 32)
            mask[:, :, :8] = 0
            return x * mask + x.new_ones(x.shape)

    calls = capture(Writing(), (images(),)).calls
    written = {
        call.function: call.result.is_written for call in calls if call.function != "setitem"
    }
    assert written == {"new_ones": False, "repeat": True, "mul": False, "add": False}


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class Reading(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * len(x.flatten().tolist())


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _StraightThrough.apply(x) + 1


def test_a_function_with_a_derivative_of_its_own_is_followed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Rounded())
    assert functions(model) == [("conv2d", "0"), ("round", "1"), ("add", "1")]
    converted = convert(nn.Sequential(*model, nn.MaxPool2d(2)), images()).model
    converted(images()).sum().backward()
    assert converted[0].weight.grad.abs().sum() > 0


def test_what_does_nothing_gives_the_same_value() -> None:
    class Casting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().contiguous() + x

    calls = capture(Casting(), (images(),)).calls
    assert len(calls[-1].inputs) == 1


@pytest.mark.parametrize("part", [Deciding(), Reading()])
def test_the_innermost_module_that_cannot_be_followed_is_named(part: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(part))
    with pytest.raises(CaptureError) as error:
        capture(model, (images(),))
    assert error.value.module == "1.0"
    replays = {"1.0": [torch.zeros(2, 4, 32, 32)]}
    calls = capture(model, (images(),), replays=replays).calls
    assert [(call.function, call.is_module) for call in calls] == [
        ("conv2d", False),
        (type(part).__name__, True),
    ]


def test_threads_capture_at_once_and_nothing_is_patched() -> None:
    networks = [
        Small(),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(2), nn.Linear(1024, 4)),
    ]
    expected = [functions(network) for network in networks]
    call, apply = nn.Module.__call__, torch.autograd.Function.apply
    wrong: list[object] = []

    def work(index: int) -> None:
        for turn in range(6):
            number = (index + turn) % len(networks)
            if functions(networks[number]) != expected[number]:
                wrong.append(number)
            if nn.Module.__call__ is not call or torch.autograd.Function.apply != apply:
                wrong.append("patched")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    x = images()
    conv = nn.Conv2d(3, 4, 3)
    right = conv(x)
    while any(thread.is_alive() for thread in threads):
        assert torch.equal(conv(x), right)
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nested_values_keep_their_classes() -> None:
    values = torch.zeros(2, 3).max(1)
    doubled = map_nested({"a": [1, (2, slice(3, None))], "b": values}, lambda leaf: leaf)
    assert leaves_of(doubled["a"]) == [1, 2, 3, None, None]
    assert type(doubled["b"]) is type(values)


@pytest.mark.parametrize(
    ("decide", "least"),
    [
        (lambda x: x, (2, 2)),
        (lambda x: x * (2 if x.shape[2] > 20 else 1), (22, 22)),
        (lambda x: x * (2 if x.shape[2] > x.shape[3] else 1), None),
        (lambda x: x * (2 if x.shape[2] == 32 else 1), None),
        (lambda x: x * (2 if int(x.shape[2]) < 100 else 1), None),
    ],
)
def test_sizes_from_which_on_nothing_is_decided(decide: object, least: object) -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(decide(x), 2)

    found = find_inputs("test", Sized(), images(), None, None)
    assert least_sizes(Sized(), found, (2, 2)) == least
