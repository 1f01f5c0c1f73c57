"""The measurements as torchmetrics: updated batch by batch, summed over processes.

Importing this module imports torchmetrics, so ``shiftproof.metrics`` does not import it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from shiftproof.metrics.accumulate_means import (
    EmbeddingCosine,
    EquivarianceError,
    FlipRate,
    Jitter,
    PairedDifference,
    PhaseGap,
    ProbabilityChange,
)
from shiftproof.metrics.accuracy import topk_correct
from shiftproof.metrics.changes import correct_under_all
from shiftproof.metrics.clusters import NUM_SUMS, batch_rate, batch_sums
from shiftproof.metrics.consistency import agreement
from shiftproof.metrics.intervals import rate
from shiftproof.metrics.protocols import Protocol, independent_images
from shiftproof.metrics.sealed import ResultMetric
from shiftproof.results import RateResult

__all__ = [
    "Accuracy",
    "Consistency",
    "EmbeddingCosine",
    "EquivarianceError",
    "FlipRate",
    "Jitter",
    "PairedDifference",
    "PhaseGap",
    "ProbabilityChange",
    "WorstShiftAccuracy",
]


class _Rate(ResultMetric):
    """A metric whose value is a ``RateResult``."""

    higher_is_better = True


class Accuracy(_Rate):
    """Share of images whose label is among the k classes with the largest logits.

    The rule of ``shiftproof.metrics.topk_correct``, image by image over all batches and processes.

    Args:
        k: Number of classes looked at.

    Raises:
        ValueError: If ``k`` is not positive.

    Examples:
        >>> accuracy = Accuracy()
        >>> accuracy.update(torch.tensor([[0.1, 0.9], [0.2, 0.8]]), torch.tensor([1, 0]))
        >>> accuracy.compute().percent
        50.0
    """

    correct: Tensor
    total: Tensor

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"Accuracy: k must be at least 1, got {k}; pass 1 for the best class")
        self.k = k
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: Scores, ``(N, num_classes)``, on the device of the metric.
            labels: True classes, ``(N,)``.
        """
        self.correct += topk_correct(logits, labels, self.k).sum()
        self.total += len(labels)

    def compute(self) -> RateResult:
        """The share over everything counted, in all processes.

        Returns:
            The share, as protocol ``"top-<k>"``.
        """
        return rate(f"top-{self.k}", int(self.correct), int(self.total))


class Consistency(_Rate):
    """Share of images whose shifted versions all get the same class.

    The rule of ``shiftproof.metrics.agreement``, image by image over all batches and processes; the
    mean over all batches of the share within each goes into ``batch_mean``, and where a batch
    shares its shifts, the interval is ``shiftproof.metrics.cluster_interval``.

    Args:
        protocol: Which shifted versions are compared; its ``views`` make them.

    Examples:
        >>> from shiftproof.metrics import protocol
        >>> circular = protocol("circular")
        >>> images, model = torch.ones(2, 1, 4, 4), lambda x: x.mean((2, 3))
        >>> metric = Consistency(circular)
        >>> metric.update(*map(model, circular.views(images, torch.Generator().manual_seed(0))))
        >>> metric.compute().percent
        100.0
    """

    sums: Tensor

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.add_state("sums", torch.zeros(NUM_SUMS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *logits: Tensor) -> None:
        """Count a batch; an empty one does not enter the mean over batches.

        Args:
            logits: The model's output for each version, ``(N, num_classes)``, on the device of
                the metric.
        """
        self.sums += batch_sums(agreement(logits))

    def compute(self) -> RateResult:
        """The share over everything counted, in all processes.

        Returns:
            The share, under the name of the protocol, equal to what
            ``shiftproof.metrics.consistency`` gives for the same batches, in any order.
        """
        independent = independent_images(self.protocol)
        return batch_rate(self.protocol.name, self.sums, independent=independent)


class WorstShiftAccuracy(_Rate):
    """Share of images that get the right class in all of their shifted versions.

    The rule of ``shiftproof.metrics.correct_under_all``, image by image over all batches and
    processes; where a batch shares its shifts, the interval is
    ``shiftproof.metrics.cluster_interval``.

    Args:
        protocol: Which shifted versions are looked at; None for circular shifts that are the same
            for all images, as those of ``shiftproof.metrics.worst_shift_accuracy``.

    Examples:
        >>> metric = WorstShiftAccuracy()
        >>> still, moved = torch.tensor([[0.1, 0.9]]), torch.tensor([[0.8, 0.2]])
        >>> metric.update([still, moved], torch.tensor([1]))
        >>> metric.compute().percent
        0.0
    """

    sums: Tensor

    def __init__(self, protocol: Protocol | None = None) -> None:
        super().__init__()
        self.protocol = protocol
        self.add_state("sums", torch.zeros(NUM_SUMS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Iterable[Tensor], labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: The model's output for each version, ``(N, num_classes)``, on the device of the
                metric; they may be made one at a time.
            labels: True classes, ``(N,)``.
        """
        self.sums += batch_sums(correct_under_all(logits, labels))

    def compute(self) -> RateResult:
        """The share over everything counted, in all processes.

        Returns:
            The share, as protocol ``"worst-shift"`` or under the name of the protocol.
        """
        if self.protocol is None:
            return rate("worst-shift", int(self.sums[1]), int(self.sums[0]))
        independent = independent_images(self.protocol)
        return batch_rate(self.protocol.name, self.sums, independent=independent)
