import itertools
import math
from fractions import Fraction

import pytest
import torch

from shiftproof.metrics import mcnemar, paired_difference, wilson_interval


def pair(only_first, only_second, both=3, neither=2):
    """Truth values of two networks, with the given counts."""
    counts = (only_first, only_second, both, neither)
    rows = [(True, False), (False, True), (True, True), (False, False)]
    flat = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    first, second = torch.tensor(flat).reshape(-1, 2).T
    return first, second


def by_enumeration(only_first, only_second):
    """Share of all ways to deal out the images that are at least as unequal."""
    differ, found = only_first + only_second, abs(only_first - only_second)
    ways = list(itertools.product((1, -1), repeat=differ))
    return Fraction(sum(abs(sum(way)) >= found for way in ways), len(ways))


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 3), (7, 1), (2, 9), (0, 10), (6, 5)])
def test_mcnemar_against_enumeration(counts):
    result = mcnemar(*pair(*counts))
    assert (result.n, result.only_first, result.only_second) == (5 + sum(counts), *counts)
    assert result.p_value == float(by_enumeration(*counts))
    assert mcnemar(*reversed(pair(*counts))).p_value == result.p_value


def test_mcnemar_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for only_first, only_second in [(40, 61), (300, 301), (4000, 4300), (0, 900)]:
        expected = stats.binomtest(only_first, only_first + only_second).pvalue
        found = mcnemar(*pair(only_first, only_second)).p_value
        assert found == pytest.approx(expected, rel=1e-9)


def test_images_on_which_networks_agree_do_not_matter_to_mcnemar():
    few, many = mcnemar(*pair(8, 1)), mcnemar(*pair(8, 1, 500, 500))
    assert few.p_value == many.p_value < 0.05


def test_a_pair_finds_what_two_intervals_hide():
    first, second = pair(20, 4, both=400, neither=76)
    ends = [wilson_interval(int(x.sum()), 500) for x in (first, second)]
    assert ends[0][0] < ends[1][1]  # they overlap
    assert mcnemar(first, second).p_value < 0.01
    assert paired_difference(first, second).low > 0


def slow_bootstrap(differences, count, seed):
    """Means of resampled images, one by one."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(differences), (count, len(differences)), generator=generator)
    return sorted(sum(differences[i] for i in row) / len(row) for row in drawn.tolist())


def test_a_difference_against_a_slow_bootstrap():
    source = torch.Generator().manual_seed(1)
    first, second = torch.rand(2, 200, generator=source, dtype=torch.float64)
    result = paired_difference(first, second, num_resamples=999, seed=5)
    differences = (first - second).tolist()
    assert result.value == pytest.approx(sum(differences) / 200)
    means = slow_bootstrap(differences, 999, 5)
    # With 200 images the quantiles are 2.4 and 97.6 %.
    assert means[20] < result.low < means[26]
    assert means[-27] < result.high < means[-21]
    assert result == paired_difference(first, second, num_resamples=999, seed=5)
    assert result != paired_difference(first, second, num_resamples=999, seed=6)


def test_clusters_are_drawn_whole():
    torch.manual_seed(0)
    shift = torch.randn(10).repeat_interleave(30)
    first, second = shift + 0.1 * torch.randn(300), torch.zeros(300)
    clusters = torch.arange(10).repeat_interleave(30) * 7 - 3
    order = torch.randperm(300)
    over_images = paired_difference(first, second)
    whole = paired_difference(first[order], second, clusters=clusters[order])
    assert (whole.n, whole.num_clusters, over_images.num_clusters) == (300, 10, 300)
    assert whole.value == pytest.approx(over_images.value)
    assert whole.high - whole.low > 4 * (over_images.high - over_images.low)


def covered(num_clusters, draws=300):
    generator = torch.Generator().manual_seed(0)
    count = 0
    for _ in range(draws):
        first = torch.randn(num_clusters, generator=generator).repeat_interleave(4)
        clusters = torch.arange(num_clusters).repeat_interleave(4)
        second = torch.zeros(len(first))
        result = paired_difference(first, second, clusters=clusters, num_resamples=500)
        count += result.low <= 0 <= result.high
    return count / draws


def test_few_clusters_are_covered():
    assert covered(6) >= 0.92


def test_all_alike_is_not_certainty():
    same = torch.ones(40, dtype=torch.bool)
    result = paired_difference(same, same)
    half = wilson_interval(0, 40)[1]
    assert (result.value, result.low, result.high) == (0, -half, half)
    whole = paired_difference(same, same, clusters=torch.arange(40) // 20)
    assert whole.high == wilson_interval(0, 2)[1]
    opposite = paired_difference(same, ~same)
    assert (opposite.value, opposite.low, opposite.high) == (1, 1 - 2 * half, 1)
    constant = paired_difference(torch.ones(9), torch.zeros(9))
    assert (constant.value, constant.low, constant.high) == (1, -math.inf, math.inf)


@pytest.mark.parametrize("function", [mcnemar, paired_difference])
@pytest.mark.parametrize("shapes", [((3,), (4,)), ((2, 3), (2, 3)), ((0,), (0,))], ids=str)
def test_what_is_not_one_value_per_image(function, shapes):
    with pytest.raises(ValueError, match="one value for each of the same images"):
        function(*(torch.ones(shape, dtype=torch.bool) for shape in shapes))


def test_mcnemar_is_of_truth_values():
    with pytest.raises(TypeError, match=r"mcnemar: first and second must be bool, got torch\.f"):
        mcnemar(torch.rand(3), torch.rand(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": torch.zeros(4)}, "at least two clusters to draw from, got 1"),
        ({"clusters": torch.zeros(3)}, "clusters must number the cluster of each image"),
        ({"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
        ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
    ],
)
def test_a_difference_that_cannot_be_measured(options, message):
    with pytest.raises(ValueError, match=f"paired_difference: .*{message}"):
        paired_difference(torch.rand(4), torch.rand(4), **options)


def test_a_difference_of_what_is_no_number():
    with pytest.raises(ValueError, match="values must be finite"):
        paired_difference(torch.tensor([1.0, math.nan]), torch.zeros(2))
    with pytest.raises(ValueError, match="at least two clusters"):
        paired_difference(torch.ones(1), torch.zeros(1))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_very_few_clusters_are_covered(m):
    source = torch.Generator().manual_seed(m)
    clusters = torch.arange(m).repeat_interleave(10)
    hits, trials = 0, 200
    for _ in range(trials):
        shift = torch.randn(m, generator=source).repeat_interleave(10)
        values = 1 + shift + 0.1 * torch.randn(10 * m, generator=source)
        found = paired_difference(values, torch.zeros(10 * m), clusters=clusters, num_resamples=200)
        hits += found.low <= 1 <= found.high
    assert hits / trials > 0.9


def test_of_truth_values_the_interval_stays_within_what_is_possible():
    first = torch.tensor([True, False, True, True])
    clusters = torch.tensor([0, 0, 1, 1])
    found = paired_difference(first, ~first, clusters=clusters)
    assert (found.low, found.high) == (-1, 1)
