"""Intervals of shares whose images come in clusters."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shiftproof.metrics import cluster_interval, cluster_rate, wilson_interval
from shiftproof.metrics.clusters import batch_rate, batch_sums, cluster_sums
from shiftproof.metrics.intervals import student_quantile

CLUSTERS = st.lists(
    st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=2,
    max_size=30,
)


def reference(successes, sizes, t):
    """The docstring, in floating point."""
    m, n, s = len(sizes), sum(sizes), sum(successes)
    p, z = s / n, 1.959963984540054
    least = n**2 / sum(size**2 for size in sizes)
    pairs = list(zip(successes, sizes, strict=True))
    variance = m / (m - 1) * sum((count - p * size) ** 2 for count, size in pairs) / n**2
    effective = max(min(p * (1 - p) / variance * (z / t) ** 2, n), least)
    center = (p + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = (
        math.sqrt(p * (1 - p) / effective + (z / effective) ** 2 / 4) * z / (1 + z**2 / effective)
    )
    return center - half, center + half


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (10, 2.22814), (30, 2.04227), (120, 1.97993)],
)
def test_students_quantiles_are_those_of_the_tables(degrees, quantile):
    assert student_quantile(degrees, 0.95) == pytest.approx(quantile, abs=6e-6)
    assert student_quantile(None, 0.95) < student_quantile(10**9, 0.95) < 1.9624
    assert student_quantile(4, 0.99) == pytest.approx(4.60409, abs=6e-6)


def test_an_interval_against_the_definition():
    # Failures 1, 5, 3, 2 spread like (11)^2 / 39 = 3.1 clusters: as many as m - 1 allows.
    successes, sizes = [9, 7, 17, 8], [10, 12, 20, 10]
    found = cluster_interval(successes, sizes)
    assert found == pytest.approx(reference(successes, sizes, 3.18245), abs=1e-6)
    # Failures 0, 6, 0, 1: like 49 / 37 = 1.3 clusters, one degree of freedom.
    successes = [10, 6, 20, 9]
    found = cluster_interval(successes, sizes)
    assert found == pytest.approx(reference(successes, sizes, 12.7062), abs=1e-6)


@given(CLUSTERS)
def test_an_interval_is_never_narrower_than_wilsons_and_mirrors(clusters):
    successes, sizes = (list(column) for column in zip(*clusters, strict=True))
    low, high = cluster_interval(successes, sizes)
    inner_low, inner_high = wilson_interval(sum(successes), sum(sizes))
    assert 0 <= low <= inner_low + 1e-12
    assert inner_high - 1e-12 <= high <= 1
    failures = [size - count for count, size in clusters]
    assert cluster_interval(failures, sizes) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize("success", [0, 1])
def test_without_a_difference_between_clusters_each_counts_once(success):
    found = cluster_interval([success * 50] * 20, [50] * 20)
    assert found == pytest.approx(wilson_interval(success * 20, 20))
    # Clusters of one image are images; a large one among them does not count for more than it is.
    assert cluster_interval([success] * 20, [1] * 20) == wilson_interval(success * 20, 20)
    uneven_low, uneven_high = cluster_interval([success * n for n in (99, 1)], [99, 1])
    assert uneven_high - uneven_low > 0.78


@pytest.mark.parametrize(
    "clusters", [([], []), ([3], [4]), ([4], [4]), ([0], [9]), ([3, 0], [4, 0])]
)
def test_fewer_than_two_clusters_give_no_interval(clusters):
    assert cluster_interval(*clusters) == (0.0, 1.0)


def test_more_confidence_is_wider():
    low, high = cluster_interval([5, 9, 7], [10, 10, 10], confidence=0.5)
    wider_low, wider_high = cluster_interval([5, 9, 7], [10, 10, 10], confidence=0.99)
    assert wider_low < low < high < wider_high


def simulated(share, correlation, num_clusters, size, draws=500):
    """Coverage of the interval and of Wilson's over images, of beta-binomial clusters."""
    torch.manual_seed(0)
    scale = 1 / correlation - 1
    beta = torch.distributions.Beta(share * scale, (1 - share) * scale)
    sizes = torch.full((num_clusters,), size)
    sizes[-1] = size // 3
    shares = beta.sample((draws, num_clusters))
    counts = torch.binomial(sizes.float().expand(draws, -1), shares).long().tolist()
    covered = [0, 0]
    for row in counts:
        ends = cluster_interval(row, sizes.tolist()), wilson_interval(sum(row), int(sizes.sum()))
        for which, (low, high) in enumerate(ends):
            covered[which] += low <= share <= high
    return covered[0] / draws, covered[1] / draws


@pytest.mark.parametrize(
    ("share", "correlation", "num_clusters", "size"),
    [(0.8, 0.1, 20, 50), (0.95, 0.1, 40, 256), (0.99, 0.3, 40, 256), (0.5, 0.3, 3, 50)],
)
def test_the_interval_covers_the_share_and_wilsons_over_images_does_not(
    share, correlation, num_clusters, size
):
    ours, over_images = simulated(share, correlation, num_clusters, size)
    assert ours >= 0.93
    assert over_images < 0.7


def test_independent_images_cost_little():
    generator = torch.Generator().manual_seed(0)
    counts = (torch.rand(40, 256, generator=generator) < 0.9).sum(1).tolist()
    low, high = cluster_interval(counts, [256] * 40)
    inner_low, inner_high = wilson_interval(sum(counts), 40 * 256)
    assert high - low < 1.25 * (inner_high - inner_low)


@given(CLUSTERS)
def test_sums_of_batches_add_up_exactly_in_any_order(clusters):
    batches = [torch.arange(size) < count for count, size in clusters]
    sums = torch.stack([batch_sums(agree) for agree in batches])
    assert torch.equal(sums.sum(0), sums.flip(0).cumsum(0)[-1])
    columns = torch.tensor(clusters).T
    assert torch.equal(sums.sum(0), cluster_sums(*columns))
    found = batch_rate("x", sums.sum(0), independent=False)
    again = cluster_rate("x", *columns.tolist())
    assert (found.low, found.high, found.num_clusters) == (again.low, again.high, len(clusters))
    mean = math.fsum(count / size for count, size in clusters) / len(clusters)
    assert found.batch_mean == pytest.approx(mean, abs=1e-11)
    independent = batch_rate("x", sums.sum(0), independent=True)
    assert (independent.low, independent.high) == wilson_interval(found.successes, found.n)
    assert independent.num_clusters is None


def test_counts_that_cannot_be():
    with pytest.raises(ValueError, match="cluster_interval: successes must lie between 0 and the"):
        cluster_interval([1, 5], [2, 4])
    with pytest.raises(ValueError, match="cluster_rate: each cluster must have a count and a size"):
        cluster_rate("x", [1, 2], [3])
    with pytest.raises(ValueError, match="cluster_interval: confidence must lie between 0 and 1"):
        cluster_interval([1, 2], [2, 3], 95)
