"""One call that says whether a model is shift invariant, and if not, which layer breaks it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shiftproof.analysis import ConversionError
from shiftproof.analysis.capture import copied
from shiftproof.certification.blame import find_suspects
from shiftproof.certification.certificate import Blame, Certificate, Choice, Verdict
from shiftproof.certification.measurement import Run, require_response, run_pairs
from shiftproof.certification.radius import radius_notes
from shiftproof.certification.shifts import default_shifts, given_shifts
from shiftproof.inputs import Images, Inputs, find_inputs

_NUM_AGREEING = 6
"""Shifts that are measured in float64 where the model's own precision has decided."""

_MODEL_ERRORS = (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError)
"""What models raise when they are given a precision or a batch that they do not expect."""


def certify(
    model: Callable[..., Any],
    args: Tensor | tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    images: Images | None = None,
    shifts: Sequence[Sequence[int]] | Tensor | None = None,
    example_input: Tensor | None = None,
) -> Certificate:
    """Measure whether a model is invariant or equivariant to circular shifts, and say why not.

    The model is run on its arguments and on shifted copies of the images among them, in its own
    precision and in float64, where rounding cannot be confused with anything else.  Logits and
    other outputs without spatial axes must stay the same.  An output ``(N, C, *spatial)`` of more
    than one pixel, with sizes that are whole parts or multiples of the input's, must move with it,
    by as many of its own pixels as the shift is; so must ``(N, *spatial, C)`` where all sizes are
    the same part, and label maps ``(N, *spatial)`` of the input's size.  Where the shift is no
    whole number of pixels of a coarser map, it must move by some circular shift, because that
    depends on the phases that were chosen; ``call_with_offset`` tells by which.  For such maps,
    shifts by whole pixels of theirs are added.  An output of another shape with axes like these,
    ``(N, A, *spatial, C)`` or ``(N, C, *spatial)`` of sizes that are no whole parts, may move or
    stay, and ``kind`` and a note tell what it does.

    A verdict holds for these inputs and these shifts.  It is about circular shifts; a camera's
    movement also brings new content, to which no model can be invariant.

    Args:
        model: From images to a tensor, or to dicts, lists and tuples of them.  Of a module a copy
            is measured, in eval mode; the module itself stays as it is, and of a compiled one the
            original is measured.  Any other callable is
            called as it is, and gets a verdict but no blame.
        args: Its arguments, or the images alone: ``(N, C, *spatial)`` with 1 to 3 spatial axes, of
            the size and the range of values that the model is made for; two or three random or
            real ones.
        kwargs: Its keyword arguments.
        images: Which arguments hold images, and their spatial axes; see ``convert``.
        shifts: Circular shifts in pixels, a list of tuples or an ``(n, D)`` tensor.  By default one
            pixel along each axis and along all, both ways, and some fixed random ones, at most
            twelve in all.
        example_input: The old name of ``args``; works for one release.

    Returns:
        The certificate; printing it gives a report.

    Raises:
        ValueError: If the input is no batch of maps or no shift changes it, there are no shifts or
            one does not have a value per axis, the model cannot be copied, an output is not finite
            or changes its shape, or no output depends on the input.
        TypeError: If the input or the model's output is no tensor, or a shift is not whole.

    Examples:
        >>> stride = nn.Conv2d(1, 4, 3, stride=2, padding=1, padding_mode="circular")
        >>> network = nn.Sequential(stride, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> certificate = certify(network, torch.randn(2, 1, 8, 8))
        >>> certificate.verdict, str(certificate.blame)
        ('not invariant', '0 (Conv2d): stride 2 keeps phase 0 whatever the content')
    """
    if example_input is not None:
        warnings.warn("certify: example_input is now args", DeprecationWarning, stacklevel=2)
        args = example_input
    inputs = find_inputs("certify", model, args, kwargs, images)
    sizes = inputs.sizes
    chosen = default_shifts(sizes) if shifts is None else given_shifts(shifts, len(sizes))
    moved = (inputs.shifted(shift).tensors for shift in chosen)
    if all(
        torch.equal(x, y) for found in moved for x, y in zip(found, inputs.tensors, strict=True)
    ):
        raise ValueError(
            "certify: some shift must change the images, got some that look the same under all of "
            "them; pass random or real images"
        )
    gaps: dict[str, float] = {}
    subject = _copy(model)
    own = run_pairs(subject, inputs, chosen, gaps)
    require_response(subject, inputs)
    notes = [text for text in (str(inputs), *own.notes) if text]
    reference = own if own.dtype == torch.float64 else None
    if reference is None:
        reference = _in_float64(subject, inputs, _decisive(own), gaps, notes)
    _compare_runs(own, reference, notes)
    _warn_of_zeros(model, notes)
    notes += radius_notes(model, inputs.tensors[0])
    failed = next((run for run in (reference, own) if run and not run.measurement.passed), None)
    blame: Blame | None = None
    suspects: tuple[Blame, ...] = ()
    if failed is own and reference is not own:
        subject = _copy(model)
    if failed is not None and isinstance(subject, nn.Module):
        blame, suspects = _investigate(subject, _to(inputs, failed.dtype), failed, notes)
    return Certificate(
        verdict=_verdict(own, reference),
        kind=own.kind,
        own=own.measurement,
        float64=None if reference is None else reference.measurement,
        flipped=None if own.flipped is None else int(own.flipped.sum()),
        num_pairs=own.deviations.numel(),
        shifts=tuple(map(tuple, own.shifts)),
        choices=tuple(Choice(name, gap) for name, gap in gaps.items()),
        blame=blame,
        suspects=suspects,
        notes=tuple(notes),
    )


def assert_invariant(
    model: Callable[..., Any],
    args: Tensor | tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    images: Images | None = None,
    shifts: Sequence[Sequence[int]] | Tensor | None = None,
) -> Certificate:
    """Certify a model in a test, and fail with the certificate if a shift changes its output.

    Args:
        model: From images to tensors, as for ``certify``.
        args: Its arguments, or the images alone, ``(N, C, *spatial)``.
        kwargs: Its keyword arguments.
        images: Which arguments hold images; see ``convert``.
        shifts: Circular shifts in pixels; the default ones if None.

    Returns:
        The certificate.

    Raises:
        AssertionError: If the model is neither invariant nor equivariant.

    Examples:
        >>> assert_invariant(nn.AdaptiveAvgPool2d(1), torch.randn(2, 1, 8, 8)).is_invariant
        True
    """
    certificate = certify(model, args, kwargs, images=images, shifts=shifts)
    if not certificate.is_invariant:
        raise AssertionError(f"assert_invariant: {certificate}")
    return certificate


def _to(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The arguments in another precision."""

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    return inputs.mapped(lambda x, _: cast(x), cast)


def _copy(model: Callable[..., Any]) -> Callable[..., Any]:
    # What torch.compile wraps; hooks and other precisions would compile it again and again.
    original = getattr(model, "_orig_mod", model)
    return copied(original, "certify").eval() if isinstance(original, nn.Module) else model


def _decisive(own: Run) -> list[Sequence[int]]:
    """The shifts to measure in float64 as well.

    It decides where the model's own precision cannot tell rounding from more: of every pair then.
    Where no bit changed, or more than rounding, some pairs show that float64 agrees: those that
    deviate most, and of equals the last, which are the random ones.
    """
    if 0 < own.measurement.largest <= own.tolerance:
        return list(own.shifts)
    worst = own.deviations.amax(1).flip(0).sort(descending=True, stable=True).indices
    return [own.shifts[len(own.shifts) - 1 - index] for index in worst[:_NUM_AGREEING].tolist()]


def _in_float64(
    model: Callable[..., Any],
    inputs: Inputs,
    shifts: Sequence[Sequence[int]],
    gaps: dict[str, float],
    notes: list[str],
) -> Run | None:
    """The same pairs in float64; a module is converted in place."""
    images = inputs.tensors[0]
    if images.device.type == "mps":
        notes.append("not measured in float64, which this device does not have")
        return None
    if not images.is_floating_point():
        notes.append("not measured in float64, because the input is made of integers")
        return None
    try:
        if isinstance(model, nn.Module):
            model.double()
        with torch.autocast(images.device.type, enabled=False):
            return run_pairs(model, _to(inputs, torch.float64), shifts, gaps)
    except _MODEL_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        notes.append(f"not measured in float64, which the model does not accept: {reason}")
        return None


def _compare_runs(own: Run, reference: Run | None, notes: list[str]) -> None:
    if reference is None:
        return
    if reference.narrowest is not None:
        notes.append(
            f"a part of the model computes in {str(reference.narrowest).removeprefix('torch.')} "
            "whatever its input, so that float64 tells no more than that"
        )
    if reference.measurement.passed and not own.measurement.passed:
        notes.append(
            f"invariant but for rounding, which in {str(own.dtype).removeprefix('torch.')} changes "
            "a choice or is amplified"
        )


def _warn_of_zeros(model: Callable[..., Any], notes: list[str]) -> None:
    """Weights that are all zeros hide what stands in front of them until they are trained."""
    if not isinstance(model, nn.Module):
        return
    zeros = [
        name
        for name, value in model.named_parameters()
        if value.numel() and not bool(value.any()) and not name.endswith(("bias", "token"))
    ]
    if zeros:
        more = f" and {len(zeros) - 3} more" if len(zeros) > 3 else ""
        notes.append(
            f"{', '.join(zeros[:3])}{more} are all zeros, so that nothing in front of them was "
            "seen; certify again with trained or random weights"
        )


def _verdict(own: Run, reference: Run | None) -> Verdict:
    if not all(run.measurement.passed for run in (own, reference) if run is not None):
        return "not invariant"
    return "exact" if own.measurement.largest == 0 else "to rounding"


def _investigate(
    model: nn.Module, inputs: Inputs, failed: Run, notes: list[str]
) -> tuple[Blame | None, tuple[Blame, ...]]:
    """Find who is to blame for the pairs that failed."""
    failing = (failed.deviations > failed.tolerance).any(1).nonzero().flatten().tolist()
    try:
        blame, suspects = find_suspects(model, inputs, [failed.shifts[index] for index in failing])
    except ConversionError as error:
        notes.append(f"nobody is blamed, because the model cannot be followed: {error}")
        return None, ()
    if blame is None:
        notes.append("nobody is blamed, because every call is known to pass these shifts on")
    return blame, suspects
