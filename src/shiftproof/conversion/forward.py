"""A module's own forward pass, with some of its calls done otherwise."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from shiftproof.analysis.changes import CircularWindow, Edit, ExactMean, functions_named
from shiftproof.conversion.alignment import (
    Aligner,
    Travelling,
    move_back,
    require_sizes,
)
from shiftproof.inputs import ImageInput
from shiftproof.nested import tensors_in, with_tensors


@dataclass(frozen=True)
class AlignedCall:
    """A call of a function whose result is aligned.

    Attributes:
        kind: Name of the function, and how many dimensions its result has.
        number: How many such calls come before, those of children included.
        total: How many it makes in all.
        aligner: Aligns the result.
    """

    kind: tuple[str, int]
    number: int
    total: int
    aligner: Aligner


@dataclass(frozen=True)
class AlignedWindow(Edit):
    """A window that reads its input from the phase that the content selects, in one copy.

    Attributes:
        aligner: Chooses the phase.
    """

    aligner: Aligner

    def changed(self, func: Callable[..., Any], bound: dict[str, Any]) -> Any:
        """Compute what the call gives."""
        assert isinstance(self.change, CircularWindow)
        return self.change.run(func, bound, self.aligner.phase(bound["input"]))


class _Editing(TorchFunctionMode):
    """Does some calls of functions of torch otherwise, while it is active in this thread."""

    def __init__(self, forward: EditedForward) -> None:
        super().__init__()
        self.forward = forward
        self.counts: Counter[tuple[str, int]] = Counter()
        self.found: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function, or do what an edit says."""
        kwargs = kwargs or {}
        for index, edit in enumerate(self.forward.edits):
            if edit.matches(func, args, kwargs):
                self.found.add(index)
                return edit.run(func, args, kwargs)
        result = func(*args, **kwargs)
        ndim = getattr(result, "ndim", -1)
        calls = self.forward.calls
        kinds = {c.kind for c in calls if c.kind[1] == ndim and func in functions_named(c.kind[0])}
        self.counts.update(kinds)
        found = (c for c in calls if c.kind in kinds and c.number + 1 == self.counts[c.kind])
        return next((call.aligner(result) for call in found), result)


class EditedForward:
    """Stands as ``forward`` of a module, and runs the module's own.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.original = vars(module).get("forward")
        self.edits: list[Edit] = []
        self.calls: list[AlignedCall] = []

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original or type(self.module).forward.__get__(self.module))

    @property
    def __code__(self) -> Any:
        # torch.export asks for the names of the arguments.
        return getattr(self.original or type(self.module).forward, "__code__", None)

    def run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run the module's own forward pass."""
        if self.original is not None:
            return self.original(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, with the changes."""
        if not (self.edits or self.calls):
            return self.run(args, kwargs)
        mode = _Editing(self)
        with mode:
            result = self.run(args, kwargs)
        for call in self.calls:
            if mode.counts[call.kind] != call.total:
                self._refuse(call.kind[0], f"{call.total} times", mode.counts[call.kind])
        if len(mode.found) < len(self.edits) and not self.module.training:
            missing = [e for i, e in enumerate(self.edits) if i not in mode.found]
            self._refuse(missing[0].function, "with the arguments it had", "no such call")
        return result

    def _refuse(self, function: str, rule: str, found: object) -> None:
        raise RuntimeError(
            f"converted network: {type(self.module).__name__} must call {function} as when it was "
            f"converted, {rule}, got {found or 'none'}; convert it for the inputs and in the state "
            "it is used in"
        )


@dataclass(frozen=True)
class MovedOutput:
    """An output map that is moved back.

    Attributes:
        index: Which of the tensors that the network returns.
        dims: Dimension of each spatial axis.
        scales: Per alignment and axis, positions of the aligned tensor in a common unit.
        cells: Per axis, a pixel of the output in that unit; it is moved by whole ones.
    """

    index: int
    dims: tuple[int, ...]
    scales: tuple[tuple[int, ...], ...]
    cells: tuple[int, ...]


class EditedNetwork(EditedForward):
    """Stands as ``forward`` of the network itself, checks sizes and moves outputs back.

    Args:
        module: The network.

    Attributes:
        sizes: Spatial sizes that the images must have; None for any.
        outputs: The output maps that are moved back.
        images: Where the images are.
        remainders: Pixels of the input by which outputs are moved back in whole numbers, per axis.
        inputs: What aligns the images, all with the phase of the first.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.sizes: tuple[int, ...] | None = None
        self.outputs: tuple[MovedOutput, ...] = ()
        self.images: tuple[ImageInput, ...] = ()
        self.remainders: tuple[float, ...] = ()
        self.inputs: list[Aligner] = []

    @property
    def is_optional(self) -> bool:
        """Whether nothing but bits is lost where the class's own forward pass runs instead."""
        exact = all(isinstance(edit.change, ExactMean) for edit in self.edits)
        return exact and not (self.calls or self.inputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, on images of the right size, and move its outputs back."""
        if self.sizes is not None:
            require_sizes(self.images[0].read(args, kwargs), self.sizes, self.images[0].dims)
        with Travelling() if self.outputs else nullcontext({}) as offsets:
            for aligner in self.inputs:
                phase = aligner.phase(self.images[0].read(args, kwargs))
                for image in self.images:
                    x = image.read(args, kwargs)
                    is_standard = image.dims == tuple(range(2, x.ndim))
                    aligned = aligner.aligned(x, phase, image.dims, is_standard)
                    args, kwargs = image.put(args, kwargs, aligned)
            result = super().__call__(*args, **kwargs)
            tensors = tensors_in(result) if self.outputs else []
            moved = {
                o.index: move_back(tensors[o.index], o.dims, offsets, o.scales, o.cells)
                for o in self.outputs
            }
        return with_tensors(result, moved)
