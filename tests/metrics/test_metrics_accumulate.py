import copy
import dataclasses
import importlib
import itertools
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from shiftproof.metrics import (
    agreement,
    cluster_rate,
    consistency,
    protocol,
    rate,
    topk_correct,
)
from shiftproof.metrics.accumulate import Accuracy, Consistency, FlipRate, Jitter

NUM_BATCHES = 5
CIRCULAR = protocol("circular")
SHARED = protocol("aps-imagenet")


def batches():
    """Batches of different sizes: two versions of the logits, and labels."""
    source = torch.Generator().manual_seed(0)
    sizes = [7, 3, 8, 6, 5][:NUM_BATCHES]
    return [
        (
            torch.randn(size, 3, generator=source),
            torch.randn(size, 3, generator=source),
            torch.randint(0, 3, (size,), generator=source),
        )
        for size in sizes
    ]


def pans():
    """Probabilities of frames of pans, of different lengths and numbers."""
    source = torch.Generator().manual_seed(0)
    shapes = [(5, 2, 3), (3, 3), (2, 1, 4, 3)]
    return [torch.randn(shape, generator=source).softmax(-1) for shape in shapes]


def measure_pans(rank=0, world_size=1):
    metrics = Jitter(), FlipRate()
    for frames in pans()[rank::world_size]:
        for metric in metrics:
            metric.update(frames)
    return [metric.compute() for metric in metrics]


def assert_same_mean(found, expected):
    """Equal but for the order in which numbers were added."""
    for name, value in dataclasses.asdict(expected).items():
        value = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
        assert getattr(found, name) == value, name


def measure(rank=0, world_size=1):
    top_1, top_2, consistent = Accuracy(), Accuracy(k=2), Consistency(CIRCULAR)
    shared = Consistency(SHARED)
    for still, moved, labels in batches()[rank::world_size]:
        top_1.update(still, labels)
        top_2.update(still, labels)
        consistent.update(still, moved)
        shared.update(still, moved)
    return top_1.compute(), top_2.compute(), consistent.compute(), shared.compute()


def one_of_two(rank, folder):
    warnings.simplefilter("error")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    try:
        (folder / f"{rank}.pickle").write_bytes(pickle.dumps(measure(rank, 2)))
        (folder / f"{rank}.pans").write_bytes(pickle.dumps(measure_pans(rank, 2)))
        means = importlib.import_module("test_metrics_means").measure(rank, 2)
        (folder / f"{rank}.means").write_bytes(pickle.dumps(means))
    finally:
        torch.distributed.destroy_process_group()


def test_against_the_functions():
    top_1, top_2, consistent, shared = measure()
    still, _, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    assert top_1 == rate("top-1", int(topk_correct(still, labels, 1).sum()), 29)
    assert top_2 == rate("top-2", int(topk_correct(still, labels, 2).sum()), 29)
    assert top_1.successes < top_2.successes < 29
    shares = [float(agreement([a, b]).double().mean()) for a, b, _ in batches()]
    successes = [int(agreement([a, b]).sum()) for a, b, _ in batches()]
    mean = consistent.batch_mean
    assert mean == pytest.approx(sum(shares) / NUM_BATCHES, abs=1e-12) != consistent.value
    assert consistent == rate("circular", sum(successes), 29, mean)
    sizes = [len(labels) for *_, labels in batches()]
    expected = cluster_rate("aps-imagenet", successes, sizes)
    assert shared == dataclasses.replace(expected, batch_mean=mean)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(one_of_two, args=(tmp_path,), nprocs=2)
    expected = measure()
    for rank in range(2):
        results = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        assert results == expected
        found = pickle.loads((tmp_path / f"{rank}.pans").read_bytes())
        for mean, alone in zip(found, measure_pans(), strict=True):
            assert_same_mean(mean, alone)
        means = importlib.import_module("test_metrics_means").measure()
        found = pickle.loads((tmp_path / f"{rank}.means").read_bytes())
        assert list(found) == list(means)
        for name, mean in means.items():
            assert_same_mean(found[name], mean)


def test_pans_are_counted_pair_by_pair():
    distances, flips = [], []
    for frames in pans():
        for before, after in itertools.pairwise(frames.reshape(len(frames), -1, 3)):
            for p, q in zip(before.tolist(), after.tolist(), strict=True):
                distances.append(sum(abs(b - a) for a, b in zip(p, q, strict=True)) / 2)
                flips.append(100 * (p.index(max(p)) != q.index(max(q))))
    assert 0 < sum(flips) < 100 * len(flips)
    expected = [sum(values) / len(values) for values in (distances, flips)]
    found = measure_pans()
    assert [mean.value for mean in found] == pytest.approx(expected, rel=1e-6)
    assert {(mean.n, mean.num_clusters) for mean in found} == {(4 * 2 + 2 + 4, 2 + 1 + 4)}


@pytest.mark.parametrize("chosen", [CIRCULAR, protocol("aps-imagenet", max_shift=2)])
def test_twin_of_consistency(chosen):
    source = torch.Generator().manual_seed(5)
    images = [torch.rand(size, 3, 6, 6, generator=source) for size in (7, 3, 6)]

    def model(x):
        return x[:, :, 0, 0]

    metric, source = Consistency(chosen), torch.Generator().manual_seed(0)
    for batch in images:
        metric.update(*map(model, chosen.views(batch, source)))
    expected = consistency(model, images, chosen, seed=0)
    assert 0 < expected.successes < 16
    assert expected.num_clusters == (None if chosen is CIRCULAR else 3)
    assert metric.compute() == expected


def test_forward_gives_the_batch_and_accumulates():
    metric = Accuracy()
    eye = torch.eye(2)
    assert metric(eye, torch.tensor([0, 1])).value == 1.0
    assert metric(eye, torch.tensor([1, 1])).value == 0.5
    assert metric.compute().value == 0.75
    metric.reset()
    metric.update(eye, torch.tensor([1, 0]))
    assert metric.compute() == rate("top-1", 0, 2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("computed", [False, True])
def test_copies_go_on_counting(duplicate, computed):
    metric = Consistency(protocol("aps-cifar-val"))
    still, moved, _ = batches()[0]
    metric.update(still, moved)
    if computed:
        metric.compute()
    copied = duplicate(metric)
    assert copied.compute() == metric.compute()
    copied.update(still, still)
    assert copied.compute().n == 2 * metric.compute().n


def test_empty_batches_do_not_enter_the_mean():
    metric = Consistency(CIRCULAR)
    metric.update(torch.rand(0, 3), torch.rand(0, 3))
    assert (metric.compute().n, metric.compute().batch_mean) == (0, None)
    assert (metric.compute().low, metric.compute().high) == (0.0, 1.0)
    metric.update(torch.eye(2), torch.eye(2))
    assert metric.compute().batch_mean == 1.0


def test_nan_is_neither_correct_nor_consistent():
    nan = torch.full((2, 3), float("nan"))
    accuracy, consistent = Accuracy(k=3), Consistency(CIRCULAR)
    accuracy.update(nan, torch.tensor([0, 1]))
    consistent.update(nan, nan)
    assert accuracy.compute() == rate("top-3", 0, 2)
    assert consistent.compute() == rate("circular", 0, 2, 0.0)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="Accuracy: k must be at least 1, got 0"):
        Accuracy(k=0)


def test_metrics_do_not_import_torchmetrics():
    code = "import sys, shiftproof.metrics; sys.exit('torchmetrics' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_missing_torchmetrics_names_the_extra():
    code = "import sys; sys.modules['torchmetrics'] = None; import shiftproof.metrics.accumulate"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'shiftproof[train]'" in done.stderr
