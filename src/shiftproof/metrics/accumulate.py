"""The measurements as torchmetrics: updated batch by batch, summed over processes.

Importing this module imports torchmetrics, so ``shiftproof.metrics`` does not import it.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shiftproof.extras import require
from shiftproof.metrics.accuracy import topk_correct
from shiftproof.metrics.clusters import NUM_SUMS, batch_rate, batch_sums
from shiftproof.metrics.consistency import agreement
from shiftproof.metrics.intervals import rate
from shiftproof.metrics.jitter import flip_rate, jitter
from shiftproof.metrics.protocols import Protocol, independent_images
from shiftproof.results import RateResult

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    Metric = require("torchmetrics", extra="train").Metric


class _Sealed:
    """A result that torchmetrics passes on as it is."""

    def __init__(self, result: RateResult) -> None:
        self.result = result


class _Rate(Metric):
    """A metric whose value is a ``RateResult``."""

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    # torchmetrics walks through what compute returns and refuses a frozen dataclass.
    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        sealed = super()._wrap_compute(lambda: _Sealed(compute()))

        @functools.wraps(compute)
        def opened() -> RateResult:
            value = sealed()
            assert isinstance(value, _Sealed)
            return value.result

        return opened


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


class _PerFrame(Metric):
    """The mean of a change over all pairs of neighbouring frames."""

    full_state_update = False
    higher_is_better = False
    is_differentiable = False

    total: Tensor
    num_pairs: Tensor

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._change = change
        zero = torch.tensor(0.0, dtype=torch.float64)
        self.add_state("total", zero, dist_reduce_fx="sum")
        self.add_state("num_pairs", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, frames: Tensor) -> None:
        """Count pans; nothing is compared across calls.

        Args:
            frames: The model's answers, ``(T, ..., num_classes)``, T frames in their order.

        Raises:
            ValueError: If there are fewer than two frames.
        """
        values = self._change(frames.double())
        pairs = len(frames) - 1
        self.total += pairs * values.sum()
        self.num_pairs += pairs * values.numel()

    def compute(self) -> Tensor:
        """The mean over everything counted, in all processes.

        Returns:
            A scalar, float64; nan if nothing was counted.
        """
        return self.total / self.num_pairs


class Jitter(_PerFrame):
    """Mean total variation distance of the class probabilities of neighbouring frames.

    The rule of ``shiftproof.metrics.jitter``, over all pairs of frames of all pans.

    Examples:
        >>> metric = Jitter()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]))
        >>> float(metric.compute())
        0.25
    """

    def __init__(self) -> None:
        super().__init__(jitter)


class FlipRate(_PerFrame):
    """How often the class changes, per 100 frames.

    The rule of ``shiftproof.metrics.flip_rate``, over all pairs of frames of all pans.

    Examples:
        >>> metric = FlipRate()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.3, 0.7]]))
        >>> float(metric.compute())
        50.0
    """

    def __init__(self) -> None:
        super().__init__(flip_rate)
