"""What a model returns, and how far it is from what a shifted input should give."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from shiftproof.analysis.errors import shown
from shiftproof.analysis.outputs import Dims, readings, steps_of
from shiftproof.certification.orbit import closest_shift, largest_difference, widened
from shiftproof.inputs import Inputs
from shiftproof.ops import circular_shift


def spread(output: Tensor) -> float:
    """Standard deviation of all values, the unit of every deviation.

    Args:
        output: A tensor that the model returned.

    Returns:
        The deviation; for values that are all equal their magnitude, or 1 for zeros.
    """
    values = widened(output)
    deviation = values.std(correction=0).item()
    return deviation or values.abs().max().item() or 1.0


def _as_map(output: Tensor, dims: Dims) -> Tensor:
    """Read an output as ``(N, C, *spatial)``."""
    last = output.movedim(dims, tuple(range(-len(dims), 0)))
    return last.reshape(len(output), -1, *last.shape[last.ndim - len(dims) :])


class Output:
    """A tensor that a model returns, and how far it is from what shifts of the input ask for.

    Args:
        before: The output for the input, ``(N, ...)``, or anything that is one for the whole batch.
        inputs: The input.
        tolerance: Deviation that counts as rounding.

    Attributes:
        deviations: Largest deviation of each shift and sample, in units of the spread, for each way
            to read the output as a map that is possible yet; ``()`` is one that stays the same.
    """

    def __init__(self, before: Tensor, inputs: Inputs, tolerance: float) -> None:
        self.inputs, self.tolerance = inputs, tolerance
        images = inputs.tensors[0]
        self.is_batch = before.ndim > 0 and len(before) == len(images)
        self.before = before if self.is_batch else before[None]
        self.readings = readings(self.before.shape, images.shape, inputs.dims)
        self.deviations: dict[Dims, list[Tensor]] = {dims: [] for dims in self.readings}
        self.unit = spread(before)

    @property
    def reading(self) -> Dims:
        """The dimensions along which it moves, or was found to move."""

        def largest(dims: Dims) -> tuple[float, int]:  # what stays is not said to move
            rows = self.deviations[dims]
            return max((row.max().item() for row in rows), default=0.0), len(dims)

        return min(self.deviations, key=largest)

    @property
    def cells(self) -> list[tuple[int, ...]]:
        """Per reading and axis, pixels of the input that are whole pixels of the map."""
        shape = self.before.shape
        steps = [steps_of(shape, dims, self.inputs.sizes) for dims in self.readings if dims]
        return [tuple(step.numerator for step in axes) for axes in steps]

    @property
    def note(self) -> str:
        """What was found of an output that may be a map or not, by its shape."""
        if len(self.readings) == 1 or () not in self.readings:
            return ""
        where = ", ".join(map(str, self.reading))
        found = f"moved along its dimensions {where}" if where else "stayed the same"
        return (
            f"an output of shape {tuple(self.before.shape)} may be a map of an input of "
            f"{shown(self.inputs.sizes)} or not; it {found}"
        )

    def compare(self, after: Tensor, shift: Sequence[int]) -> None:
        """Take the output for the shifted input.

        Args:
            after: The output.
            shift: Shift of the input, in pixels.
        """
        after = after if self.is_batch else after[None]
        for dims, rows in self.deviations.items():
            found = self._deviations(after, shift, dims) / self.unit
            rows.append(found.cpu().to(torch.float64))
        fitting = {
            dims: rows
            for dims, rows in self.deviations.items()
            if rows[-1].max().item() <= self.tolerance
        }
        self.deviations = fitting or self.deviations

    def _deviations(self, after: Tensor, shift: Sequence[int], dims: Dims) -> Tensor:
        if not dims:
            return largest_difference(self.before, after)
        first, second = _as_map(self.before, dims), _as_map(after, dims)
        steps = steps_of(self.before.shape, dims, self.inputs.sizes)
        moved = [
            Fraction(pixels) / step if size > 1 else Fraction(0)
            for pixels, step, size in zip(shift, steps, first.shape[2:], strict=True)
        ]
        if all(part.denominator == 1 for part in moved):
            return largest_difference(circular_shift(first, tuple(map(int, moved))), second)
        # By which part of a pixel the content moved depends on the phases that were chosen.
        limit = torch.full((len(first),), self.tolerance * self.unit, device=first.device)
        return closest_shift(first, second, limit)[1]


def classes(outputs: Sequence[Tensor]) -> Tensor | None:
    """Predicted classes, if the first output that is a table of logits has two or more.

    Args:
        outputs: The tensors that the model returned.

    Returns:
        Classes, ``(N,)``, or None.
    """
    for output in outputs:
        if output.ndim == 2 and output.shape[1] > 1 and output.is_floating_point():
            return output.argmax(1)
    return None
