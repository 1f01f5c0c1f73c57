"""What tracers, compilers and transforms make of the operations."""

import pytest
import torch
from hypothesis import given
from torch.export import Dim, export

from maps import cases, distinct_map, random_map
from shiftproof import ops

KERNEL = ops.binomial_kernel(3)
OPERATIONS = {
    "align_phase": lambda x, phase: ops.align_phase(x, phase, 2),
    "circular_shift": lambda x, phase: ops.circular_shift(x, (1, 2)),
    "crop_shift": lambda x, phase: ops.crop_shift(x, (1, 0), (2, 2)),
    "first_phase": lambda x, phase: ops.first_phase(x, 2),
    "fractional_shift": lambda x, phase: ops.fractional_shift(x, (0.25, -1.5)),
    "global_mean": lambda x, phase: ops.global_mean(x),
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
VARIANTS = {
    **OPERATIONS,
    "align_phase with a border": lambda x, phase: ops.align_phase(x, phase, 2, (3, 1), (0, 2)),
    "circular_shift per sample": lambda x, phase: ops.circular_shift(
        x, torch.stack([phase] * 2, 1)
    ),
    "crop_shift per sample": lambda x, phase: ops.crop_shift(
        x, torch.stack([phase % 2] * 2, 1), (2, 2)
    ),
    "largest_values 2 by 3": lambda x, phase: ops.largest_values(x, (2, 3)),
    "pad by reflection": lambda x, phase: ops.pad(x, (1, 1), (0, 1), "reflect"),
    "pad by more than the map": lambda x, phase: ops.pad(x, (9, 0), (0, 7), "circular"),
    "phase_scores norm 1": lambda x, phase: ops.phase_scores(x, 2, 1),
    "phase_scores norm inf": lambda x, phase: ops.phase_scores(x, 2, float("inf")),
    "polyphase_merge": lambda x, phase: ops.polyphase_merge(ops.polyphase_split(x, 2), 2),
    "select_phase of two maps": lambda x, phase: ops.select_phase((x, x.square()), 2),
    "shift_phase": lambda x, phase: ops.shift_phase(phase, torch.stack([phase] * 2, 1), (2, 2)),
}
# Compiling and exporting take long: some stand for the others in the quick suite.
QUICK = ("align_phase", "select_phase")
SOME = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in VARIANTS]
SMOOTH = [
    name
    for name in VARIANTS
    if not name.startswith(("first", "largest", "phase_scores", "select", "shift_phase"))
]


def both_halves(x: torch.Tensor) -> torch.Tensor:
    """Joined with its mirror image, so that components tie."""
    return torch.cat([x, x.flip(-1)], -1)


def samples(batch: int, height: int = 4, width: int = 6, seed: int = 0):
    x = random_map(batch, 3, height, width // 2, seed=seed)
    return both_halves(x), torch.arange(batch) % 4


def outputs(result) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def same(actual, expected) -> bool:
    return all(map(torch.equal, outputs(actual), outputs(expected)))


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


@pytest.mark.parametrize("name", SOME)
def test_compiles_as_one_graph_for_every_batch_size(name):
    torch.compiler.reset()
    operation = VARIANTS[name]
    compiled = torch.compile(operation, fullgraph=True, dynamic=True, backend="aot_eager")

    def agrees(batch):
        (x, phase), (y, _) = samples(batch), samples(batch)
        actual, expected = compiled(x.requires_grad_(), phase), operation(y.requires_grad_(), phase)
        if name in SMOOTH:
            outputs(actual)[0].square().sum().backward()
            outputs(expected)[0].square().sum().backward()
        return same(actual, expected) and (name not in SMOOTH or torch.equal(x.grad, y.grad))

    assert agrees(2)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert agrees(3)


class Layer(torch.nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, x, phase):
        return self.operation(x, phase)


@pytest.mark.parametrize("name", SOME)
def test_exports_with_dynamic_batch_and_size(name):
    batch, rows, columns = Dim("batch", min=1, max=64), Dim("rows", max=32), Dim("columns", max=32)
    # A map that is larger than its padding stays larger, and the other way round.
    sizes = {} if name == "pad by more than the map" else {2: 2 * rows, 3: 6 * columns}
    program = export(
        Layer(VARIANTS[name]), samples(3, 8, 12), dynamic_shapes=({0: batch, **sizes}, {0: batch})
    ).module()
    for args in (
        samples(3, 8, 12),
        samples(5, 8, 12, 1),
        samples(1, *((16, 6) if sizes else (8, 12))),
    ):
        assert same(program(*args), VARIANTS[name](*args))


@pytest.mark.filterwarnings("ignore:.torch.jit.(trace|load). is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the checks of sizes
@pytest.mark.parametrize("name", VARIANTS)
def test_a_jit_trace_keeps_neither_batch_nor_size_nor_choice(name, tmp_path):
    torch.jit.trace(VARIANTS[name], samples(2)).save(str(tmp_path / "trace.pt"))
    traced = torch.jit.load(str(tmp_path / "trace.pt"))
    for args in (samples(2), samples(5, 4, 6, 1), samples(3, 8, 12)):
        assert same(traced(*args), VARIANTS[name](*args))


@pytest.mark.filterwarnings("ignore:.torch.jit.(trace|load). is deprecated")
def test_a_jit_trace_of_the_mean_has_its_gradient():
    traced = torch.jit.trace(ops.global_mean, random_map(1, 2, 3, 3))
    x, y = (random_map(2, 3, 4, 4).requires_grad_() for _ in range(2))
    traced(x).square().sum().backward()
    ops.global_mean(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("name", VARIANTS)
def test_vmap_of_every_operation_equals_a_loop(name):
    xs, phases = zip(*[samples(2, seed=seed) for seed in range(3)], strict=True)
    phases = torch.stack([(phase + seed) % 4 for seed, phase in enumerate(phases)])
    mapped = torch.vmap(VARIANTS[name])(torch.stack(xs), phases)
    looped = [outputs(VARIANTS[name](x, phase)) for x, phase in zip(xs, phases, strict=True)]
    assert same(mapped, tuple(torch.stack(part) for part in zip(*looped, strict=True)))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # by forward mode itself
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_of_every_order_and_kind(name):
    x, phase = distinct_map(2, 3, 4, 6).requires_grad_(), torch.tensor([1, 2])

    def operation(x):
        return outputs(VARIANTS[name](x, phase))[0]

    forward_modes = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(operation, x, check_batched_grad=True, **forward_modes)
    assert torch.autograd.gradgradcheck(operation, x, check_batched_grad=True)


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
