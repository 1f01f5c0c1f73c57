import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shiftproof.metrics import rate, wilson_interval


@st.composite
def counts(draw):
    n = draw(st.integers(1, 10**6))
    return draw(st.integers(0, n)), n


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775328),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2553, 0.3662),
        (10, 10, 0.7224672, 1.0),
    ],
)
def test_known_intervals(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_no_images_say_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(counts())
def test_ends_solve_the_score_equation(pair):
    successes, n = pair
    z = NormalDist().inv_cdf(0.975)
    for end in wilson_interval(successes, n):
        deviation = abs(successes / n - end)
        assert deviation == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9)


@given(counts())
def test_interval_holds_the_share_and_mirrors(pair):
    successes, n = pair
    low, high = wilson_interval(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0
    mirrored = wilson_interval(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_more_confidence_is_wider():
    low, high = wilson_interval(7, 20, confidence=0.5)
    wider_low, wider_high = wilson_interval(7, 20, confidence=0.99)
    assert wider_low < low < high < wider_high


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, -1)])
def test_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes must lie between 0 and n"):
        wilson_interval(successes, n)
    with pytest.raises(ValueError, match="successes must lie between 0 and n"):
        rate("top-1", successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, math.nan])
def test_impossible_confidence(confidence):
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
        wilson_interval(1, 2, confidence)


def test_rate_carries_the_95_percent_interval():
    result = rate("crop", 3, 4, batch_mean=0.5)
    assert (result.protocol, result.successes, result.n) == ("crop", 3, 4)
    assert (result.low, result.high) == wilson_interval(3, 4, 0.95)
    assert result.batch_mean == 0.5
    assert rate("crop", 3, 4).batch_mean is None
