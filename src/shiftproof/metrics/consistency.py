"""Whether a model gives shifted versions of an image the same class, and the right one."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from shiftproof.metrics.accuracy import topk_correct
from shiftproof.metrics.clusters import NUM_SUMS, batch_rate, batch_sums
from shiftproof.metrics.intervals import rate
from shiftproof.metrics.protocols import Protocol, independent_images
from shiftproof.ops.shift import circular_shift
from shiftproof.results import RateResult


def agreement(logits: Sequence[Tensor]) -> Tensor:
    """Whether all versions of a sample get the same class.

    A sample with a NaN among its logits, in any version, does not agree: it has no class.

    Args:
        logits: Two or more versions, each ``(N, num_classes)``, samples in the same order.

    Returns:
        One truth value per sample, ``(N,)`` bool.

    Raises:
        ValueError: If there are fewer than two versions or their shapes differ.

    Examples:
        >>> still = torch.tensor([[0.1, 0.9], [0.1, 0.9]])
        >>> moved = torch.tensor([[0.2, 0.8], [0.8, 0.2]])
        >>> agreement([still, moved])
        tensor([ True, False])
    """
    shapes = [tuple(version.shape) for version in logits]
    if len(shapes) < 2 or len(shapes[0]) != 2 or len(set(shapes)) > 1:
        raise ValueError(
            "agreement: logits must be two or more tensors of one shape (N, num_classes), got "
            f"shapes {shapes}; pass the model's output for each version"
        )
    versions = torch.stack(tuple(logits))
    classes = versions.argmax(dim=2)
    return (classes == classes[0]).all(dim=0) & ~versions.isnan().any(dim=2).any(dim=0)


def consistency(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    protocol: Protocol,
    *,
    seed: int = 0,
) -> RateResult:
    """Share of images whose shifted versions all get the same class.

    The model runs without gradients and in the mode it is in: call ``model.eval()`` first.

    Args:
        model: From images ``(N, C, *spatial)`` to logits ``(N, num_classes)``.
        batches: Batches of images, on the model's device.
        protocol: Which shifted versions are compared, for instance ``protocol("circular")``.
        seed: Of the shifts; the same seed and batches give the same shifts on every device.

    Returns:
        The share per image with its interval, ``cluster_interval`` where a batch shares its shifts,
        and the mean over batches of the share within each batch as ``batch_mean`` (``None`` for no
        batches).
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    sums = torch.zeros(NUM_SUMS, dtype=torch.int64)
    for images in batches:
        with torch.no_grad():
            agree = agreement([model(view) for view in protocol.views(images, generator)])
        sums += batch_sums(agree).cpu()
    return batch_rate(protocol.name, sums, independent=independent_images(protocol))


@torch.no_grad()
def _correct_under_shifts(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    shifts: Iterable[Sequence[int]],
) -> list[Tensor]:
    """Per circular shift, whether each image gets its label."""
    return [topk_correct(model(circular_shift(images, shift)), labels, k=1) for shift in shifts]


def worst_shift_accuracy(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    shifts: Sequence[Sequence[int]],
) -> RateResult:
    """Share of images that get the right class under every one of the given circular shifts.

    This is what remains against an adversary who may choose the shift.  The model runs without
    gradients and in the mode it is in.

    Args:
        model: From images ``(N, C, *spatial)`` to logits ``(N, num_classes)``.
        images: Images, ``(N, C, *spatial)``.
        labels: True classes, ``(N,)``.
        shifts: Pixels per spatial axis, ``(dy, dx)`` in 2-D, at least one shift.

    Returns:
        The share, as protocol ``"worst-shift"``.

    Raises:
        ValueError: If there are no shifts.
    """
    if not shifts:
        raise ValueError(
            "worst_shift_accuracy: shifts must hold at least one shift, got none; "
            "pass [(0, 0)] for the images as they are"
        )
    correct = torch.stack(_correct_under_shifts(model, images, labels, shifts)).all(dim=0)
    return rate("worst-shift", int(correct.sum()), len(correct))


def accuracy_over_shifts(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    shifts: Sequence[Sequence[int]],
) -> list[RateResult]:
    """Top-1 accuracy at each of the given circular shifts, for a figure.

    The model runs without gradients and in the mode it is in.

    Args:
        model: From images ``(N, C, *spatial)`` to logits ``(N, num_classes)``.
        images: Images, ``(N, C, *spatial)``.
        labels: True classes, ``(N,)``.
        shifts: Pixels per spatial axis, ``(dy, dx)`` in 2-D.

    Returns:
        One share per shift, in the order of ``shifts``, with the shift in the protocol's name.  All
        are of the same images: ``mcnemar`` compares two of them, not whether intervals overlap.
    """
    return [
        rate(f"top-1 at shift {tuple(shift)}", int(correct.sum()), len(correct))
        for shift, correct in zip(
            shifts, _correct_under_shifts(model, images, labels, shifts), strict=True
        )
    ]
