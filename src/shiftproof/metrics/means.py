"""Means over images, with intervals that allow for images that depend on each other."""

import math

import torch
from torch import Tensor

from shiftproof.metrics.intervals import share_interval, student_quantile, wilson_interval
from shiftproof.results import MeanResult

NUM_SUMS = 6

_NO_SPREAD = 1e-13
"""Relative variance below which clusters are taken to be alike; rounding of sums gives 1e-16."""

_MOST = 4
"""Wilson's interval counts a cluster as at most so many images with the value 0 or 1."""

Interval = tuple[float | None, float | None]


def mean_sums(totals: Tensor, sizes: Tensor) -> Tensor:
    """All that the interval of a mean needs to know of some clusters; those of calls add up.

    Args:
        totals: Sum of the values of each cluster, ``(K,)``.
        sizes: Number of values of each cluster, ``(K,)`` integers; one without values does not
            count.

    Returns:
        Sums over clusters, ``(6,)`` float64: values n, totals s, clusters, n^2, s n, s^2.
    """
    s, n = totals.to(torch.float64), sizes.to(torch.float64)
    return torch.stack([n, s, (n > 0).to(torch.float64), n * n, s * n, s * s]).sum(1)


def _interval(sums: list[float], bounds: Interval) -> Interval:
    n, s, m, nn, sn, ss = sums
    low, high = bounds
    if m < 2:
        return bounds
    mean = s / n
    residuals = ss - 2 * mean * sn + mean * mean * nn
    alike = residuals <= _NO_SPREAD * (ss + mean * mean * nn)
    variance = m / (m - 1) * residuals / n**2
    student = student_quantile(round(m) - 1, 0.95)
    if low is not None and high is not None:
        share = (mean - low) / (high - low)
        if alike:
            unseen = wilson_interval(0, round(m))[1]
            ends = share * (1 - unseen), share + unseen * (1 - share)
        else:
            normal = student_quantile(None, 0.95)
            scaled = variance / (high - low) ** 2
            effective = share * (1 - share) / scaled * (normal / student) ** 2
            ends = share_interval(share * n, n, min(effective, _MOST * m), 0.95)
        return low + (high - low) * ends[0], low + (high - low) * ends[1]
    if alike:
        return bounds
    error = student * math.sqrt(variance)
    if low == 0 and mean > 0:
        return mean * math.exp(-error / mean), mean * math.exp(error / mean)
    return mean - error, mean + error


def mean_of_sums(
    protocol: str, sums: Tensor, bounds: Interval, anchor: float = 0.0, *, independent: bool = False
) -> MeanResult:
    """The mean of values that were summed over clusters.

    Args:
        protocol: Name of the measurement.
        sums: Of ``mean_sums``, of the values less the anchor.
        bounds: What values can be at least and at most; None where there is no bound.
        anchor: What was taken off each value, so that those near it are summed without rounding.
        independent: Whether each cluster is a single image.

    Returns:
        The result.

    Raises:
        ValueError: If a value was not finite.
    """
    numbers = sums.tolist()
    if not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{protocol}: values must be finite, got NaN or infinity; look for NaN in the output "
            "of the network, or leave these images out"
        )
    n, s, m, *_ = numbers
    shifted: Interval = (
        None if bounds[0] is None else bounds[0] - anchor,
        None if bounds[1] is None else bounds[1] - anchor,
    )
    low, high = _interval(numbers, shifted)
    return MeanResult(
        protocol,
        round(n),
        anchor + s / n if n else 0.0,
        None if low is None else anchor + low,
        None if high is None else anchor + high,
        None if independent else round(m),
    )


def mean_result(
    protocol: str, values: Tensor, *, bounds: Interval, clusters: Tensor | None = None
) -> MeanResult:
    """The mean of one value per image, with its 95 % interval.

    The variance is that of a ratio of sums over clusters, ``m / (m - 1) sum (s - p n)^2 / (sum
    n)^2``, with Student's t of m - 1 degrees of freedom.  Of values between two bounds the interval
    is Wilson's, of a share with that variance that is known as if from at most four images per
    cluster; of values that are only known to be at least 0 it is symmetric in the logarithm;
    otherwise, symmetric.  Where all clusters are alike it holds, between two bounds, what is
    possible if others, up to Wilson's bound for none seen among as many, lie at a bound; it is
    unbounded otherwise.

    In simulations of skewed distributions between bounds it covered the true mean in 93 to 100 % of
    cases of 100 images and more, and in as few as 82 % of 30 where one value in twenty is far from
    the others; of log-normal values (standard deviation 1 of the logarithm) in 89 % of 10 images
    and 93 % of 100.

    Args:
        protocol: Name of the measurement.
        values: One per image, ``(N,)``.
        bounds: What values can be at least and at most; None where there is no bound.
        clusters: Number of the cluster of each image, ``(N,)`` integers, where images depend on
            each other.

    Returns:
        The result.

    Raises:
        ValueError: If a value is not finite, or the shapes do not fit.

    References:
        W. G. Cochran, "Sampling Techniques", 1977, chapter 6, for the variance of a ratio.

    Examples:
        >>> values = torch.tensor([0.1, 0.2, 0.3, 0.2])
        >>> result = mean_result("change", values, bounds=(0, 1))
        >>> f"{result.value:.2f} ({result.low:.2f} to {result.high:.2f})"
        '0.20 (0.07 to 0.44)'
    """
    if values.ndim != 1 or (clusters is not None and clusters.shape != values.shape):
        raise ValueError(
            "mean_result: there must be one value per image, (N,), and one cluster for each, got "
            f"{tuple(values.shape)} and {None if clusters is None else tuple(clusters.shape)}; "
            "pass both in one order"
        )
    values = values.double().cpu()
    counts = torch.ones_like(values)
    if clusters is not None:
        _, index = torch.unique(clusters.cpu(), return_inverse=True)
        empty = values.new_zeros(int(index.max()) + 1 if len(index) else 0)
        values, counts = empty.index_add(0, index, values), empty.index_add(0, index, counts)
    sums = mean_sums(values, counts)
    return mean_of_sums(protocol, sums, bounds, independent=clusters is None)
