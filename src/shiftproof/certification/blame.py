"""Which module loses the orbit first."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from shiftproof.certification.certificate import Blame
from shiftproof.certification.observation import Observer
from shiftproof.certification.outputs import expected_shift
from shiftproof.certification.reasons import (
    UNEXPLAINED,
    UNSTEADY,
    function_reason,
    likely_reason,
    module_reason,
)
from shiftproof.certification.trace import Step, Tracer
from shiftproof.ops import circular_shift

_MAX_SUSPECTS = 10


def _blame(step: Step, reason: str | None) -> tuple[int, Blame]:
    return step.order, Blame(step.name, type(step.module).__name__, reason or UNEXPLAINED)


def _offenders(step: Step, pair: int) -> Iterator[tuple[int, Blame]]:
    """Innermost steps at which the orbit is lost for good, with their place in the order.

    A step whose output leaves the orbit is innocent if a step behind it, given what is out of its
    orbit, returns to it: padding in one module and the convolution in the next, or reshapes that
    cannot be read.
    """
    reason = module_reason(step, pair)
    children = [
        child
        for place, child in enumerate(step.children, 1)
        if child.loses_orbit(pair)
        and not any(later.regains_orbit(pair) for later in step.children[place:])
    ]
    if not children or (reason and all(child.function for child in children)):
        yield _blame(step, reason or likely_reason(step))
        return
    for child in children:
        if child.function:
            reason = function_reason(child, pair) or likely_reason(step) or UNEXPLAINED
            yield _blame(child, f"{reason} (in {child.described})")
        else:
            yield from _offenders(child, pair)


def _modules(step: Step) -> Iterator[Step]:
    """Calls of modules in the order in which they end."""
    for child in step.children:
        yield from _modules(child)
    if not step.function:
        yield step


def _misplacement(
    root: Step, pair: int, shift: Sequence[int], sizes: Sequence[int]
) -> tuple[int, Blame] | None:
    """The module behind which maps of the input's size no longer move as the input does."""
    expected = tuple(d % size for d, size in zip(shift, sizes, strict=True))
    suspect = None
    for step in _modules(root):
        maps = [value for value in step.outputs if value.grid == tuple(sizes) and value.shifts]
        for value in maps:
            moved = value.shifts[pair] if value.shifts else expected
            if not value.in_orbit[pair] or moved == expected:
                suspect = None
            elif suspect is None:
                shown = tuple(
                    d - size if 2 * d > size else d for d, size in zip(moved, sizes, strict=True)
                )
                suspect = _blame(
                    step,
                    f"its output moved by {shown} where the input moved by {tuple(shift)}",
                )
    return suspect


def find_suspects(
    model: nn.Module,
    images: Tensor,
    shifts: Sequence[Sequence[int]],
    tolerance: float,
    num_measured: int,
) -> tuple[Blame | None, tuple[Blame, ...]]:
    """Run a model on pairs of images and look where the orbit is lost.

    Args:
        model: The model, in eval mode, in the precision of the images.
        images: One image per pair, ``(P, C, *spatial)``.
        shifts: The shift of each; zero tells a module that is random from one that is variant.
        tolerance: Deviation, in standard deviations of a tensor, that counts as rounding.
        num_measured: Number of pairs, the first ones, that may be blamed; the others only add
            suspects.

    Returns:
        The first module that loses the orbit for a measured pair, and all suspects in order of
        execution.
    """
    sizes = images.shape[2:]
    moved = circular_shift(images, torch.tensor([list(shift) for shift in shifts]))
    observer = Observer(sizes, len(shifts), tolerance)
    root = Tracer(model, observer).trace(torch.cat([images, moved]))
    found: list[tuple[int, int, Blame]] = []
    for pair, shift in enumerate(shifts):
        lost = list(_offenders(root, pair)) if root.loses_orbit(pair) else []
        must_move = any(
            value.grid is not None and expected_shift(shift, sizes, value.grid) is not None
            for value in root.outputs
        )
        if not lost and must_move:
            culprit = _misplacement(root, pair, shift, sizes)
            lost = [culprit] if culprit is not None else []
        found += [(order, pair, blame) for order, blame in lost]
    found.sort(key=lambda entry: entry[:2])
    unsteady = {order for order, pair, _ in found if not any(shifts[pair])}
    suspects: dict[int, Blame] = {}
    for order, _, blame in sorted(found, key=lambda entry: entry[1] >= num_measured):
        suspects.setdefault(order, blame._replace(reason=UNSTEADY) if order in unsteady else blame)
    blamed = next((order for order, pair, _ in found if pair < num_measured), None)
    in_order = dict.fromkeys(suspects[order] for order in sorted(suspects))
    return None if blamed is None else suspects[blamed], tuple(in_order)[:_MAX_SUSPECTS]
