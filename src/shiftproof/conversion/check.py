"""The last look at a converted network: it runs, and a shift of the example changes nothing."""

from __future__ import annotations

import copy
import functools
import gc
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from shiftproof.analysis.errors import ConversionError
from shiftproof.certification.measurement import ROUNDING
from shiftproof.certification.orbit import largest_difference
from shiftproof.certification.outputs import spread
from shiftproof.conversion.planning import Decided
from shiftproof.inputs import Inputs
from shiftproof.nested import tensors_in

_WIDEST = 1e-6
"""Deviation in float64, in standard deviations, that rounding reaches where random weights
amplify it by 1e8; a border or a phase that is wrong shows in the second or third digit.
"""


def check_converted(
    converted: nn.Module,
    inputs: Inputs,
    decided: Decided | None,
) -> str:
    """Run a converted network on the example, and on the example shifted by an odd amount.

    What follows from the rules has been decided by then; this finds what they do not know, such as
    a network that goes on with a tensor that a function wrote to in place.

    Args:
        converted: The converted network; it is left as it is.
        inputs: Its arguments.
        decided: What is known of its outputs; None if a shift may change anything.

    Returns:
        Why it was not checked; empty if it was.

    Raises:
        ConversionError: If it raises, or a shift changes its outputs by more than rounding.
    """
    images = inputs.tensors[0]
    if any(tensor.is_meta for tensor in (images, *converted.parameters(), *converted.buffers())):
        return "not run, because it has no values yet (meta device); certify it once it has"
    subject = copy.deepcopy(converted).eval()
    shift = tuple(size // 2 + (size // 2 + 1) % 2 if size > 1 else 0 for size in inputs.sizes)
    zero = (0,) * len(shift)
    try:
        first = _outputs(subject, inputs, zero)
        if any(isinstance(output, FakeTensor) for output in first):
            _forget_fakes()
            first = _outputs(subject, inputs, zero)
        again = _outputs(subject, inputs, zero)
    except Exception as error:
        message = (str(error).splitlines() or [""])[0]
        raise ConversionError(
            "convert: the converted network must run on the example, got "
            f"{type(error).__name__}: {message}; convert its parts, or skip the module that fails"
        ) from error
    if decided is None or not images.is_floating_point():
        return ""
    if not all(map(torch.equal, first, again)):
        return "not checked under a shift, because it answers differently each time"
    if not all(bool(output.isfinite().all()) for output in first):
        return "not checked under a shift, because its outputs are not finite"
    if _agrees(subject, inputs, shift, decided):
        return ""
    try:  # rounding may have changed a choice
        wide = _agrees(
            subject.double(), inputs.mapped(lambda x, _: _wide(x), _wide), shift, decided
        )
    except (RuntimeError, TypeError) as error:
        return f"not checked under a shift in float64: {(str(error).splitlines() or [''])[0]}"
    if not wide:
        raise ConversionError(
            "convert: a converted network must not change under a shift, got another output for "
            f"the example shifted by {shift}; name the module that certify blames in skip=, and "
            "please report it"
        )
    return ""


def _forget_fakes() -> None:
    """Empty what ``functools`` caches, if tensors without values came in when nothing was run."""
    for cache in gc.get_objects():
        if type(cache) is functools._lru_cache_wrapper:
            held = gc.get_referents(cache)  # the results, or what holds them
            held += [value for part in held for value in gc.get_referents(part)]
            held += [value for part in held for value in gc.get_referents(part)]
            if any(type(value) is FakeTensor for value in held):
                cache.cache_clear()


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _agrees(model: nn.Module, inputs: Inputs, shift: Sequence[int], decided: Decided) -> bool:
    """Whether outputs for shifted images are the shifted outputs, to rounding."""
    tolerance = max(ROUNDING.get(inputs.tensors[0].dtype, ROUNDING[torch.float32]), _WIDEST)
    placed = {output.index for output in decided.outputs}
    steps = [form.steps for i, form in enumerate(decided.forms) if form is not None and i in placed]
    cells = [math.lcm(*(step.numerator for step in axis)) for axis in zip(*steps, strict=True)]
    whole = tuple(-(-d // cell) * cell for d, cell in zip(shift, cells, strict=bool(cells)))
    before = _outputs(model, inputs, (0,) * len(shift))
    for moved in dict.fromkeys((tuple(shift), whole or tuple(shift))):
        after = _outputs(model, inputs, moved)
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            form = decided.forms[index]
            if form is not None:
                amounts = [d / step for d, step in zip(moved, form.steps, strict=True)]
                is_told = max(form.steps) <= 1 or index in placed
                if not is_told or any(amount.denominator > 1 for amount in amounts):
                    continue  # by which part of a cell it moved
                old = old.roll([int(amount) for amount in amounts], form.dims)
            if float(largest_difference(old[None], new[None])) > tolerance * spread(old):
                return False
    return True


def _outputs(model: nn.Module, inputs: Inputs, shift: Sequence[int]) -> list[Tensor]:
    """What a network returns for shifted images."""
    given = inputs.shifted(shift)
    with torch.no_grad():
        return tensors_in(model(*given.args, **given.kwargs))
