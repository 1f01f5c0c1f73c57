"""Which module chooses a phase, and how clearly, while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from shiftproof import ops
from shiftproof.metrics import phase_gap
from shiftproof.ops.phases import per_axis


class ChoiceWatch(TorchFunctionMode):
    """Tells ``note`` of every choice between phases that is made while the mode is on.

    Args:
        modules: Modules with their names; a choice is that of the innermost one that is running.
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self._inside: list[str] = []
        self._handles = []
        for name, module in modules:
            enter, leave = self._hooks(name)
            self._handles.append(module.register_forward_pre_hook(enter, prepend=True))
            self._handles.append(module.register_forward_hook(leave, always_call=True))

    def _hooks(self, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        return lambda *_: self._inside.append(name), lambda *_: self._inside.remove(name)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def note(self, name: str, phase: Tensor, stride: tuple[int, ...], gap: Tensor) -> None:
        """Take a choice.

        Args:
            name: The module that made it; empty outside of all.
            phase: The phases, ``(N,)``.
            stride: The stride of each axis.
            gap: Their gaps, ``(N,)``; 0 where scores are infinite.
        """
        raise NotImplementedError

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
            self._look(result, *args, **(kwargs or {}))
        return result

    def _look(self, phase: Tensor, x: Any, stride: Any, scores: Tensor | None = None) -> None:
        first = x if isinstance(x, Tensor) else x[0]
        scores = ops.phase_scores(first, stride) if scores is None else scores
        if scores.shape[1] < 2:
            return
        strides = per_axis("select_phase", stride, first.ndim - 2)
        gap = phase_gap(scores.double()).nan_to_num(nan=0.0)
        self.note(self._inside[-1] if self._inside else "", phase, strides, gap)
