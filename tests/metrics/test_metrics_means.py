import dataclasses
import math
import random
import statistics

import pytest
import torch
from test_metrics_accumulate import assert_same_mean

from shiftproof.metrics import mean_result, paired_difference, protocol, worst_shift_accuracy
from shiftproof.metrics.accumulate import (
    EmbeddingCosine,
    EquivarianceError,
    PairedDifference,
    PhaseGap,
    ProbabilityChange,
    WorstShiftAccuracy,
)
from shiftproof.metrics.changes import (
    correct_under_all,
    embedding_cosine,
    equivariance_error,
    probability_change,
)
from shiftproof.metrics.clusters import cluster_rate
from shiftproof.metrics.gaps import phase_gap
from shiftproof.metrics.intervals import student_quantile, wilson_interval
from shiftproof.ops import circular_shift

OWN, SHARED = protocol("circular"), protocol("aps-imagenet")


def batches():
    """Of different sizes: logits of two versions, labels, maps of two versions, their shift."""
    source = torch.Generator().manual_seed(0)
    return [
        (
            *torch.randn(2, size, 3, generator=source),
            torch.randint(0, 3, (size,), generator=source),
            *torch.randn(2, size, 2, 4, 4, generator=source),
            torch.randint(-3, 4, (size, 2), generator=source),
        )
        for size in (7, 3, 8, 6, 5)
    ]


def measure(rank=0, world_size=1):
    metrics = {
        "change": ProbabilityChange(OWN),
        "shared change": ProbabilityChange(SHARED),
        "cosine": EmbeddingCosine(OWN),
        "error": EquivarianceError(SHARED),
        "gap": PhaseGap("layer1"),
        "worst": WorstShiftAccuracy(),
        "shared worst": WorstShiftAccuracy(SHARED),
        "paired": PairedDifference(),
        "shared paired": PairedDifference(),
    }
    for still, moved, labels, first, second, shift in batches()[rank::world_size]:
        for name in ("change", "shared change"):
            metrics[name].update(iter([still, moved]), labels)
        for name in ("worst", "shared worst"):
            metrics[name].update([still, moved + 2 * still], labels)
        metrics["cosine"].update(still, moved)
        metrics["error"].update(first, second, shift)
        metrics["gap"].update(still)
        metrics["paired"].update(still[:, 0], moved[:, 0])
        metrics["shared paired"].update(still[:, 0], moved[:, 0], one_cluster=True)
    return {name: metric.compute() for name, metric in metrics.items()}


def slow_mean(values, clusters):
    """Mean and standard error of a ratio of sums over clusters, by its definition."""
    n, numbers = len(values), sorted(set(clusters))
    mean, m = sum(values) / n, len(numbers)
    residuals = [
        sum(v - mean for v, c in zip(values, clusters, strict=True) if c == number)
        for number in numbers
    ]
    return mean, math.sqrt(m / (m - 1) * sum(r * r for r in residuals) / n**2), m


def joined(measure):
    return torch.cat([measure(*batch) for batch in batches()])


def test_twins_against_the_functions():
    found = measure()
    sizes = [len(batch[0]) for batch in batches()]
    clusters = torch.arange(5).repeat_interleave(torch.tensor(sizes))
    change = joined(lambda s, m, labels, *_: probability_change([s, m], labels))
    cosine = joined(lambda s, m, *_: embedding_cosine(s, m))
    error = joined(lambda s, m, y, a, b, shift: equivariance_error(a, b, shift))
    gap = joined(lambda s, *_: phase_gap(s))
    expected = {
        "change": mean_result("probability change (circular)", change, bounds=(0, 1)),
        "shared change": mean_result(
            "probability change (aps-imagenet)", change, bounds=(0, 1), clusters=clusters
        ),
        "cosine": mean_result("embedding cosine (circular)", cosine, bounds=(-1, 1)),
        "error": mean_result(
            "equivariance error (aps-imagenet)", error, bounds=(0, None), clusters=clusters
        ),
        "gap": mean_result("phase gap (layer1)", gap, bounds=(0, 2)),
    }
    for name, mean in expected.items():
        assert_same_mean(found[name], mean)
        assert mean.low < mean.value < mean.high
    assert found["shared change"].num_clusters == 5
    assert found["change"].num_clusters is None

    right = [correct_under_all([s, m + 2 * s], y) for s, m, y, *_ in batches()]
    successes = [int(batch.sum()) for batch in right]
    assert found["worst"].successes == found["shared worst"].successes == sum(successes)
    assert 0 < sum(successes) < 29
    assert (found["worst"].low, found["worst"].high) == wilson_interval(sum(successes), 29)
    shared = cluster_rate("aps-imagenet", successes, sizes)
    assert dataclasses.replace(found["shared worst"], batch_mean=None) == shared

    first, second = joined(lambda s, *_: s[:, 0]), joined(lambda s, m, *_: m[:, 0])
    for name, groups in (("paired", None), ("shared paired", clusters)):
        known = paired_difference(first, second, clusters=groups)
        assert found[name].value == pytest.approx(known.value, rel=1e-12)
        assert found[name].num_clusters == known.num_clusters
        assert found[name].low == pytest.approx(known.low, abs=0.03)
        assert found[name].high == pytest.approx(known.high, abs=0.03)


def test_the_worst_shift_of_the_twin_is_that_of_the_function():
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels, shifts = torch.arange(20) % 4, [(0, 0), (1, 2), (3, 1)]

    def model(x):
        return x[:, 0, 0]

    metric = WorstShiftAccuracy()
    labels = torch.where(torch.arange(20) < 10, images[:, 0, 0].argmax(1), labels)
    for part in (slice(0, 9), slice(9, 20)):
        views = (circular_shift(images[part], shift) for shift in shifts)
        metric.update(map(model, views), labels[part])
    assert metric.compute() == worst_shift_accuracy(model, images, labels, shifts)


def test_the_interval_of_a_mean_is_that_of_its_definition():
    source = random.Random(0)
    values = [source.gauss(-3, 2) for _ in range(40)]
    clusters = [source.randrange(9) for _ in range(40)]
    mean, error, m = slow_mean(values, clusters)
    found = mean_result(
        "m", torch.tensor(values), bounds=(None, None), clusters=torch.tensor(clusters)
    )
    t = student_quantile(m - 1, 0.95)
    expected = (mean, mean - t * error, mean + t * error)
    assert (found.value, found.low, found.high) == pytest.approx(expected, rel=1e-5)
    assert (found.n, found.num_clusters) == (40, 9)
    alone = mean_result("m", torch.tensor(values), bounds=(None, None))
    spread = student_quantile(39, 0.95) * statistics.stdev(values) / math.sqrt(40)
    assert alone.high - alone.value == pytest.approx(spread, rel=1e-5)


def test_of_shares_it_is_that_of_wilson_with_student_s_quantile():
    values = torch.tensor([1.0] * 30 + [0.0] * 70)
    found = mean_result("m", values, bounds=(0, 1))
    low, high = wilson_interval(30, 100)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)
    assert found.high - found.low > high - low
    scaled = mean_result("m", 10 * values - 5, bounds=(-5, 5))
    assert (scaled.low, scaled.high) == pytest.approx((10 * found.low - 5, 10 * found.high - 5))


def test_of_ratios_it_is_symmetric_in_decibels():
    found = mean_result("m", torch.tensor([0.1, 0.2, 0.4, 0.1]), bounds=(0, None))
    assert found.value / found.low == pytest.approx(found.high / found.value)
    assert found.low > 0


def covered(draw, mean, bounds, size, trials=150):
    hits = 0
    for _ in range(trials):
        found = mean_result("m", draw(size), bounds=bounds)
        hits += found.low <= mean <= found.high
    return hits / trials


def test_intervals_cover_the_mean():
    numbers = torch.Generator().manual_seed(0)

    def skewed(size):  # the ninth power of a uniform number: mean .1, half of them below .002
        return torch.rand(size, generator=numbers) ** 9

    def heavy(size):
        return torch.randn(size, generator=numbers).exp()

    assert covered(skewed, 0.1, (0, 1), 30) >= 0.9
    assert covered(skewed, 0.1, (0, 1), 200) >= 0.92
    assert covered(heavy, math.exp(0.5), (0, None), 100) >= 0.86
    tight = mean_result("m", skewed(2000), bounds=(0, 1))
    assert tight.high - tight.low < 0.04


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_equal_values_leave_room_for_what_was_not_seen(value):
    found = mean_result("m", torch.full((50,), value), bounds=(0, 1))
    unseen = wilson_interval(0, 50)[1]
    expected = (value - unseen * value, value + unseen * (1 - value))
    assert (found.low, found.high) == pytest.approx(expected)
    endless = mean_result("m", torch.full((50,), value), bounds=(0, None))
    assert (endless.low, endless.high) == (0, None)


def test_one_cluster_gives_no_interval_and_no_values_no_mean():
    values = torch.rand(5)
    one = mean_result("m", values, bounds=(0, 1), clusters=torch.zeros(5, dtype=torch.int64))
    assert (one.n, one.low, one.high, one.num_clusters) == (5, 0, 1, 1)
    none = mean_result("m", values[:0], bounds=(0, None))
    assert (none.n, none.value, none.low, none.high) == (0, 0.0, 0, None)


def test_an_invariant_network_has_a_cosine_of_one_exactly():
    metric = EmbeddingCosine(OWN)
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    metric.update(x, x)
    found = metric.compute()
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low < 1


def test_what_is_not_finite_is_refused():
    metric = ProbabilityChange(OWN)
    metric.update([torch.full((2, 3), math.nan), torch.zeros(2, 3)], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"probability change \(circular\): values must be finite"):
        metric.compute()
    with pytest.raises(ValueError, match="mean_result: there must be one value per image"):
        mean_result("m", torch.zeros(2, 2), bounds=(0, 1))


def test_sums_stay_in_float64():
    metric = PhaseGap().half().double()
    assert metric.set_dtype(torch.float16).sums.dtype == torch.float64
