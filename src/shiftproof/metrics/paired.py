"""Comparison of two networks on the same images.

Whether two intervals overlap says little of two networks that saw the same images: what is hard for
one is mostly hard for the other.  What counts are the differences, image by image.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from shiftproof.metrics.intervals import check_confidence, student_quantile, wilson_interval

_AT_ONCE = 1 << 22
"""Draws that are held in memory at a time."""

_FEW = 20
"""Clusters below which resampling alone does not reach far enough."""


@dataclass(frozen=True)
class McNemarResult:
    """What two networks make of the same images.

    Attributes:
        n: Number of images.
        only_first: Images for which the statement holds of the first network alone.
        only_second: Images for which it holds of the second alone.
        p_value: Probability, were the networks equally good, of counts at least as unequal; in
            (0, 1].
    """

    n: int
    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class DifferenceResult:
    """Mean difference of two networks on the same images, first minus second.

    Attributes:
        n: Number of images.
        num_clusters: Groups of dependent images; the number of images where each stands alone.
        value: The mean difference per image, in the unit of the values.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
    """

    n: int
    num_clusters: int
    value: float
    low: float
    high: float


def _check_pair(operation: str, first: Tensor, second: Tensor) -> None:
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            f"{operation}: first and second must hold one value for each of the same images, (N,), "
            f"got {tuple(first.shape)} and {tuple(second.shape)}; pass both in one order"
        )


def mcnemar(first: Tensor, second: Tensor) -> McNemarResult:
    """McNemar's exact test of two networks on the same images.

    Only the images on which the networks differ tell them apart.  Were the networks equally good,
    either one would be the better on such an image with probability 1/2, so that the counts are
    binomial; the p-value is twice the smaller tail, at most 1.  Images must be independent: for
    consistency under a shift that a batch shares, use ``paired_difference`` with ``clusters``.

    Args:
        first: Whether the statement holds for each image under the first network, ``(N,)`` bool,
            for instance of ``topk_correct`` or ``agreement``.
        second: The same for the second network, images in the same order.

    Returns:
        The counts and the two-sided p-value.

    Raises:
        ValueError: If the shapes differ, are not ``(N,)`` or hold no image.
        TypeError: If the values are not bool.

    References:
        Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
        percentages", Psychometrika 1947.

    Examples:
        >>> first = torch.tensor([True] * 9 + [False])
        >>> second = torch.tensor([True] * 2 + [False] * 7 + [True])
        >>> result = mcnemar(first, second)
        >>> result.only_first, result.only_second, f"{result.p_value:.3f}"
        (7, 1, '0.070')
    """
    _check_pair("mcnemar", first, second)
    if first.dtype != torch.bool or second.dtype != torch.bool:
        raise TypeError(
            f"mcnemar: first and second must be bool, got {first.dtype} and {second.dtype}; "
            "pass whether the statement holds, or use paired_difference for other values"
        )
    second = second.to(first.device)
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    differ, term, tail = only_first + only_second, 1, 0
    # Whole numbers, which neither overflow nor round, however many images differ.
    for k in range(min(only_first, only_second) + 1):
        tail += term
        term = term * (differ - k) // (k + 1)
    p_value = min(1.0, 2 * tail / 2**differ)
    return McNemarResult(len(first), only_first, only_second, p_value)


def _cluster_totals(difference: Tensor, clusters: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum of the differences and number of images of each cluster."""
    count = torch.ones_like(difference)
    if clusters is None:
        return difference, count
    _, index = torch.unique(clusters.cpu(), return_inverse=True)
    empty = difference.new_zeros(int(index.max()) + 1)
    return empty.index_add(0, index, difference), empty.index_add(0, index, count)


def paired_difference(
    first: Tensor,
    second: Tensor,
    *,
    clusters: Tensor | None = None,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> DifferenceResult:
    """Mean difference of two networks on the same images, with a bootstrap interval.

    Images, or whole clusters of them, are drawn with replacement, each with the values of both
    networks.  The interval holds the middle of the resampled means, reaching further out for few
    clusters: to the quantiles ``NormalDist().cdf(+-sqrt(m / (m - 1)) t)`` of Student's t with
    m - 1 degrees of freedom instead of 2.5 and 97.5 %.  Of fewer than 20 clusters, whose means can
    be no further out than the most extreme one, it holds Student's own interval too.

    Where all clusters have the same mean difference there is nothing to resample.  Of truth values
    the interval then holds what is possible if others, up to Wilson's bound for none seen among as
    many, differ by -1 or by 1; of other values it is infinite.  Where very few images differ,
    prefer ``mcnemar``.

    Args:
        first: Value of each image under the first network, ``(N,)``: truth values, or numbers such
            as the jitter of a pan.
        second: The same for the second network, images in the same order.
        clusters: Number of the cluster of each image, ``(N,)`` integers, where images depend on
            each other: the batch that shares a shift, or the image that is counted several times.
        confidence: Probability with which the interval covers the true difference, in (0, 1).
        num_resamples: Number of bootstrap samples.
        seed: Of the samples.

    Returns:
        The difference and its interval.

    Raises:
        ValueError: If the shapes differ, are not ``(N,)`` or hold no image, a value is not finite,
            there are fewer than two clusters, or a number is out of range.

    References:
        B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13;
        T. C. Hesterberg, "What teachers should know about the bootstrap", The American Statistician
        2015, section 5, for the wider quantiles.

    Examples:
        >>> first = torch.tensor([True] * 90 + [False] * 10)
        >>> second = torch.tensor([True] * 80 + [False] * 20)
        >>> result = paired_difference(first, second)
        >>> f"{result.value:.2f} ({result.low:.2f} to {result.high:.2f})"
        '0.10 (0.04 to 0.16)'
    """
    _check_pair("paired_difference", first, second)
    check_confidence("paired_difference", confidence)
    if num_resamples < 1:
        raise ValueError(
            f"paired_difference: num_resamples must be at least 1, got {num_resamples}; "
            "pass some thousands"
        )
    if clusters is not None and clusters.shape != first.shape:
        raise ValueError(
            "paired_difference: clusters must number the cluster of each image, got "
            f"{tuple(clusters.shape)} for {len(first)} images; pass one number per image"
        )
    difference = first.cpu().double() - second.cpu().double()
    if not bool(difference.isfinite().all()):
        raise ValueError(
            "paired_difference: values must be finite, got NaN or infinity; leave these images out"
        )
    sums, counts = _cluster_totals(difference, clusters)
    m, value = len(sums), float(difference.mean())
    if m < 2:
        raise ValueError(
            f"paired_difference: there must be at least two clusters to draw from, got {m}; "
            "measure more batches, or a shift per image"
        )
    if bool((sums * counts[0] == sums[0] * counts).all()):
        if not first.dtype == second.dtype == torch.bool:
            return DifferenceResult(len(first), m, value, -math.inf, math.inf)
        unseen = wilson_interval(0, m, confidence)[1]
        low, high = value - unseen * (1 + value), value + unseen * (1 - value)
        return DifferenceResult(len(first), m, value, low, high)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, num_resamples, rows := max(1, _AT_ONCE // m)):
        draws = min(rows, num_resamples - start)
        drawn = torch.randint(m, (draws, m), generator=generator)
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    reach = math.sqrt(m / (m - 1)) * student_quantile(m - 1, confidence)
    tails = torch.tensor([NormalDist().cdf(-reach), NormalDist().cdf(reach)], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(means), tails).tolist()
    if m < _FEW:
        residuals = sums - value * counts
        error = math.sqrt(m / (m - 1) * float(residuals.square().sum())) / len(first)
        reach = student_quantile(m - 1, confidence) * error
        low, high = min(low, value - reach), max(high, value + reach)
        if first.dtype == second.dtype == torch.bool:
            low, high = max(low, -1.0), min(high, 1.0)
    return DifferenceResult(len(first), m, value, low, high)
