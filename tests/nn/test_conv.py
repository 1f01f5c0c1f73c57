import pytest
import torch

from maps import is_circular_shift, laid_out, random_map, whole_map
from shiftproof import nn, ops

OPTIONS = [
    {"padding": 1},
    {"padding": (1, 2), "stride": 2, "bias": False},
    {"padding": 2, "dilation": 2, "groups": 2},
    {"padding": 0},
]


def pair(padding_mode, **options):
    """The layer and torch's, with the same whole-numbered weights."""
    layers = [
        kind(4, 6, 3, padding_mode=padding_mode, **options) for kind in (nn.Conv2d, torch.nn.Conv2d)
    ]
    state = {
        name: whole_map(*value.shape, seed=1) for name, value in layers[0].state_dict().items()
    }
    for layer in layers:
        layer.load_state_dict(state, strict=True)
    return layers


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "reflect"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_results_and_gradients_are_torch_s(options, padding_mode, channels_last):
    gradients = []
    outputs = []
    for layer in pair(padding_mode, **options):
        x = laid_out(whole_map(2, 4, 6, 8), channels_last).requires_grad_()
        y = layer(x)
        y.backward(whole_map(*y.shape, seed=2))
        outputs.append(y)
        gradients.append([x.grad, *(parameter.grad for parameter in layer.parameters())])
    assert torch.equal(*outputs)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("fill", [random_map, whole_map])
def test_a_circular_convolution_moves_with_the_map(fill, channels_last):
    conv = nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular", bias=False)
    conv.weight.data = fill(5, 3, 3, 3, seed=1)
    x = laid_out(fill(2, 3, 7, 10), channels_last)
    for shift in [(1, 0), (0, 1), (3, -4)]:
        moved = conv(ops.circular_shift(x, shift))
        assert torch.equal(moved, ops.circular_shift(conv(x), shift))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("padding_mode", ["circular", "zeros", "reflect"])
@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"padding": (2, 0), "dilation": 2}, {"padding": 0}, {"padding": 7}],
    ids=str,
)
def test_a_phase_is_an_alignment_in_front(options, padding_mode, channels_last):
    if options["padding"] == 7 and padding_mode == "reflect":
        options = {"padding": 5}  # torch reflects by less than the map
    conv, _ = pair(padding_mode, stride=2, **options)
    phase, results = torch.tensor([1, 2]), []
    for convolve in (
        lambda x: conv(x, phase),
        lambda x: conv(ops.align_phase(x, phase, 2)),
    ):
        x = laid_out(whole_map(2, 4, 6, 8), channels_last).requires_grad_()
        y = convolve(x)
        y.backward(whole_map(*y.shape, seed=2))
        results.append((y, x.grad))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_phase_of_a_pointwise_convolution_is_a_choice_of_pixels(channels_last):
    conv = nn.Conv2d(4, 6, 1, stride=(2, 3), groups=2, bias=False)
    conv.weight.data = whole_map(6, 2, 1, 1, seed=1)
    x, phase = laid_out(whole_map(2, 4, 6, 9), channels_last), torch.tensor([1, 5])
    assert torch.equal(conv(x, phase), conv(ops.align_phase(x, phase, (2, 3))))


def test_a_convolution_at_the_phase_of_its_content_moves_with_the_map():
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1, padding_mode="circular")
    select = nn.SelectPhase2d(2)
    x = random_map(1, 3, 6, 10)
    for shift in [(1, 0), (0, 1), (3, -5)]:
        moved = ops.circular_shift(x, shift)
        assert is_circular_shift(conv(moved, select(moved)), conv(x, select(x)))
        # The control: the stride alone.
        assert not is_circular_shift(conv(moved), conv(x))


def test_a_phase_needs_a_stride_that_divides():
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=1, padding_mode="circular")
    with pytest.raises(ValueError, match="align_phase: each spatial size must be a multiple"):
        conv(torch.zeros(1, 1, 5, 4), torch.tensor([0]))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_control_a_convolution_padded_otherwise_does_not_move_with_the_map(padding_mode):
    conv, _ = pair(padding_mode, padding=1)
    x = whole_map(1, 4, 6, 6)
    assert not is_circular_shift(conv(ops.circular_shift(x, (1, 2))), conv(x))


def test_a_traced_convolution_pads_in_one_operation():
    conv, _ = pair("circular", padding=1)
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(conv))
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    x = whole_map(1, 4, 6, 6)
    assert calls == [ops.pad, torch.conv2d]
    assert torch.equal(traced(x), conv(x))


def test_a_padding_mode_is_known():
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate")
    with pytest.raises(ValueError, match="padding_mode must be one of circular, zeros, reflect"):
        conv(torch.zeros(1, 1, 4, 4))
