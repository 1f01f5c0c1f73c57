import pytest
import torch
import torch.nn.functional as F
from convertible import NETWORKS
from torch import Tensor, fx, nn

from shiftproof.conversion.comparing import same_graph
from shiftproof.conversion.recording import record
from shiftproof.conversion.refusal import RecordingError


def images(num: int, size: int = 32) -> Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(num))


@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_network_gives_the_same_for_another_batch(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    recorded = fx.GraphModule(model, record(model, images(2)))
    with torch.no_grad():
        assert torch.equal(recorded(images(5)), model(images(5)))


class Measured(nn.Module):
    """Computes with sizes, and branches on them."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if h * w > 10 and len(x) > 0 and x.dim() == 4:
            x = x.reshape(n, c * 2, -1, w // 2 + 0 * (h - 1))
        ones = torch.ones(n, 1, 1, 1, device=x.device, dtype=x.dtype)
        return (x + ones).reshape(-1, c, h, w) * x.size(0) - (-n) % 5


def test_sizes_are_recorded() -> None:
    recorded = fx.GraphModule(Measured(), record(Measured(), images(2)))
    for num, size in ((2, 32), (3, 32), (4, 16)):
        x = images(num, size)
        assert torch.equal(recorded(x), Measured()(x))
    assert recorded(images(2).double()).dtype == torch.float64


def test_graphs_of_two_sizes_are_the_same_unless_python_looked() -> None:
    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return sum(x[:, :, row] for row in range(x.shape[2]))

    assert same_graph(record(Measured(), images(2)), record(Measured(), images(3, 64)))
    assert not same_graph(record(Looking(), images(2)), record(Looking(), images(2, 64)))


def test_attributes_constants_and_parameters() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(3, 1, 1))
            self.register_buffer("offset", torch.rand(3, 1, 1))
            self.constant = torch.rand(3, 1, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = x * self.scale + self.offset - self.constant
            values, places = x.max(dim=1)
            return {"map": values, "places": places, "last": x.mT}

    model = Holding()
    recorded = fx.GraphModule(model, record(model, images(2)))
    with torch.no_grad():
        expected = model(images(3))
        for key, value in recorded(images(3)).items():
            assert torch.equal(value, expected[key])
    assert [name for name, _ in recorded.named_parameters()] == ["scale"]


def test_operations_in_place() -> None:
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x + 1
            x[:, :1] = 0
            x += 2
            x[:, 2].mul_(3)
            return F.relu_(x)

    recorded = fx.GraphModule(Writing(), record(Writing(), images(2)))
    assert torch.equal(recorded(images(3)), Writing()(images(3)))


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


def test_what_depends_on_values_is_refused() -> None:
    with pytest.raises(RecordingError, match="the network itself, which reads values that depend"):
        record(Deciding(), images(2))


def test_a_part_that_depends_on_values_is_one_node() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Deciding())
    graph = record(model, images(2))
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["0", "1"]
    recorded = fx.GraphModule(model, graph)
    for num in (1, 2, 3):
        assert torch.equal(recorded(images(num)), model(images(num)))


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


def test_a_function_with_a_derivative_of_its_own_keeps_it() -> None:
    with pytest.raises(RecordingError, match="the network itself, which applies _StraightThrough"):
        record(Rounded(), images(2))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Rounded())
    recorded = fx.GraphModule(model, record(model, images(2)))
    recorded(images(3)).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_a_tensor_from_nowhere_is_refused() -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = [torch.rand(3, 1, 1)]

        def forward(self, x: Tensor) -> Tensor:
            return x * self.kept[0]

    with pytest.raises(RecordingError, match="a tensor that no function of torch made"):
        record(Scripted(), images(2))


def test_the_model_stays_as_it_is() -> None:
    model = NETWORKS["residual"]().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record(model.eval(), images(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
