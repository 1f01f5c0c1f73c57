"""From counts to a rate with its uncertainty."""

from functools import cache
from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist

from shiftproof.results import RateResult


def check_confidence(operation: str, confidence: float) -> None:
    """Refuse a confidence that is no probability.

    Args:
        operation: Who asks.
        confidence: The confidence.

    Raises:
        ValueError: If it does not lie between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"{operation}: confidence must lie between 0 and 1, got {confidence}; "
            "pass 0.95 for 95 %"
        )


def _student_excess(t: float, degrees: int) -> float:
    """Probability that Student's t lies within -t and t, by its finite series."""
    angle = atan(t / sqrt(degrees))
    odd = degrees % 2
    total, term = 0.0, cos(angle) if odd else 1.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cos(angle) ** 2 * (k - 1) / k
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


@cache
def student_quantile(degrees: int | None, confidence: float) -> float:
    """How many standard errors an interval reaches to either side.

    Args:
        degrees: Degrees of freedom of Student's t, at least 1; more than 1000 count as 1000, where
            it is 0.1 % wider than the normal distribution.  ``None`` for the normal distribution.
        confidence: Probability between the two ends, in (0, 1).

    Returns:
        The quantile.

    References:
        M. Abramowitz and I. A. Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.

    Examples:
        >>> f"{student_quantile(1, 0.95):.3f} {student_quantile(10, 0.95):.3f}"
        '12.706 2.228'
    """
    low = NormalDist().inv_cdf((1 + confidence) / 2)
    if degrees is None:
        return low
    degrees, high = min(degrees, 1000), 2 * low + 1
    while _student_excess(high, degrees) < confidence:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if _student_excess(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return high


def share_interval(
    successes: float, n: float, effective: float, confidence: float
) -> tuple[float, float]:
    """Wilson's interval of ``successes / n`` that is known as well as from ``effective`` images.

    Args:
        successes: Number of images for which the statement held, or sum of values in [0, 1], in
            ``[0, n]``.
        n: Number of images.
        effective: Number of independent images that tell as much.
        confidence: Probability with which the interval covers the true share, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1]; ``(0.0, 1.0)`` for no images.
    """
    if n == 0:
        return 0.0, 1.0
    z = student_quantile(None, confidence)
    share = successes / n
    center = (share + z * z / (2 * effective)) / (1 + z * z / effective)
    spread = sqrt(share * (1 - share) / effective + z * z / (4 * effective * effective))
    half = z / (1 + z * z / effective) * spread
    # The ends at no and at all successes are exact; rounding would miss them.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return low, high


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share of independent images, usable at 0 and 100 % and for few.

    The shares ``p`` that a score test does not reject:
    ``|successes / n - p| <= z sqrt(p (1 - p) / n)``.  Where images depend on each other, as those
    of a batch that shares its shift do, it is too narrow: see ``cluster_interval``.

    Args:
        successes: Number of images for which the statement held, in ``[0, n]``.
        n: Number of images.
        confidence: Probability with which the interval covers the true share, in (0, 1).

    Returns:
        Lower and upper end, in [0, 1]; ``(0.0, 1.0)`` for no images.

    Raises:
        ValueError: If the counts or the confidence are out of range.

    References:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        JASA 1927.

    Examples:
        >>> low, high = wilson_interval(100, 100)
        >>> f"{low:.3f} {high:.3f}"
        '0.963 1.000'
    """
    if not 0 <= successes <= n:
        raise ValueError(
            f"wilson_interval: successes must lie between 0 and n, got {successes} of {n}; "
            "count each image once"
        )
    check_confidence("wilson_interval", confidence)
    return share_interval(successes, n, n, confidence)


def rate(protocol: str, successes: int, n: int, batch_mean: float | None = None) -> RateResult:
    """A share of independent images with its 95 % interval.

    Args:
        protocol: Name of the measurement.
        successes: Number of images for which the statement held, in ``[0, n]``.
        n: Number of images.
        batch_mean: Mean over batches of the share within each batch, where batches play a role.

    Returns:
        The result.

    Raises:
        ValueError: If the counts are out of range.
    """
    low, high = wilson_interval(successes, n)
    return RateResult(protocol, n, successes, low, high, batch_mean)
