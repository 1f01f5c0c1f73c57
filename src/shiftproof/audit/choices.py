"""Which phase each stage of a network chose, and how closely."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shiftproof import ops
from shiftproof.audit.contenders import Contender, Scenes
from shiftproof.motion import locate_grid
from shiftproof.ops.phases import per_axis
from shiftproof.results.audit import StageChoice


class _Watch(TorchFunctionMode):
    """Notes every choice of a phase, with the module that made it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.found: list[tuple[str, Tensor, tuple[int, ...], Tensor]] = []
        self._inside: list[str] = []
        self._handles = []
        for name, child in module.named_modules():
            enter, leave = self._hooks(name)
            self._handles.append(child.register_forward_pre_hook(enter, prepend=True))
            self._handles.append(child.register_forward_hook(leave, always_call=True))

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        return lambda *_: self._inside.append(name), lambda *_: self._inside.remove(name)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function and look at what it chooses."""
        result = func(*args, **(kwargs or {}))
        if func is ops.select_phase:
            self._note(result, *args, **(kwargs or {}))
        return result

    def _note(self, phase: Tensor, maps: Any, stride: Any, scores: Tensor | None = None) -> None:
        x = maps if isinstance(maps, Tensor) else maps[0]
        scores = ops.phase_scores(x, stride) if scores is None else scores
        strides = per_axis("audit", stride, x.ndim - 2)
        if scores.shape[1] < 2 or len(strides) != 2:
            return
        best, second = scores.double().topk(2, dim=1).values.unbind(1)
        scale = torch.maximum(best.abs(), second.abs())
        gap = ((best - second) / scale).nan_to_num(nan=0.0)
        self.found.append((self._inside[-1] if self._inside else "", phase, strides, gap))


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
