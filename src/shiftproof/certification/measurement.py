"""Running a model on shifted copies of its input, and comparing what it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.certification.certificate import Kind, Measurement
from shiftproof.certification.choices import ChoiceWatch
from shiftproof.certification.outputs import Output, classes
from shiftproof.inputs import Inputs
from shiftproof.nested import tensors_in

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 0.25}
"""Deviations, in standard deviations of the output, that count as rounding.

Sums of thousands of products, taken in another order, differ by 1e-13 in float64 and 3e-5 in
float32 in the deepest networks tried; another pixel that is kept, or one border of zeros, shows in
the second or third digit, and above 1e-9 unless it is multiplied by almost nothing.  The two short
types have 11 and 8 bits and round after each layer: there the limits are 32 units in the last place
and only float64 can tell the truth.
"""


class _Watch(ChoiceWatch):
    """Notices how clear choices of a phase are, and what turns float64 into something narrower.

    Args:
        model: The model.
        gaps: Smallest gap of each choice so far, by the name of the module that chose.
    """

    def __init__(self, model: Callable[[Tensor], Any], gaps: dict[str, float]) -> None:
        named = model.named_modules() if isinstance(model, nn.Module) else ()
        # Scripted modules take no hooks.
        super().__init__(pair for pair in named if not isinstance(pair[1], torch.jit.ScriptModule))
        self.narrowest: torch.dtype | None = None
        self.gaps = gaps

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function and look at what it does."""
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, Tensor) and result.dtype in ROUNDING:
            loss = ROUNDING[result.dtype]
            known = 0.0 if self.narrowest is None else ROUNDING[self.narrowest]
            if loss > max(known, ROUNDING[torch.float64]) and any(
                value.dtype == torch.float64 for value in tensors_in((args, kwargs))
            ):
                self.narrowest = result.dtype
        return result

    def note(self, name: str, phase: Tensor, stride: tuple[int, ...], gap: Tensor) -> None:
        """Keep the smallest gap."""
        smallest = gap.min().item()
        self.gaps[name] = min(smallest, self.gaps.get(name, smallest))


@dataclass(frozen=True)
class Run:
    """A model's answers to the pairs, in one precision.

    Attributes:
        dtype: Precision of the input and the parameters.
        shifts: The shifts, in pixels per axis.
        tolerance: Deviation that counts as rounding.
        deviations: Largest deviation of each pair, ``(num_shifts, N)``.
        flipped: Whether the predicted class of each pair differs, likewise, or None.
        kind: What the outputs are.
        narrowest: A narrower precision that a part of the model computes in, or None.
        notes: What was found of outputs that may be maps or not.
    """

    dtype: torch.dtype
    shifts: Sequence[Sequence[int]]
    tolerance: float
    deviations: Tensor
    flipped: Tensor | None
    kind: Kind
    narrowest: torch.dtype | None
    notes: tuple[str, ...]

    @property
    def measurement(self) -> Measurement:
        """The numbers of the certificate."""
        return Measurement(
            dtype=str(self.dtype).removeprefix("torch."),
            largest=self.deviations.max().item(),
            typical=self.deviations.median().item(),
            tolerance=self.tolerance,
            num_pairs=self.deviations.numel(),
        )


def _kind(outputs: Sequence[Output]) -> Kind:
    moving = [bool(output.reading) for output in outputs]
    if all(moving):
        return "equivariant"
    return "mixed" if any(moving) else "invariant"


def run_pairs(
    model: Callable[..., Any],
    inputs: Inputs,
    shifts: Sequence[Sequence[int]],
    gaps: dict[str, float],
) -> Run:
    """Compare a model's outputs for images and for their shifted copies.

    Args:
        model: The model, in eval mode.
        inputs: Its arguments.
        shifts: Circular shifts, in pixels per axis.
        gaps: Takes the smallest gap of each choice of a phase.

    Returns:
        The comparison.

    Raises:
        TypeError: If the model returns no tensor.
        ValueError: If an output is not finite, or its shape depends on the shift.
    """
    dtype, watch = inputs.tensors[0].dtype, _Watch(model, gaps)
    with torch.no_grad(), contextlib.closing(watch), watch:
        result = run(model, inputs)
        before = [output.detach().clone() for output in tensors_in(result)]
        _check_outputs(before, result)
        narrowest = watch.narrowest if dtype == torch.float64 else None
        tolerance = ROUNDING.get(narrowest or dtype, ROUNDING[torch.float32])
        outputs = [Output(output, inputs, tolerance) for output in before]
        shifts = [*shifts, *_whole_cells(outputs, inputs.sizes, shifts)]
        flips = []
        predicted = classes(before)
        for shift in shifts:
            after = [output.detach() for output in tensors_in(run(model, inputs, shift))]
            if [output.shape for output in after] != [output.shape for output in before]:
                raise ValueError(
                    "certify: the shapes of the outputs must be the same for every shift, got "
                    f"{[tuple(output.shape) for output in before]} and "
                    f"{[tuple(output.shape) for output in after]}; wrap the model so that it "
                    "returns its maps or logits"
                )
            for output, found in zip(outputs, after, strict=True):
                output.compare(found, shift)
            shifted_classes = classes(after)
            if predicted is not None and shifted_classes is not None:
                flips.append((predicted != shifted_classes).cpu())
    count = len(inputs.tensors[0])
    worst = torch.zeros(len(shifts), count, dtype=torch.float64)
    for output in outputs:
        worst = torch.maximum(worst, torch.stack(output.deviations[output.reading]))
    return Run(
        dtype=dtype,
        shifts=shifts,
        tolerance=tolerance,
        deviations=worst,
        flipped=torch.stack(flips) if flips else None,
        kind=_kind(outputs),
        narrowest=narrowest,
        notes=tuple(dict.fromkeys(output.note for output in outputs if output.note)),
    )


def _whole_cells(
    outputs: Sequence[Output], sizes: Sequence[int], shifts: Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Shifts by whole pixels of each map that is coarser than the input, if there are none yet."""
    added: list[tuple[int, ...]] = []
    found = {cells for output in outputs for cells in output.cells}
    for cells in sorted(found, reverse=True):
        known = [
            shift
            for shift in (*shifts, *added)
            if all(
                not d % cell and (d % size or cell >= size)
                for d, cell, size in zip(shift, cells, sizes, strict=True)
            )
        ]
        if max(cells) > 1 and not known:
            rows = {(1,) * len(cells), tuple(-(axis + 1) for axis in range(len(cells)))}
            whole = [tuple(n * c for n, c in zip(row, cells, strict=True)) for row in sorted(rows)]
            added += [w for w in whole if any(d % s for d, s in zip(w, sizes, strict=True))]
    return added


def run(model: Callable[..., Any], inputs: Inputs, shift: Sequence[int] | None = None) -> Any:
    """What a model returns for shifted images; it may overwrite what it is given."""
    given = inputs.shifted(shift or (0,) * len(inputs.dims))
    return model(*given.args, **given.kwargs)


def require_response(model: Callable[..., Any], inputs: Inputs) -> None:
    """Refuse a model that answers all images alike, and is invariant to anything.

    Args:
        model: The model, in eval mode.
        inputs: Its arguments.

    Raises:
        ValueError: If the floating-point outputs are the same for other images, bit for bit.
    """
    if not inputs.tensors[0].is_floating_point():
        return
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Tensor, _: tuple[int, ...]) -> Tensor:
        noise = torch.randn(x.shape, generator=generator).to(x)
        return x + noise * x.float().std(correction=0).to(x)

    with torch.no_grad():
        outputs = list(tensors_in(run(model, inputs)))
        before = [output.clone() for output in outputs if output.is_floating_point()]
        others = tensors_in(run(model, inputs.mapped(noisy)))
        after = [output for output in others if output.is_floating_point()]
    if before and len(before) == len(after) and all(map(torch.equal, before, after)):
        raise ValueError(
            "certify: the output must depend on the input, got the same for other images; a last "
            "layer whose weights are zero makes any model invariant, so initialise or load them"
        )


def _check_outputs(outputs: Sequence[Tensor], result: Any) -> None:
    if not outputs:
        raise TypeError(
            "certify: the model must return a tensor, or dicts, lists or tuples of tensors, got "
            f"{type(result).__name__}; wrap it so that it returns its logits or maps"
        )
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise ValueError(
            "certify: the output for example_input must be finite, got NaN or infinity; pass an "
            "input like those the model is made for"
        )
