"""Which phase each stage of a network chose, and how closely."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from shiftproof.audit.contenders import Contender, Scenes
from shiftproof.certification.choices import ChoiceWatch
from shiftproof.motion import locate_grid
from shiftproof.results.audit import StageChoice


class _Watch(ChoiceWatch):
    """Keeps every choice of a phase in two dimensions, with the module that made it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.named_modules())
        self.found: list[tuple[str, Tensor, tuple[int, ...], Tensor]] = []

    def note(self, name: str, phase: Tensor, stride: tuple[int, ...], gap: Tensor) -> None:
        """Keep a choice."""
        if len(stride) == 2:
            self.found.append((name, phase, stride, gap))


def measure_choices(contender: Contender, scenes: Scenes) -> tuple[StageChoice, ...]:
    """What stages choose for photographs without a shift.

    Args:
        contender: The network.
        scenes: The photographs that are shown.

    Returns:
        One entry per choice and photograph, stages in the order of execution.
    """
    shifts = torch.zeros(len(scenes), 2, dtype=torch.int64)
    if contender.lock is not None:
        return _of_lock(contender, scenes, shifts)
    module = contender.subject.module
    if module is None:
        return ()
    watch = _Watch(module)
    with contextlib.closing(watch), watch:
        contender.logits(scenes, shifts)
    found = []
    for stage, phases, (rows, columns), gaps in watch.found:
        for picture, (phase, gap) in enumerate(zip(phases.tolist(), gaps.tolist(), strict=False)):
            place = (float(phase // columns), float(phase % columns))
            found.append(StageChoice(stage, picture, place, (rows, columns), gap))
    return tuple(found)


def _of_lock(contender: Contender, scenes: Scenes, shifts: Tensor) -> tuple[StageChoice, ...]:
    lock = contender.lock
    assert lock is not None
    frames = scenes.frames(shifts, margin=True)
    middle = [pixels / 2 for pixels in lock.margin]
    place = locate_grid(frames, lock.stride, lock.selector, origin=middle)
    rows, columns = lock.stride
    return tuple(
        StageChoice("the lock", picture, (offset[0], offset[1]), (rows, columns), gap)
        for picture, (offset, gap) in enumerate(
            zip(place.offset.tolist(), place.gap.tolist(), strict=True)
        )
    )
