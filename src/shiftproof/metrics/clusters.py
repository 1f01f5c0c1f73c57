"""Shares of images that come in clusters: batches that share a shift, or repeats of one image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shiftproof.metrics.intervals import check_confidence, share_interval, student_quantile
from shiftproof.results import RateResult

_UNIT = 1 << 40
"""Shares of batches are summed in this unit: whole numbers add up alike in every order."""

NUM_SUMS = 7


def cluster_sums(successes: Tensor, sizes: Tensor) -> Tensor:
    """All that an interval needs to know of some clusters; those of several calls add up.

    Args:
        successes: Images of each cluster for which the statement held, ``(K,)`` integers.
        sizes: Images of each cluster, ``(K,)`` integers; one without images does not count.

    Returns:
        Sums over clusters, ``(7,)`` int64: images n, successes s, clusters, n^2, s n, s^2, and
        s / n in units of 2^-40.
    """
    s, n = successes.to(torch.int64), sizes.to(torch.int64)
    share = (s * _UNIT + n // 2) // n.clamp_min(1)
    rows = torch.stack([n, s, (n > 0).to(torch.int64), n * n, s * n, s * s, share])
    return rows.sum(1)


def _interval(sums: Sequence[int], confidence: float) -> tuple[float, float]:
    """The interval of ``cluster_interval`` from the sums."""
    n, s, m, nn, sn, ss, _ = sums
    if m < 2:
        return 0.0, 1.0
    least = n * n / nn
    if s in (0, n):
        return share_interval(s, n, least, confidence)
    share = s / n
    # Over a common denominator, so that equal shares leave exactly no residual.
    residuals = (ss * n * n - 2 * s * n * sn + s * s * nn) / n**2
    if residuals == 0:
        return share_interval(s, n, n, confidence)
    effective = share * (1 - share) * n * n * (m - 1) / (m * residuals)
    rarer = min(s * s // ss, (n - s) ** 2 // (nn - 2 * sn + ss))
    degrees = max(1, min(m - 1, rarer))
    normal, student = student_quantile(None, confidence), student_quantile(degrees, confidence)
    effective *= (normal / student) ** 2
    return share_interval(s, n, max(min(effective, n), least), confidence)


def _counted(operation: str, successes: Sequence[int], sizes: Sequence[int]) -> list[int]:
    if len(successes) != len(sizes):
        raise ValueError(
            f"{operation}: each cluster must have a count and a size, got {len(successes)} and "
            f"{len(sizes)}; pass one of each per cluster"
        )
    for count, size in zip(successes, sizes, strict=True):
        if not 0 <= count <= size:
            raise ValueError(
                f"{operation}: successes must lie between 0 and the size of their cluster, got "
                f"{count} of {size}; count each image once"
            )
    pair = (torch.tensor(values, dtype=torch.int64) for values in (successes, sizes))
    return list(map(int, cluster_sums(*pair)))


def cluster_interval(
    successes: Sequence[int], sizes: Sequence[int], confidence: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of a share of images that come in clusters.

    Images of one cluster are alike in something: a batch shares its shift, or one image is counted
    under several shifts.  Then n images tell less than n independent ones.  The variance of the
    share is that of a ratio of sums over clusters, ``m / (m - 1) sum (s - p n)^2 / (sum n)^2``, and
    the interval is Wilson's for the number of independent images with that variance, times
    ``(z / t)^2``.  Student's t has at most m - 1 degrees of freedom, and at most the number of
    clusters, by ``(sum s)^2 / sum s^2``, over which the rarer outcome is spread: where a few
    clusters hold it, the variance rests on those.  The number is never more than n, as if images
    were independent, and never less than ``(sum n)^2 / sum n^2``, as if all images of a cluster had
    one outcome.  At 0 and 100 %, where the clusters do not tell their variance, it is the latter.

    In simulations of beta-binomial clusters (2 to 200 of 20 to 256 images, shares of 50 to 99.8 %,
    correlations of 0 to 0.5) it covered the true share in 93 to 100 % of cases, and Wilson's
    interval over images in as few as 6 %.

    Args:
        successes: Images of each cluster for which the statement held.
        sizes: Images of each cluster.
        confidence: Probability with which the interval covers the true share, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1]; ``(0.0, 1.0)`` for fewer than two clusters.

    Raises:
        ValueError: If the counts or the confidence are out of range.

    References:
        E. L. Korn and B. I. Graubard, "Confidence intervals for proportions with small expected
        number of positive counts estimated from survey data", Survey Methodology 1998, for the
        effective sample size; W. G. Cochran, "Sampling Techniques", 1977, chapter 9A, for the
        variance of the ratio.

    Examples:
        >>> low, high = cluster_interval([50, 44, 50, 36], [50, 50, 50, 50])  # 90 % of 200 images
        >>> f"{low:.2f} {high:.2f}"
        '0.42 0.99'
        >>> cluster_interval([50], [50])
        (0.0, 1.0)
    """
    check_confidence("cluster_interval", confidence)
    return _interval(_counted("cluster_interval", successes, sizes), confidence)


def cluster_rate(protocol: str, successes: Sequence[int], sizes: Sequence[int]) -> RateResult:
    """A share of images that come in clusters, with its 95 % interval.

    Args:
        protocol: Name of the measurement.
        successes: Images of each cluster for which the statement held.
        sizes: Images of each cluster.

    Returns:
        The result; ``batch_mean`` is ``None``.

    Raises:
        ValueError: If the counts are out of range.
    """
    sums = _counted("cluster_rate", successes, sizes)
    low, high = _interval(sums, 0.95)
    return RateResult(protocol, sums[0], sums[1], low, high, num_clusters=sums[2])


def batch_sums(agree: Tensor) -> Tensor:
    """The sums of one batch; an empty one adds nothing.

    Args:
        agree: Whether the statement holds for each image, ``(N,)`` bool.

    Returns:
        What ``cluster_sums`` says of it, on the device of ``agree``.
    """
    size = torch.tensor([len(agree)], device=agree.device)
    return cluster_sums(agree.sum()[None], size)


def batch_rate(protocol: str, sums: Tensor, *, independent: bool) -> RateResult:
    """A share of images that were measured batch by batch.

    Args:
        protocol: Name of the measurement.
        sums: Of ``batch_sums`` over the batches.
        independent: Whether the images of a batch are as independent as those of two.

    Returns:
        The result, with the mean over batches of the share within each.
    """
    n, s, m, *_, shares = counts = sums.tolist()
    low, high = share_interval(s, n, n, 0.95) if independent else _interval(counts, 0.95)
    mean = shares / (m * _UNIT) if m else None
    return RateResult(protocol, n, s, low, high, mean, None if independent else m)
