"""What tracers, compilers and transforms make of the layers."""

import pytest
import torch

from maps import distinct_map, random_map
from shiftproof import nn, ops

CHOOSE = [ops.phase_scores, ops.select_phase]

LAYERS = [
    (nn.SelectPhase2d(2), CHOOSE),
    (nn.SelectPhase2d(2, nn.FirstPhase()), [ops.first_phase, ops.select_phase]),
    (nn.SelectPhase2d(2, nn.LargestValue()), [ops.largest_values, ops.select_phase]),
    (nn.PolyphaseDownsample2d(2), [*CHOOSE, ops.take_phase]),
    (nn.PolyphaseDownsample2d(2, lowpass=nn.LowPass2d(3)), [ops.lowpass, *CHOOSE, ops.take_phase]),
    (nn.AlignPhase2d((2, 3)), [*CHOOSE, ops.align_phase]),
    (nn.LowPass2d(3), [ops.lowpass]),
    (nn.BlurPool2d(3), [ops.lowpass]),
    (nn.MaxPool2d(3, 1, (1, 1)), [ops.pad]),
]

CHOOSING = [nn.PolyphaseDownsample2d(2, lowpass=nn.LowPass2d(3)), nn.AlignPhase2d(2)]


class Upsampled(torch.nn.Module):
    """Down and up again, so that upsampling too is a layer from maps to maps."""

    def __init__(self):
        super().__init__()
        self.select, self.up = nn.SelectPhase2d(2), nn.PolyphaseUpsample2d(2, nn.LowPass2d(3))

    def forward(self, x):
        phase = self.select(x)
        return self.up(ops.take_phase(x, phase, 2), phase)


def every_layer():
    """One of each, with its map: all layers, selectors and numbers of axes."""
    torch.manual_seed(0)
    line, plane, cube = random_map(2, 3, 8), random_map(2, 3, 4, 12), random_map(2, 2, 4, 2, 4)
    selectors = [
        nn.LargestNorm(1),
        nn.LargestNorm(float("inf")),
        nn.SmallestNorm(),
        nn.FirstPhase(),
    ]
    yield from [(nn.SelectPhase2d(2, selector), plane) for selector in selectors]
    yield nn.PolyphaseDownsample2d((2, 3), nn.LargestValue()), plane
    yield Upsampled(), plane
    yield from [(nn.BlurPool2d(3), plane), (nn.GlobalMean(), plane)]
    yield nn.MaxPool2d(3, 2, (1, 1)), plane
    yield nn.Conv2d(3, 4, 3, 2, 1, padding_mode="circular"), plane
    for num_dims, x in ((1, line), (2, plane), (3, cube)):
        lowpass = getattr(nn, f"LowPass{num_dims}d")(3)
        for name in ("SelectPhase", "AlignPhase"):
            yield getattr(nn, f"{name}{num_dims}d")(2), x
        yield getattr(nn, f"PolyphaseDownsample{num_dims}d")(2, lowpass=lowpass), x
        yield lowpass, x


# Compiling and exporting take long: one of each kind stands for the others in the quick suite.
QUICK = {"PolyphaseDownsample2d-4", "GlobalMean-7", "Conv2d-9"}
EVERY = [
    pytest.param(layer, x, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
    for index, (layer, x) in enumerate(every_layer())
    for name in [f"{type(layer).__name__}-{index}"]
]


def batch_of(x: torch.Tensor, size: int) -> torch.Tensor:
    """Another batch of such maps, one of them joined with its mirror image, so that phases tie."""
    x = random_map(size, *x.shape[1:], seed=size)
    half = x[-1, ..., : x.shape[-1] // 2]
    x[-1] = torch.cat([half, half.flip(-1)], -1)
    return x


@pytest.mark.parametrize(("layer", "operations"), LAYERS, ids=lambda value: type(value).__name__)
def test_a_traced_layer_is_its_operations(layer, operations):
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(layer))
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    x = random_map(2, 3, 6, 12)
    assert calls == operations
    assert torch.equal(traced(x), layer(x))


def test_traced_upsampling_is_its_operations():
    up = nn.PolyphaseUpsample2d(2, nn.LowPass2d(3))
    traced = torch.fx.symbolic_trace(up)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    y, phase = random_map(2, 3, 2, 4), torch.tensor([1, 2])
    assert calls == [ops.place_phase, ops.lowpass]
    assert torch.equal(traced(y, phase), up(y, phase))


@pytest.mark.parametrize(("layer", "x"), EVERY)
def test_compiles_as_one_graph_for_every_batch_size(layer, x):
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")

    def agrees(batch):
        images, copies = (batch_of(x, batch).requires_grad_() for _ in range(2))
        actual, expected = compiled(images), layer(copies)
        if expected.requires_grad:
            actual.square().sum().backward()
            expected.square().sum().backward()
        return torch.equal(actual, expected) and (
            copies.grad is None or torch.equal(images.grad, copies.grad)
        )

    # Not a size of the maps: the compiler takes equal sizes for the same size.
    assert agrees(5)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert agrees(7)


@pytest.mark.parametrize(("layer", "x"), EVERY)
def test_exports_with_a_dynamic_batch(layer, x):
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(layer, (x,), dynamic_shapes=(batch,)).module()
    for size in (1, 5):
        assert torch.equal(program(batch_of(x, size)), layer(batch_of(x, size)))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace(_method)?. is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of sizes
@pytest.mark.parametrize(("layer", "x"), EVERY)
def test_a_jit_trace_keeps_neither_batch_nor_choice(layer, x):
    traced = torch.jit.trace(layer, x)
    for size in (1, 5):
        assert torch.equal(traced(batch_of(x, size)), layer(batch_of(x, size)))


@pytest.mark.parametrize(("layer", "x"), EVERY)
def test_vmap_equals_a_loop(layer, x):
    xs = torch.stack([batch_of(x, 2), x])
    expected = torch.stack([layer(x) for x in xs])
    # Convolutions of another number of channels at once may round differently.
    tolerance = 1e-6 if isinstance(layer, torch.nn.Conv2d) else 0
    torch.testing.assert_close(torch.vmap(layer)(xs), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layer", CHOOSING, ids=lambda layer: type(layer).__name__)
def test_functional_calls_and_per_sample_gradients(layer):
    x, weight = random_map(3, 3, 4, 6), torch.rand(3, generator=torch.Generator().manual_seed(0))

    def loss(x):
        return (layer(x[None]).square().sum((0, 2, 3)) * weight).sum()

    expected = torch.stack([torch.func.grad(loss)(sample) for sample in x])
    assert torch.equal(torch.vmap(torch.func.grad(loss))(x), expected)


@pytest.mark.parametrize("layer", CHOOSING, ids=lambda layer: type(layer).__name__)
def test_derivatives_of_derivatives(layer):
    x = distinct_map(2, 3, 4, 6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer.double()(x).square(), x)
