"""The means and differences as torchmetrics, see ``shiftproof.metrics.accumulate``."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from shiftproof.metrics.changes import embedding_cosine, equivariance_error, probability_change
from shiftproof.metrics.gaps import phase_gap
from shiftproof.metrics.jitter import flip_rate, jitter
from shiftproof.metrics.means import NUM_SUMS, Interval, mean_of_sums, mean_sums
from shiftproof.metrics.paired import DifferenceResult, paired_difference
from shiftproof.metrics.protocols import Protocol, independent_images
from shiftproof.metrics.sealed import ResultMetric
from shiftproof.ops.fractional import ShiftMethod
from shiftproof.results import MeanResult


class _Mean(ResultMetric):
    """A metric whose value is a ``MeanResult``."""

    higher_is_better = False
    bounds: Interval = (0.0, 1.0)
    anchor = 0.0

    sums: Tensor

    def __init__(self, name: str, *, independent: bool) -> None:
        super().__init__()
        self.name, self._independent = name, independent
        zeros = torch.zeros(NUM_SUMS, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def set_dtype(self, dst_type: torch.dtype | str) -> "_Mean":
        """Keep the sums in float64, whatever is asked for."""
        return self

    def _add(self, values: Tensor) -> None:
        """Count a value per image; a batch is one cluster where its images depend on each other."""
        values = values.to(self.sums.device, torch.float64) - self.anchor
        if self._independent:
            self.sums += mean_sums(values, torch.ones_like(values))
        else:
            self.sums += mean_sums(values.sum()[None], values.new_tensor([len(values)]))

    def compute(self) -> MeanResult:
        """The mean over everything counted, in all processes.

        Returns:
            The mean with its interval, see ``shiftproof.metrics.mean_result``.

        Raises:
            ValueError: If a value was not finite.
        """
        return mean_of_sums(
            self.name, self.sums, self.bounds, self.anchor, independent=self._independent
        )


class _OverShifts(_Mean):
    """A mean over images that a protocol shifts."""

    what = ""

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(f"{self.what} ({protocol.name})", independent=independent_images(protocol))
        self.protocol = protocol


class ProbabilityChange(_OverShifts):
    """Mean change of the probability of the true class between shifted versions of an image.

    The rule of ``shiftproof.metrics.probability_change``.

    Args:
        protocol: Which versions are compared; its ``views`` make them.

    Examples:
        >>> from shiftproof.metrics import protocol
        >>> metric = ProbabilityChange(protocol("circular"))
        >>> still, moved = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])
        >>> metric.update([still, moved], torch.tensor([1]))
        >>> metric.compute().value
        0.5
    """

    what = "probability change"

    def update(self, logits: Iterable[Tensor], labels: Tensor) -> None:
        """Count a batch.

        Args:
            logits: The model's output for each version, ``(N, num_classes)``; they may be made one
                at a time.
            labels: True classes, ``(N,)``.

        Raises:
            ValueError: If there are fewer than two versions, or the shapes do not fit.
        """
        self._add(probability_change(logits, labels))


class EmbeddingCosine(_OverShifts):
    """Mean cosine of the angle between the embeddings of two versions of an image.

    The rule of ``shiftproof.metrics.embedding_cosine``.

    Args:
        protocol: Which versions are compared; its ``views`` make them.

    Examples:
        >>> from shiftproof.metrics import protocol
        >>> metric = EmbeddingCosine(protocol("circular"))
        >>> metric.update(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]]))
        >>> metric.compute().value
        1.0
    """

    what = "embedding cosine"
    higher_is_better = True
    bounds = (-1.0, 1.0)
    anchor = 1.0

    def update(self, first: Tensor, second: Tensor) -> None:
        """Count a batch.

        Args:
            first: Embeddings of one version, ``(N, ...)``.
            second: Those of the other, in the same order.

        Raises:
            ValueError: If the shapes differ.
        """
        self._add(embedding_cosine(first, second))


class EquivarianceError(_OverShifts):
    """Mean relative distance of the map of a shifted image from the shifted map of the image.

    The rule of ``shiftproof.metrics.equivariance_error``; ``shiftproof.metrics.decibels`` gives the
    mean and the ends of its interval in dB.

    Args:
        protocol: Which shifts are meant.
        method: How pixels between pixels are made.

    Examples:
        >>> from shiftproof.metrics import protocol
        >>> metric = EquivarianceError(protocol("circular"))
        >>> still = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
        >>> metric.update(still, still.roll(1, 2), (1,))
        >>> metric.compute().value
        0.0
    """

    what = "equivariance error"
    bounds = (0.0, None)

    def __init__(self, protocol: Protocol, *, method: ShiftMethod = "fft") -> None:
        super().__init__(protocol)
        self.method: ShiftMethod = method

    def update(
        self,
        still: Tensor,
        moved: Tensor,
        shift: Sequence[float] | Tensor,
        valid: Tensor | None = None,
    ) -> None:
        """Count a batch.

        Args:
            still: Maps of the images, ``(N, C, *spatial)``.
            moved: Maps of the shifted images, of the same shape.
            shift: How far the maps are to move, in pixels of the map.
            valid: Where the map is compared, ``(N or 1, 1, *spatial)`` bool; everywhere if None.

        Raises:
            ValueError: If the shapes differ, or the shift does not have one value per axis.
        """
        self._add(equivariance_error(still, moved, shift, method=self.method, valid=valid))


class PhaseGap(_Mean):
    """Mean gap between the best and the second score of the phases.

    The rule of ``shiftproof.metrics.phase_gap``.

    Args:
        name: Whose choice it is, for a network with several.

    Examples:
        >>> metric = PhaseGap()
        >>> metric.update(torch.tensor([[1.0, 8.0, 6.0, 2.0]]))
        >>> metric.compute().value
        0.25
    """

    higher_is_better = True
    bounds = (0.0, 2.0)

    def __init__(self, name: str = "") -> None:
        super().__init__(f"phase gap ({name})" if name else "phase gap", independent=True)

    def update(self, scores: Tensor) -> None:
        """Count a batch.

        Args:
            scores: Scores of the phases, ``(N, P)``.

        Raises:
            ValueError: If there are fewer than two phases.
        """
        self._add(phase_gap(scores))


class _PerFrame(_Mean):
    """The mean of a change over all pairs of neighbouring frames; each pan is a cluster."""

    def __init__(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name, independent=False)
        self._change = change

    def update(self, frames: Tensor) -> None:
        """Count pans; nothing is compared across calls.

        Args:
            frames: The model's answers, ``(T, ..., num_classes)``, T frames in their order.

        Raises:
            ValueError: If there are fewer than two frames.
        """
        values = self._change(frames.double()).flatten().to(self.sums.device)
        pairs = len(frames) - 1
        self.sums += mean_sums(pairs * values, torch.full_like(values, pairs))


class Jitter(_PerFrame):
    """Mean total variation distance of the class probabilities of neighbouring frames.

    The rule of ``shiftproof.metrics.jitter``, over all pairs of frames of all pans, which ``n``
    counts; the interval takes the frames of one pan as depending on each other.

    Examples:
        >>> metric = Jitter()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]))
        >>> metric.compute().value
        0.25
    """

    def __init__(self) -> None:
        super().__init__("jitter", jitter)


class FlipRate(_PerFrame):
    """How often the class changes, per 100 frames.

    The rule of ``shiftproof.metrics.flip_rate``, over all pairs of frames of all pans, which ``n``
    counts; the interval takes the frames of one pan as depending on each other.

    Examples:
        >>> metric = FlipRate()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.3, 0.7]]))
        >>> metric.compute().value
        50.0
    """

    bounds = (0.0, 100.0)

    def __init__(self) -> None:
        super().__init__("flip rate", flip_rate)


class PairedDifference(ResultMetric):
    """Mean difference of two networks on the same images, with a bootstrap interval.

    The rule of ``shiftproof.metrics.paired_difference``.  It keeps the values of all images, which
    it resamples; images of one call are one cluster where the call says so.

    Args:
        seed: Of the samples.

    Examples:
        >>> metric = PairedDifference()
        >>> metric.update(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 0.5]))
        >>> metric.compute().value
        0.5
    """

    first: list[Tensor]
    second: list[Tensor]
    sizes: list[Tensor]

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        for name in ("first", "second", "sizes"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, first: Tensor, second: Tensor, *, one_cluster: bool = False) -> None:
        """Count a batch.

        Args:
            first: Value of each image under the first network, ``(N,)``: truth values or numbers.
            second: The same for the second network.
            one_cluster: Whether these images depend on each other, as those of a batch that shares
                its shift do.
        """
        self.first.append(first)
        self.second.append(second)
        count = len(first)
        sizes = [count] if one_cluster else [1] * count
        self.sizes.append(torch.tensor(sizes, dtype=torch.int64, device=first.device))

    def compute(self) -> DifferenceResult:
        """The difference over everything counted, in all processes.

        Returns:
            The mean difference and its interval.

        Raises:
            ValueError: If there are no images, a value is not finite, or there are fewer than two
                clusters.
        """
        first, second, sizes = (
            torch.cat(state) if isinstance(state, list) and state else torch.as_tensor(state)
            for state in (self.first, self.second, self.sizes)
        )
        clusters = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        # In an order that does not depend on which process counted what.
        totals = torch.zeros(len(sizes), dtype=torch.float64, device=sizes.device)
        totals = totals.index_add(0, clusters, first.double() - second.double())
        order = totals.argsort(stable=True)
        order = order[sizes[order].argsort(stable=True)]
        clusters = order.argsort()[clusters]
        return paired_difference(first, second, clusters=clusters, seed=self.seed)
