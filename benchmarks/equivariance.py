"""How far an operation or a network is from the law, as a number beside its speed.

The number is the largest difference between what comes out of the shifted input and what the law
says must come out of it, over the standard deviation of the output.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from shiftproof import ops

NUM_SHIFTS = 2
"""Random shifts per measurement."""

MapFunction = Callable[[Tensor, Tensor], Tensor]
"""Map and phase to map (or scores)."""


def _shifts(x: Tensor) -> list[tuple[int, int]]:
    """Random shifts, the first odd along both axes: no fixed grid survives it."""
    generator = torch.Generator().manual_seed(0)
    height, width = x.shape[2:]
    drawn = torch.rand(NUM_SHIFTS, 2, generator=generator).tolist()
    shifts = [(int(a * height), int(b * width)) for a, b in drawn]
    return [(shifts[0][0] | 1, shifts[0][1] | 1), *shifts[1:]]


def _over_std(difference: Tensor, still: Tensor) -> float:
    return float(difference.abs().max() / still.double().std())


def _lawful(shift: int, step: int) -> list[int]:
    """How far the law may move an output of that stride: ``(p + d - q) / step`` for phases 0, 1."""
    moves = {shift + p - (p + shift) % 2 for p in (0, 1)}
    return sorted(move // step for move in moves)


def map_error(function: MapFunction, x: Tensor, phase: Tensor, step: int) -> float:
    """Error of a function of a map and a phase, with the best of the shifts that the law allows.

    Args:
        function: Gives a map at a resolution ``step`` times lower.
        x: Feature map.
        phase: Phases, ``(N,)``; the shifted map is given the phases where they have gone.
        step: 2 for what keeps a component, 1 for what aligns with it.
    """
    worst, still = 0.0, function(x, phase)
    for shift in _shifts(x):
        moves = torch.tensor(shift, device=x.device).expand(len(x), 2)
        new_phase, _ = ops.shift_phase(phase, moves, (2, 2))
        moved = function(ops.circular_shift(x, shift), new_phase)
        differences = [
            (moved.double() - torch.roll(still, move, (2, 3)).double()).abs().flatten(1).amax(1)
            for move in itertools.product(*(_lawful(part, step) for part in shift))
        ]
        # Each sample has chosen its own phase, and so has moved its own way.
        worst = max(worst, _over_std(torch.stack(differences).amin(0), still))
    return worst


def scores_error(function: MapFunction, x: Tensor, phase: Tensor) -> float:
    """Error of scores: those of the shifted map must be the old ones, permuted."""
    worst, still = 0.0, function(x, phase)
    for shift in _shifts(x):
        moves = torch.tensor(shift, device=x.device).expand(4, 2)
        places, _ = ops.shift_phase(torch.arange(4, device=x.device), moves, (2, 2))
        moved = function(ops.circular_shift(x, shift), phase)[:, places]
        worst = max(worst, _over_std(moved.double() - still.double(), still))
    return worst


@torch.no_grad()
def logits_error(model: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Error of a network in eval mode: its logits must not change."""
    still = model(x).double()
    return max(
        _over_std(model(ops.circular_shift(x, shift)).double() - still, still)
        for shift in _shifts(x)
    )
