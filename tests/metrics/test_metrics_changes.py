"""How much answers change, against loops over images and values."""

import math

import numpy as np
import pytest
import torch

from shiftproof import create_model, nn, ops
from shiftproof.metrics import (
    correct_under_all,
    decibels,
    embedding_cosine,
    equivariance_error,
    phase_gap,
    phase_gaps,
    probability_change,
)

NAN = float("nan")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_softmax(row):
    exps = [math.exp(value) for value in row]
    return [value / sum(exps) for value in exps]


def test_probability_change_against_loops():
    versions, labels = [random(5, 4, seed=s) for s in range(3)], torch.tensor([0, 3, 1, 1, 2])
    expected = []
    for n, label in enumerate(labels.tolist()):
        own = [slow_softmax(version[n].tolist())[label] for version in versions]
        expected.append(max(own) - min(own))
    found = probability_change(iter(versions), labels)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert probability_change([versions[0]] * 2, labels).tolist() == [0.0] * 5
    assert found[0] != probability_change(iter(versions), labels.roll(1))[0]


def test_nan_shows_in_the_change():
    versions = [torch.tensor([[0.0, 1.0], [NAN, 0.0]]), torch.zeros(2, 2)]
    found = probability_change(versions, torch.tensor([0, 0]))
    assert found.isnan().tolist() == [False, True]


def test_correct_under_all():
    eye, labels = torch.eye(3), torch.tensor([0, 1, 2])
    turned = eye.roll(1, 1)
    mixed = torch.cat([eye[:1], turned[1:]])
    assert correct_under_all(iter([eye, eye]), labels).tolist() == [True] * 3
    assert correct_under_all([eye, mixed], labels).tolist() == [True, False, False]
    assert correct_under_all([eye, eye * NAN], labels).tolist() == [False] * 3


def test_embedding_cosine_against_loops():
    first, second = random(4, 2, 3), random(4, 2, 3, seed=1)
    second[0] = -2 * first[0]
    expected = []
    for x, y in zip(first.flatten(1).tolist(), second.flatten(1).tolist(), strict=True):
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        expected.append(dot / math.hypot(*x) / math.hypot(*y))
    assert embedding_cosine(first, second).tolist() == pytest.approx(expected, rel=1e-6)
    assert expected[0] == pytest.approx(-1)


def test_embeddings_that_are_equal_zero_huge_or_nan():
    x = torch.tensor([[0.1, 0.7, -0.3], [0.0, 0.0, 0.0], [1e30, 1e-30, 2e30], [NAN, 1, 1]])
    same = embedding_cosine(x, x)
    assert same[:3].tolist() == [1.0, 1.0, 1.0]
    assert same[3].isnan()
    assert embedding_cosine(x[1:2], x[:1]).tolist() == [0.0]
    small = (x * 1e-30).double() * 1e-200
    assert embedding_cosine(small, x.double())[0] == pytest.approx(1, abs=1e-6)


def slow_error(still, moved, shift):
    difference = norm = 0.0
    channels, height, width = still.shape
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                source = still[c, (i - shift[0]) % height, (j - shift[1]) % width]
                difference += (moved[c, i, j] - source) ** 2
                norm += source**2
    return math.sqrt(difference / norm)


def test_equivariance_error_against_loops():
    still, moved = random(3, 2, 4, 5).double(), random(3, 2, 4, 5, seed=1).double()
    shifts = torch.tensor([[1, -2], [0, 3], [5, 0]])
    expected = [
        slow_error(still[n].numpy(), moved[n].numpy(), shift)
        for n, shift in enumerate(shifts.tolist())
    ]
    assert equivariance_error(still, moved, shifts).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_strided_layer_is_equivariant_to_its_stride_only():
    images = random(2, 3, 16, 16)
    layer = torch.nn.Conv2d(3, 4, 3, 2, 1, padding_mode="circular")
    with torch.no_grad():
        still = layer(images)
        for shift, exact in (((2, -4), True), ((1, 0), False)):
            moved = layer(ops.circular_shift(images, shift))
            error = equivariance_error(still, moved, [d / 2 for d in shift])
            assert bool((error < 1e-6).all()) == exact


def test_the_error_of_bilinear_shifts_is_another():
    still, moved = random(1, 1, 6, 6), random(1, 1, 6, 6, seed=1)
    moved = ops.fractional_shift(still, (0.5, 0.5), "bilinear")
    by_fft = equivariance_error(still, moved, (0.5, 0.5))
    bilinear = equivariance_error(still, moved, (0.5, 0.5), method="bilinear")
    assert bilinear < 1e-6 < 0.1 < by_fft


def test_only_valid_places_are_compared():
    still = random(2, 3, 6, 6)
    moved, valid = ops.zero_fill_shift(still, (1, -2))
    assert (equivariance_error(still, moved, (1, -2)) > 0.1).all()
    assert equivariance_error(still, moved, (1, -2), valid=valid).tolist() == [0.0, 0.0]


def test_maps_of_zeros():
    zero, one = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
    assert equivariance_error(zero, zero, (1,)).tolist() == [0.0]
    assert equivariance_error(zero, one, (1,)).tolist() == [math.inf]


def test_decibels():
    assert [decibels(x) for x in (1, 0.1, 0.01, 0)] == [0, -20, -40, -math.inf]


def test_phase_gap_against_loops():
    scores = torch.cat([random(6, 4).abs(), torch.zeros(1, 4), -random(2, 4).abs()])
    expected = []
    for row in scores.tolist():
        second, best = sorted(row)[-2:]
        largest = max(abs(best), abs(second))
        expected.append((best - second) / largest if largest else 0.0)
    assert phase_gap(scores).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(phase_gap(scores), phase_gap(scores.roll(1, 1)))
    tied = torch.tensor([[3.0, 3.0, 1.0]])
    assert phase_gap(tied).tolist() == [0.0]
    large = torch.tensor([[2**62 + 1, 2**62]])
    assert phase_gap(large).item() == pytest.approx(2**-62)


def test_gaps_of_a_network_do_not_move_with_its_images():
    model = create_model("cifar_resnet20_pa").eval()
    chosen = {n: m.selector for n, m in model.named_modules() if isinstance(m, nn.SelectPhase2d)}
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gaps = phase_gaps(model, images, chosen)
    assert list(gaps) == list(chosen)
    moved = phase_gaps(model, ops.circular_shift(images, (3, 5)), chosen)
    assert all(torch.equal(gaps[name], moved[name]) for name in gaps)
    first = next(iter(chosen.values()))
    assert not first._forward_hooks
    control = phase_gaps(model, images.flip(0) + images, chosen)
    assert not any(torch.equal(gaps[name], control[name]) for name in gaps)


def test_a_selector_that_is_called_twice_gives_its_smallest_gap():
    selector = torch.nn.Identity()

    def model(x):
        return selector(x), selector(x.sqrt())

    scores = torch.tensor([[4.0, 1.0], [0.25, 0.04]])
    gaps = phase_gaps(model, scores, {"a": selector})["a"]
    assert gaps.tolist() == pytest.approx([0.5, 0.6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: probability_change([torch.zeros(2, 3)], torch.zeros(2)), "two or more tensors"),
        (lambda: probability_change([], torch.zeros(2)), "two or more tensors"),
        (
            lambda: probability_change([torch.zeros(2, 3), torch.zeros(2, 4)], torch.zeros(2)),
            "two or more tensors of one shape",
        ),
        (lambda: correct_under_all([], torch.zeros(2)), "at least one version, got none"),
        (lambda: embedding_cosine(torch.zeros(2, 3), torch.zeros(3, 3)), "must have one shape"),
        (
            lambda: equivariance_error(torch.zeros(1, 1, 4), torch.zeros(1, 1, 5), (1,)),
            "equivariance_error: both versions must have one shape",
        ),
        (lambda: phase_gap(torch.zeros(2, 1)), "two phases or more, got shape"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_agrees_with_the_loops():
    x, y = random(1, 8).numpy()[0], random(1, 8, seed=1).numpy()[0]
    expected = float(np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y))
    found = embedding_cosine(torch.from_numpy(x)[None], torch.from_numpy(y)[None])
    assert found.item() == pytest.approx(expected, rel=1e-5)
