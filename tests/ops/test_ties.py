"""The choice among equally strong components moves with the content."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from maps import random_map
from shiftproof import nn, ops
from shiftproof.models.downsampling import PolyphaseBranches
from shiftproof.ops.ties import find_ties, view_numbers


def shifted_by(x: Tensor, steps: tuple[int, ...]) -> Tensor:
    """All circular shifts of each map by multiples of the steps: (N, shifts, values)."""
    ranges = [range(0, size, step) for size, step in zip(x.shape[2:], steps, strict=True)]
    axes = tuple(range(2, x.ndim))
    return torch.stack(
        [torch.roll(x, shift, axes).flatten(1) for shift in itertools.product(*ranges)], 1
    )


def in_orbit(x: Tensor, y: Tensor, steps: tuple[int, ...]) -> Tensor:
    """Whether each map of y is a circular shift of that of x by multiples of the steps."""
    return (shifted_by(x, steps) == y.flatten(1)[:, None]).all(-1).any(1)


def all_shifts(x: Tensor):
    return itertools.product(*map(range, x.shape[2:]))


def broken(x: Tensor, stride: tuple[int, ...], select=ops.select_phase) -> int:
    """Count (map, shift) pairs for which the kept or the aligned map is another one."""
    phase, ones, axes = select(x, stride), (1,) * len(stride), tuple(range(2, x.ndim))
    kept, aligned = ops.take_phase(x, phase, stride), ops.align_phase(x, phase, stride)
    count = 0
    for shift in all_shifts(x):
        moved = torch.roll(x, shift, axes)
        phase = select(moved, stride)
        same = in_orbit(kept, ops.take_phase(moved, phase, stride), ones)
        same &= in_orbit(aligned, ops.align_phase(moved, phase, stride), stride)
        count += int((~same).sum())
    return count


def first_of_the_best(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    return ops.phase_scores(x, stride).argmax(1)


def binary_maps(size: int) -> Tensor:
    pixels = size * size
    return (
        ((torch.arange(2**pixels)[:, None] >> torch.arange(pixels)) & 1)
        .float()
        .view(-1, 1, size, size)
    )


def nearest(x: Tensor, factor: int) -> Tensor:
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def stripes(period: int, axis: int) -> Tensor:
    index = torch.arange(12) // (period // 2) % 2
    shape = [1, 1, 12, 1] if axis == 2 else [1, 1, 1, 12]
    return index.view(shape).float().expand(1, 2, 12, 12).clone()


def checkerboard(cell: int) -> Tensor:
    index = torch.arange(12) // cell
    return ((index[:, None] + index) % 2).float().expand(1, 1, 12, 12).clone()


def impulse() -> Tensor:
    x = torch.zeros(1, 1, 12, 12)
    x[0, 0, 3, 4] = 1
    return x


def mirrored(x: Tensor, axis: int) -> Tensor:
    return torch.cat([x, x.flip(axis)], axis)


QUARTER, HALF, FULL = (random_map(2, 3, *size) for size in ((6, 6), (12, 6), (12, 12)))
BYTES = (FULL * 40).round().clamp(-3, 3)

FAMILIES = {
    "random": FULL,
    "8-bit": BYTES,
    "constant": torch.full((1, 2, 12, 12), 0.3),
    "zeros": torch.zeros(1, 2, 12, 12),
    "impulse": impulse(),
    "all-zero channels": FULL * torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1),
    "saturated": torch.where(FULL > 0.5, 1.0, 0.0),
    "mirror left-right": mirrored(HALF, 3),
    "mirror up-down": mirrored(HALF.mT, 2),
    "mirror both": mirrored(mirrored(QUARTER, 2), 3),
    "half turn": torch.cat([HALF, HALF.flip(2, 3)], 3),
    "quarter turns": FULL + FULL.rot90(1, (2, 3)) + FULL.rot90(2, (2, 3)) + FULL.rot90(3, (2, 3)),
    "transposed": FULL + FULL.mT,
    "nearest 2": nearest(QUARTER, 2),
    "nearest 4": nearest(random_map(2, 3, 3, 3), 4),
    "interlaced": QUARTER.repeat_interleave(2, 2).repeat(1, 1, 1, 2),
    "half period": QUARTER.repeat(1, 1, 2, 2),
    "checkerboard 1": checkerboard(1),
    "checkerboard 2": checkerboard(2),
    "checkerboard 3": checkerboard(3),
    "rows 2": stripes(2, 2),
    "rows 4": stripes(4, 2),
    "columns 6": stripes(6, 3),
    "tiny": FULL * 1e-25,
    "huge": FULL * 1e25,
}


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 3), (4, 4), (2, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_choice_moves_with_every_family_of_maps(device, family, stride):
    assert broken(FAMILIES[family].to(device), stride) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["mirror both", "half turn", "nearest 2", "transposed"])
def test_the_choice_moves_in_every_dtype_and_memory_format(device, family, dtype):
    x = FAMILIES[family].to(device, dtype)
    assert broken(x, (2, 2)) == 0
    assert broken(x.contiguous(memory_format=torch.channels_last), (2, 2)) == 0


@pytest.mark.parametrize("family", ["mirror both", "mirror left-right", "half turn", "nearest 2"])
def test_control_the_first_of_the_best_does_not_move(device, family):
    assert broken(FAMILIES[family].to(device), (2, 2), first_of_the_best) > 0


@pytest.mark.parametrize(
    "selector",
    [nn.LargestNorm(1), nn.LargestNorm(float("inf")), nn.SmallestNorm(), nn.LargestValue()],
)
@pytest.mark.parametrize("family", ["8-bit", "mirror both", "half turn", "nearest 2", "saturated"])
def test_ties_of_every_selector_move(device, family, selector):
    select = nn.SelectPhase2d(2, selector)
    assert broken(FAMILIES[family].to(device), (2, 2), lambda x, stride: select(x)) == 0


@pytest.mark.parametrize(("shape", "stride"), [((8,), (2,)), ((4, 4, 4), (2, 2, 2))])
def test_mirror_symmetric_maps_of_one_and_three_axes(device, shape, stride):
    x = random_map(2, 2, *shape).to(device)
    x = x + x.flip(-1)
    assert broken(x, stride) == 0
    assert broken(torch.cat([x, x], -1), stride) == 0


@pytest.mark.parametrize("stride", [(5, 5), (5, 1)])
def test_stride_five(device, stride):
    x = mirrored(random_map(1, 2, 10, 5).to(device), 3)
    assert broken(x, stride) == 0


def test_all_binary_maps_of_four_by_four_under_all_shifts(device):
    x = binary_maps(4).to(device)
    assert broken(x, (2, 2)) == 0
    assert broken(x[::16], (2, 2), first_of_the_best) > 0


@pytest.mark.parametrize("before", [False, True])
def test_all_binary_maps_through_both_branches_of_a_residual_block(device, before):
    x = binary_maps(4).to(device)
    # The main branch is dead on half of the maps, where the shortcut alone can decide.
    dead = (torch.arange(len(x), device=device) % 2).view(-1, 1, 1, 1)
    branches = PolyphaseBranches(3, "circular", None, before)
    main, shortcut = branches(x * dead, x)
    for shift in all_shifts(x):
        moved = torch.roll(x, shift, (2, 3))
        outputs = torch.cat(branches(moved * dead, moved), 1)
        assert in_orbit(torch.cat([main, shortcut], 1), outputs, (1, 1)).all()


def test_control_a_dead_main_branch_must_not_decide_alone():
    x = binary_maps(4)[:2000]
    failures = 0
    for shift in all_shifts(x):
        moved = torch.roll(x, shift, (2, 3))
        phase = ops.select_phase(torch.zeros_like(x), 2)
        kept = ops.take_phase(moved, phase, 2)
        failures += int((~in_orbit(ops.take_phase(x, phase, 2), kept, (1, 1))).sum())
    assert failures > 0


def test_a_map_without_ties_costs_no_view(monkeypatch):
    monkeypatch.setattr("shiftproof.ops.scores.view_numbers", None)
    assert ops.select_phase(FULL, 2).shape == (2,)


def test_only_tied_samples_are_looked_at_again():
    x = torch.cat([FULL, FAMILIES["mirror both"]])
    assert torch.equal(ops.select_phase(x, 2)[:2], ops.select_phase(FULL, 2))


def test_scores_within_the_tolerance_are_ties():
    scores = torch.tensor(
        [[1.0, 1 - 1e-10, 1 - 1e-8], [-1.0, -1 - 1e-10, -2.0]], dtype=torch.float64
    )
    assert find_ties(scores).tolist() == [[True, True, False]] * 2
    assert find_ties(torch.tensor([[torch.inf, 1.0]])).tolist() == [[True, False]]


def test_views_are_equal_exactly_where_the_map_repeats():
    numbers = view_numbers([FAMILIES["half period"]])
    assert torch.equal(numbers, torch.roll(numbers, (6, 6), (1, 2)))
    assert numbers[0].unique().numel() == 36
    assert view_numbers([FULL])[0].unique().numel() == 144


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="the samples and the size of the first"):
        ops.select_phase((torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)), 2)


def test_a_compiled_choice_is_the_same():
    maps = torch.cat([FULL, FAMILIES["mirror both"], FAMILIES["nearest 2"]])
    compiled = torch.compile(ops.select_phase, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(maps, 2), ops.select_phase(maps, 2))
    assert torch.equal(
        torch.vmap(lambda x: ops.select_phase(x, 2))(maps[:, None])[:, 0], compiled(maps, 2)
    )


def two_impulses(shape: tuple[int, ...], apart: int) -> Tensor:
    """Two pixels of one; the view from the first differs from that of the second far away only."""
    x = torch.zeros(1, 1, math.prod(shape))
    x[..., [0, apart]] = 1
    return x.view(1, 1, *shape)


LONG = [
    ((32_768,), 16_385, (2,)),
    ((1, 50_000), 24_999, (1, 2)),
    ((50_001, 1), 20_002, (3, 1)),
    ((1, 1, 20_000), 9_999, (1, 1, 2)),
]


@pytest.mark.parametrize(("shape", "apart", "stride"), LONG)
def test_the_choice_moves_along_any_length(device, shape, apart, stride):
    x, shifts = two_impulses(shape, apart).to(device), (1, 2, apart, math.prod(shape) // 2 + 3)
    axes = tuple(range(2, x.ndim))
    naive = []
    for shift in shifts:
        steps = tuple(shift if size > 1 else 0 for size in shape)
        moved = torch.roll(x, steps, axes)
        offset = torch.tensor([steps], device=device)
        expected, _ = ops.shift_phase(ops.select_phase(x, stride), offset, stride)
        assert torch.equal(ops.select_phase(moved, stride), expected)
        found, _ = ops.shift_phase(first_of_the_best(x, stride), offset, stride)
        naive.append(torch.equal(first_of_the_best(moved, stride), found))
    assert not all(naive)  # the control


class Choice(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ops.select_phase(x, 2)


@pytest.mark.parametrize("bound", [16_384, None])
def test_a_graph_of_open_length_is_exact_or_stops(bound):
    count = torch.export.Dim("count", max=bound)
    program = torch.export.export(
        Choice(), (torch.ones(1, 1, 64),), dynamic_shapes=({2: 2 * count},)
    ).module()
    short, long = two_impulses((8_192,), 4_097), two_impulses((32_768,), 16_385)
    assert torch.equal(program(short), ops.select_phase(short, 2))
    if bound is None:
        with pytest.raises(RuntimeError, match="select_phase: a graph recorded for any size"):
            program(long)
    else:
        for shift in (0, 1, 16_385):
            moved = long.roll(shift, 2)
            assert torch.equal(program(moved), ops.select_phase(moved, 2))
