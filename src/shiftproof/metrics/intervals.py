"""From counts to a rate with its uncertainty."""

from math import sqrt
from statistics import NormalDist

from shiftproof.results import RateResult


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a share, usable at 0 and 100 % and for few images.

    The shares ``p`` that a score test does not reject:
    ``|successes / n - p| <= z sqrt(p (1 - p) / n)``.

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
    if not 0 < confidence < 1:
        raise ValueError(
            f"wilson_interval: confidence must lie between 0 and 1, got {confidence}; "
            "pass 0.95 for 95 %"
        )
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The ends at no and at all successes are exact; rounding would miss them.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return low, high


def rate(protocol: str, successes: int, n: int, batch_mean: float | None = None) -> RateResult:
    """A share of images with its 95 % interval.

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
