"""How much what a network says of an image changes when the image is shifted."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from shiftproof.metrics.accuracy import topk_correct
from shiftproof.ops.fractional import ShiftMethod, fractional_shift


def correct_under_all(logits: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Whether all versions of a sample get the right class.

    Args:
        logits: One or more versions, each ``(N, num_classes)``; they may be made one at a time.
        labels: True classes, ``(N,)`` integers.

    Returns:
        One truth value per sample, ``(N,)`` bool.

    Raises:
        ValueError: If there are no versions, the shapes do not fit or a label is not a class.

    Examples:
        >>> still, moved = torch.tensor([[0.1, 0.9]]), torch.tensor([[0.8, 0.2]])
        >>> correct_under_all([still, moved], torch.tensor([1]))
        tensor([False])
    """
    correct = None
    for version in logits:
        right = topk_correct(version, labels, k=1)
        correct = right if correct is None else correct & right
    if correct is None:
        raise ValueError(
            "correct_under_all: logits must hold at least one version, got none; pass the model's "
            "output for the images as they are"
        )
    return correct


def probability_change(logits: Iterable[Tensor], labels: Tensor) -> Tensor:
    """How far the probability of the true class differs between versions of a sample.

    The largest less the smallest probability, by softmax in float64; of two versions, the absolute
    difference.

    Args:
        logits: Two or more versions, each ``(N, num_classes)``, samples in the same order; they may
            be made one at a time.
        labels: True classes, ``(N,)`` integers.

    Returns:
        One number per sample, ``(N,)`` float64 in [0, 1]; NaN where a logit is NaN.

    Raises:
        ValueError: If there are fewer than two versions, or the shapes do not fit.

    Examples:
        >>> still, moved = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])
        >>> probability_change([still, moved], torch.tensor([1]))
        tensor([0.5000], dtype=torch.float64)
    """
    number, shapes = 0, set()
    low = high = torch.zeros(0)
    for version in logits:
        shapes.add(tuple(version.shape))
        if len(shapes) > 1 or version.ndim != 2 or labels.shape != version.shape[:1]:
            break
        index = labels.to(version.device, torch.int64)[:, None]
        own = version.double().softmax(1).gather(1, index)[:, 0]
        low, high = (torch.minimum(low, own), torch.maximum(high, own)) if number else (own, own)
        number += 1
    if number < 2 or len(shapes) > 1:
        raise ValueError(
            "probability_change: logits must be two or more tensors of one shape (N, num_classes) "
            f"with labels (N,), got shapes {sorted(shapes)} and {tuple(labels.shape)}; pass the "
            "model's output for each version"
        )
    return high - low


def embedding_cosine(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of the angle between the embeddings of two versions of a sample.

    In float64, exactly 1 for equal embeddings.  An embedding of zeros has no direction: its cosine
    with another is 0, and 1 with another embedding of zeros.

    Args:
        first: Embeddings of one version, ``(N, ...)``.
        second: Those of the other, in the same order.

    Returns:
        One number per sample, ``(N,)`` float64 in [-1, 1].

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> embedding_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([0.7071], dtype=torch.float64)
    """
    _check_pair("embedding_cosine", first, second)
    x, y = (_scaled(part.double().flatten(1)) for part in (first, second))
    xx, yy, xy = ((a * b).sum(1) for a, b in ((x, x), (y, y), (x, y)))
    cosine = (xy / (xx * yy).sqrt()).clamp(-1, 1)
    cosine = torch.where(xx * yy == 0, torch.zeros_like(cosine), cosine)
    return torch.where((xx == 0) & (yy == 0), torch.ones_like(cosine), cosine)


def equivariance_error(
    still: Tensor,
    moved: Tensor,
    shift: Sequence[float] | Tensor,
    *,
    method: ShiftMethod = "fft",
    valid: Tensor | None = None,
) -> Tensor:
    """How far the map of a shifted image is from the shifted map of the image.

    ``|moved - T still| / |T still|``, in which T shifts the map around the circle: exactly for
    whole pixels, by ``ops.fractional_shift`` otherwise.  ``decibels`` gives it in dB.

    Args:
        still: Maps of the images, ``(N, C, *spatial)``.
        moved: Maps of the shifted images, of the same shape.
        shift: How far the maps are to move, in pixels of the map (the shift of the image over the
            stride): one number per spatial axis, or ``(N, D)``.
        method: How pixels between pixels are made.
        valid: Where the map is compared, ``(N or 1, 1, *spatial)`` bool, after the shift; for crops
            and zero fill, where content has left.  Everywhere if None.

    Returns:
        One number per sample, ``(N,)`` float64, at least 0; 0 where both are zero, and infinity
        where only the shifted map is.

    Raises:
        ValueError: If the shapes differ, or the shift does not have one value per axis.

    Equivariance:
        0, exactly, for a map that moves by whole pixels with its image.

    Examples:
        >>> still = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
        >>> equivariance_error(still, still.roll(1, 2), (1,))
        tensor([0.], dtype=torch.float64)
        >>> equivariance_error(still, still, (1,))
        tensor([1.4142], dtype=torch.float64)
    """
    _check_pair("equivariance_error", still, moved)
    expected = fractional_shift(still.double(), shift, method)
    difference = moved.double() - expected
    if valid is not None:
        difference, expected = difference * valid, expected * valid
    error, norm = (part.flatten(1).norm(dim=1) for part in (difference, expected))
    return torch.where((error == 0) & (norm == 0), torch.zeros_like(error), error / norm)


def decibels(relative: float) -> float:
    """A relative error in dB, ``20 log10``: -20 for a tenth, -infinity for none.

    Args:
        relative: The error, at least 0.

    Returns:
        The same in dB.

    Examples:
        >>> decibels(0.1)
        -20.0
    """
    return 20 * math.log10(relative) if relative else -math.inf


def _check_pair(operation: str, first: Tensor, second: Tensor) -> None:
    if first.ndim < 2 or first.shape != second.shape:
        raise ValueError(
            f"{operation}: both versions must have one shape, (N, ...), got {tuple(first.shape)} "
            f"and {tuple(second.shape)}; pass the samples in one order"
        )


def _scaled(x: Tensor) -> Tensor:
    """Rows brought to a largest magnitude of 1, so that their squares can be held."""
    largest = x.abs().amax(1, keepdim=True)
    return x / torch.where(largest == 0, torch.ones_like(largest), largest)
