import pytest
import torch

from maps import random_map
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


@pytest.mark.parametrize("layer", CHOOSING, ids=lambda layer: type(layer).__name__)
def test_compiles_as_one_graph_for_every_batch_size(layer):
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")

    def agrees(batch):
        x, same = (random_map(batch, 3, 6, 8).requires_grad_() for _ in range(2))
        actual, expected = compiled(x), layer(same)
        actual.square().sum().backward()
        expected.square().sum().backward()
        return torch.equal(actual, expected) and torch.equal(x.grad, same.grad)

    assert agrees(2)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert agrees(3)


@pytest.mark.parametrize("layer", CHOOSING, ids=lambda layer: type(layer).__name__)
def test_exports_with_a_dynamic_batch(layer):
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(layer, (random_map(2, 3, 6, 8),), dynamic_shapes=(batch,))
    x = random_map(5, 3, 6, 8, seed=1)
    assert torch.equal(program.module()(x), layer(x))


@pytest.mark.parametrize("layer", CHOOSING, ids=lambda layer: type(layer).__name__)
def test_vmap_equals_a_loop(layer):
    xs = random_map(4, 2, 3, 6, 8)
    assert torch.equal(torch.vmap(layer)(xs), torch.stack([layer(x) for x in xs]))
