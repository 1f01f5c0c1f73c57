import pytest
import torch
from hypothesis import given

from maps import cases, random_map
from shiftproof import ops

OPERATIONS = {
    "align_phase": lambda x, phase: ops.align_phase(x, phase, 2),
    "circular_shift": lambda x, phase: ops.circular_shift(x, (1, 2)),
    "crop_shift": lambda x, phase: ops.crop_shift(x, (1, 0), (2, 2)),
    "first_phase": lambda x, phase: ops.first_phase(x, 2),
    "largest_values": lambda x, phase: ops.largest_values(x, 2),
    "lowpass": lambda x, phase: ops.lowpass(x, KERNEL),
    "pad": lambda x, phase: ops.pad(x, (1, 1), (0, 1), "circular"),
    "phase_scores": lambda x, phase: ops.phase_scores(x, 2),
    "place_phase": lambda x, phase: ops.place_phase(x, phase, 2),
    "polyphase_merge": lambda x, phase: ops.polyphase_merge(x, 2),
    "polyphase_split": lambda x, phase: ops.polyphase_split(x, 2),
    "select_phase": lambda x, phase: ops.select_phase(x, 2),
    "take_phase": lambda x, phase: ops.take_phase(x, phase, 2),
    "zero_fill_shift": lambda x, phase: ops.zero_fill_shift(x, (1, 0)),
}
KERNEL = ops.binomial_kernel(3)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_one_node_of_a_traced_graph(name):
    operation = OPERATIONS[name]
    traced = torch.fx.symbolic_trace(operation)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    x, phase = random_map(2, 3, 4, 6), torch.tensor([1, 3])
    if name == "polyphase_merge":
        x = ops.polyphase_split(x, 2)
    assert calls == [getattr(ops, name)]
    torch.testing.assert_close(traced(x, phase), operation(x, phase), rtol=0, atol=0)


@given(cases(num_dims=2))
def test_vmap_equals_a_loop(case):
    xs, phases = torch.stack([case.x, case.moved]), torch.stack([case.phase, case.phase.flip(0)])
    for move in (ops.take_phase, ops.place_phase, ops.align_phase):

        def apply(x, phase, move=move):
            return move(x, phase, case.stride)

        expected = torch.stack([apply(x, phase) for x, phase in zip(xs, phases, strict=True)])
        assert torch.equal(torch.vmap(apply)(xs, phases), expected)
        same = torch.stack([apply(x, case.phase) for x in xs])
        assert torch.equal(torch.vmap(apply, in_dims=(0, None))(xs, case.phase), same)


def test_vmap_of_a_gradient_equals_a_loop():
    xs, weights = random_map(3, 2, 2, 4, 4), random_map(3, 2, 2, 2, 2, seed=1)
    phase = torch.tensor([1, 2])

    def loss(x, weight):
        return (ops.take_phase(x, phase, 2) * weight).sum()

    expected = torch.stack([ops.place_phase(weight, phase, 2) for weight in weights])
    assert torch.equal(torch.vmap(torch.func.grad(loss))(xs, weights), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by forward mode itself
@pytest.mark.parametrize("name", ["take_phase", "place_phase", "align_phase", "circular_shift"])
def test_a_move_is_its_own_directional_derivative(name):
    x, tangent, phase = random_map(2, 3, 4, 6), random_map(2, 3, 4, 6, seed=1), torch.tensor([1, 3])

    def move(x):
        return OPERATIONS[name](x, phase)

    _, derivative = torch.func.jvp(move, (x,), (tangent,))
    assert torch.equal(derivative, move(tangent))
