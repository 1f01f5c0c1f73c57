import pytest
import torch
from torch import nn

from shiftproof.metrics import (
    PROTOCOLS,
    accuracy_over_shifts,
    agreement,
    cluster_interval,
    consistency,
    protocol,
    topk_correct,
    wilson_interval,
    worst_shift_accuracy,
)
from shiftproof.ops.shift import circular_shift

NAN = float("nan")


def invariant(images):
    """Two classes by the mean of the image, exact for whole numbers."""
    mean = images.mean((1, 2, 3)) - 5
    return torch.stack([mean, -mean], dim=1)


def corner(images):
    """Classes by the first pixel: whether it shows the marked pixel."""
    mark = images[:, 0, 0, 0] - 0.5
    return torch.stack([mark, -mark], dim=1)


def marked(num_images, size):
    """One marked pixel, at the origin."""
    images = torch.zeros(num_images, 1, size, size)
    images[:, :, 0, 0] = 1
    return images


def whole_numbers(seed=0, num_images=5):
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 11, (num_images, 1, 64, 64), generator=source).float()


def test_agreement():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    third = torch.tensor([[0.0, 3.0], [0.0, 3.0], [0.0, 1.0]])
    assert agreement([first, second]).tolist() == [True, False, True]
    assert agreement([first, second, third]).tolist() == [False, False, True]


def test_nan_does_not_agree_with_nan():
    nothing = torch.full((1, 3), NAN)
    partly = torch.tensor([[0.0, NAN, 1.0]])
    sound = torch.tensor([[0.0, 2.0, 1.0]])
    for pair in [(nothing, nothing), (partly, partly), (sound, partly), (partly, sound)]:
        assert agreement(pair).tolist() == [False]
    assert agreement([sound, sound]).tolist() == [True]


@pytest.mark.parametrize(
    "shapes", [[], [(2, 3)], [(2, 3), (2, 4)], [(2, 3), (3, 3)], [(2,), (2,)]], ids=str
)
def test_agreement_of_what_cannot_be_compared(shapes):
    with pytest.raises(ValueError, match="two or more tensors of one shape"):
        agreement([torch.rand(shape) for shape in shapes])


LOSSLESS = [
    name
    for name in sorted(PROTOCOLS)
    if name not in ("pan", "tips", "tips-fidelity", "zero-fill") and "crop" not in name
]


@pytest.mark.parametrize("name", LOSSLESS)
def test_invariant_model_is_consistent_and_a_position_reader_is_not(name):
    batches = [whole_numbers(seed) for seed in range(4)]
    result = consistency(invariant, batches, PROTOCOLS[name])
    assert (result.protocol, result.n, result.successes) == (name, 20, 20)
    assert result.batch_mean == 1.0
    control = consistency(lambda x: x[:, 0, 0, :9], batches, PROTOCOLS[name])
    assert control.successes < 20


def test_counts_against_the_definition():
    chosen = protocol("circular", max_shift=1)
    batches = [marked(6, 4), marked(2, 4), marked(1, 4)]
    source = torch.Generator().manual_seed(3)
    agree = []
    for images in batches:
        views = chosen.views(images, source)
        agree.append([bool(a == b) for a, b in zip(*(v[:, 0, 0, 0] for v in views), strict=True)])
    flat = [value for batch in agree for value in batch]
    assert 0 < sum(flat) < 9

    result = consistency(corner, iter(batches), chosen, seed=3)
    assert (result.n, result.successes) == (9, sum(flat))
    assert (result.low, result.high) == wilson_interval(sum(flat), 9)
    assert result.batch_mean == pytest.approx(sum(sum(a) / len(a) for a in agree) / 3)


@pytest.mark.parametrize(
    ("name", "fields", "num_clusters"),
    [
        ("circular", {}, None),
        ("aps-imagenet", {"per_image": True}, None),
        ("crop", {"margin": 2, "per_image": True}, None),
        ("aps-cifar-crop", {"per_image": True}, None),
        ("aps-imagenet", {}, 3),
        ("crop", {"margin": 2}, 3),
        ("aps-cifar-crop", {}, 3),
    ],
)
def test_images_of_a_batch_depend_on_each_other_where_they_share_a_shift(
    name, fields, num_clusters
):
    batches = [torch.full((count, 1, 4, 4), 7.0) for count in (40, 30, 20)]
    result = consistency(lambda x: x.amax((2, 3)).expand(-1, 2), batches, protocol(name, **fields))
    assert (result.successes, result.num_clusters) == (90, num_clusters)
    if num_clusters is None:
        assert (result.low, result.high) == wilson_interval(90, 90)
    else:
        assert (result.low, result.high) == cluster_interval([40, 30, 20], [40, 30, 20])


def test_a_protocol_that_does_not_say_so_is_not_taken_for_independent():
    class Mirror:
        name = "mirror"

        def views(self, images, generator):
            return images, images.flip(-1)

    result = consistency(invariant, [marked(4, 4)] * 2, Mirror())
    assert (result.num_clusters, result.low) == (2, cluster_interval([4, 4], [4, 4])[0])
    Mirror.per_image = True
    assert consistency(invariant, [marked(4, 4)] * 2, Mirror()).num_clusters is None


def test_seed_decides():
    images = [marked(64, 2)]
    results = [consistency(corner, images, PROTOCOLS["circular"], seed=s) for s in (0, 0, 1, 2, 3)]
    assert results[0] == results[1]
    assert len({result.successes for result in results}) > 1


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    consistency(corner, [marked(2, 4)], PROTOCOLS["circular"])
    assert torch.equal(before, torch.get_rng_state())


def test_nan_model_is_not_consistent():
    result = consistency(
        lambda x: x.new_full((len(x), 3), NAN), [marked(4, 4)], PROTOCOLS["circular"]
    )
    assert result.successes == 0


def test_no_batches_and_an_empty_one():
    result = consistency(corner, [], PROTOCOLS["circular"])
    assert (result.n, result.value, result.batch_mean) == (0, 0.0, None)
    padded = [marked(3, 1), marked(0, 1)]
    assert consistency(corner, padded, PROTOCOLS["circular"]).batch_mean == 1.0


class Witness(nn.Module):
    """Records how it is run."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.runs = []

    def forward(self, images):
        logits = images.mean((1, 2, 3))[:, None] * self.weight
        self.runs.append((self.training, logits.requires_grad))
        return logits


@pytest.mark.parametrize("training", [True, False])
def test_models_run_without_gradients_in_the_mode_they_are_in(training):
    model = Witness().train(training)
    images, labels, shifts = marked(2, 4), torch.zeros(2, dtype=torch.int64), [(0, 0), (1, 2)]
    consistency(model, [images], PROTOCOLS["circular"])
    worst_shift_accuracy(model, images, labels, shifts)
    accuracy_over_shifts(model, images, labels, shifts)
    assert model.runs == [(training, False)] * 6
    assert model.training is training
    assert torch.is_grad_enabled()


def test_accuracy_over_shifts():
    images, labels = marked(3, 4), torch.tensor([0, 0, 1])
    shifts = [(0, 0), (1, 0), (4, -4)]
    results = accuracy_over_shifts(corner, images, labels, shifts)
    assert [(r.successes, r.n) for r in results] == [(2, 3), (1, 3), (2, 3)]
    assert [r.protocol for r in results][1] == "top-1 at shift (1, 0)"
    assert accuracy_over_shifts(corner, images, labels, []) == []


def test_worst_shift_is_the_share_correct_under_all():
    images, source = whole_numbers(num_images=40), torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (40,), generator=source)
    shifts = [(0, 0), (0, 1), (3, 2)]

    def model(x):
        return x[:, 0, 0, :3]

    correct = [topk_correct(model(circular_shift(images, shift)), labels, 1) for shift in shifts]
    expected = sum(all(row) for row in zip(*(c.tolist() for c in correct), strict=True))
    result = worst_shift_accuracy(model, images, labels, shifts)
    assert (result.protocol, result.n, result.successes) == ("worst-shift", 40, expected)
    assert 0 < expected < min(int(c.sum()) for c in correct)


def test_worst_of_no_shifts():
    with pytest.raises(ValueError, match="at least one shift, got none"):
        worst_shift_accuracy(corner, marked(1, 4), torch.tensor([0]), [])
