"""Threads that convert and run different networks, beside one that does something else."""

import threading
import time

import pytest
import torch
from torch import Tensor, nn

from shiftproof.conversion import convert

models = pytest.importorskip("torchvision.models")

NAMES = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"]


def churn(seconds: float, num_threads: int) -> list[object]:
    """Run for a while; returns what went wrong."""
    torch.manual_seed(0)
    networks = [models.get_model(name, weights=None).eval() for name in NAMES]
    x = torch.randn(2, 3, 64, 64)
    plans, answers = [], []
    for network in networks:
        conversion = convert(network, x)
        plans.append(conversion.plan)
        with torch.no_grad():
            answers.append(conversion.model(x))
    stranger = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    expected = stranger(x)
    before = nn.Module.__call__
    failures: list[object] = []
    counts = [0] * (num_threads + 1)
    end = time.monotonic() + seconds

    def work(index: int) -> None:
        while time.monotonic() < end and not failures:
            number = (index + counts[index]) % len(networks)
            try:
                conversion = convert(networks[number], x)
                with torch.no_grad():
                    answer = conversion.model(x)
            except Exception as error:
                failures.append(error)
                return
            if conversion.plan != plans[number] or not torch.equal(answer, answers[number]):
                failures.append(f"{NAMES[number]} differs")
            counts[index] += 1

    def run_stranger() -> None:
        while time.monotonic() < end and not failures:
            result: Tensor = stranger(x)
            if not torch.equal(result, expected) or nn.Module.__call__ is not before:
                failures.append("the unrelated network differs")
            counts[-1] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(num_threads)]
    threads.append(threading.Thread(target=run_stranger))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"conversions per thread {counts[:-1]}, unrelated calls {counts[-1]}")
    assert all(counts), counts
    return failures


@pytest.mark.slow
def test_eight_threads_for_a_minute() -> None:
    assert churn(60, 8) == []
