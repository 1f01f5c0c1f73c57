"""What a model returns, and how far it is from what a shifted input should give."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from shiftproof.analysis.outputs import map_dims
from shiftproof.certification.orbit import closest_shift, largest_difference, widened
from shiftproof.inputs import Inputs
from shiftproof.ops import circular_shift


def as_map(output: Tensor, inputs: Inputs) -> Tensor | None:
    """Read an output as something that moves with the input, see ``analysis.outputs.map_dims``.

    Args:
        output: A tensor that the model returned.
        inputs: The model's input.

    Returns:
        The output as ``(N, C, *spatial)``, or None.
    """
    dims = map_dims(output.shape, inputs.tensors[0].shape, inputs.dims)
    if dims is None:
        return None
    last = output.movedim(dims, tuple(range(-len(dims), 0)))
    return last.reshape(len(output), -1, *last.shape[last.ndim - len(dims) :])


def is_whole(sizes: Sequence[int], output_sizes: Sequence[int]) -> bool:
    """Whether one size is a multiple of the other, the same along every axis but those of 1."""
    pairs = [(a, b) for a, b in zip(sizes, output_sizes, strict=True) if b > 1]
    ratios = {Fraction(output, size) for size, output in pairs}
    return len(ratios) == 1 and 1 in (min(ratios).numerator, min(ratios).denominator)


def expected_shift(
    shift: Sequence[int], sizes: Sequence[int], output_sizes: Sequence[int]
) -> tuple[int, ...] | None:
    """Shift that an output map must show.

    Args:
        shift: Shift of the input, in its pixels.
        sizes: Spatial sizes of the input.
        output_sizes: Spatial sizes of the output.

    Returns:
        The shift in pixels of the output, where that is a whole number; None elsewhere, where any
        circular shift will do, because by which part of a pixel the content moved depends on the
        phases that were chosen, and where neither size is a multiple of the other, the same along
        every axis.
    """
    if not is_whole(sizes, output_sizes):
        return None
    moved = [
        Fraction(pixels * output, size) if output > 1 else Fraction(0)
        for pixels, size, output in zip(shift, sizes, output_sizes, strict=True)
    ]
    return None if any(part.denominator > 1 for part in moved) else tuple(map(int, moved))


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


def deviations(
    before: Tensor, after: Tensor, shift: Sequence[int], inputs: Inputs, tolerance: float
) -> Tensor:
    """How far each sample of an output is from what the shift of the input asks for.

    Args:
        before: Output for the input, ``(N, ...)``.
        after: Output for the shifted input.
        shift: Shift of the input, in pixels.
        inputs: The input.
        tolerance: Deviation at which the search for a shift of the output may stop.

    Returns:
        Largest deviation per sample, in units of the spread, ``(N,)``.
    """
    unit = spread(before)
    map_before, map_after = as_map(before, inputs), as_map(after, inputs)
    if map_before is None or map_after is None:
        return largest_difference(before, after) / unit
    moved_by = expected_shift(shift, inputs.sizes, map_before.shape[2:])
    if moved_by is not None:
        return largest_difference(circular_shift(map_before, moved_by), map_after) / unit
    within = torch.full((len(before),), tolerance * unit, device=before.device)
    return closest_shift(map_before, map_after, within)[1] / unit


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
