"""Timing: all candidates in every round, so that what disturbs one disturbs all."""

import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.entry import Entry, Prepared, Setup
from benchmarks.measured import Measured, Row
from benchmarks.memory import peak_bytes

SHORTEST_SAMPLE = 0.02
"""Seconds; shorter work is repeated within a sample until it takes as long."""

FEWEST_ROUNDS = 3
"""Rounds that every entry gets, however long they take."""


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object], repeats: int, device: str) -> float:
    """Mean time of one call."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def sampler(run: Callable[[], object], device: str) -> Callable[[], float]:
    """Time a function so often per sample that the sample lasts long enough."""
    once = seconds_of(run, 1, device)
    repeats = max(1, math.ceil(SHORTEST_SAMPLE / max(once, 1e-9)))
    return lambda: seconds_of(run, repeats, device)


def interleave(
    samples: Sequence[Callable[[], float]], rounds: int, seconds: float = math.inf
) -> list[list[float]]:
    """Draw one sample of each in every round, in an order that changes from round to round.

    Args:
        samples: Functions that do their work and return how long it took.
        rounds: Rounds at most.
        seconds: Time after which no further round starts, ``FEWEST_ROUNDS`` done.

    Returns:
        For each function its samples, one per round.
    """
    order = list(range(len(samples)))
    shuffle = random.Random(0).shuffle
    found: list[list[float]] = [[] for _ in samples]
    start = time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() - start > seconds:
            break
        shuffle(order)
        for index in order:
            found[index].append(samples[index]())
    return found


def copy_sampler(num_bytes: int, device: str) -> Callable[[], float]:
    """Time a copy between two tensors that are already there: the bandwidth of memory."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    target.copy_(source)
    return sampler(lambda: target.copy_(source), device)


def _first_look(prepared: Prepared, setup: Setup, memory: bool) -> dict[str, Any]:
    """The first call, the error and the memory; all of it warms up, none of it is timed."""
    first = seconds_of(prepared.run, 1, setup.device)
    return {
        "first_seconds": first,
        "error": None if prepared.error is None else prepared.error(),
        "peak_bytes": peak_bytes(prepared.run, setup.device) if memory else None,
    }


def _draw(
    entry: Entry, prepared: Sequence[Prepared], setup: Setup
) -> tuple[list[dict[str, Any]], list[list[float]]]:
    looks = [_first_look(one, setup, entry.memory) for one in prepared]
    samples = [one.sample or sampler(one.run, setup.device) for one in prepared]
    if entry.map_bytes is not None:
        samples.append(copy_sampler(entry.map_bytes, setup.device))
    gc.collect()
    gc.disable()
    try:
        return looks, interleave(samples, setup.rounds, setup.patience * entry.seconds)
    finally:
        gc.enable()


def measure(entry: Entry, setup: Setup) -> Measured:
    """Measure all candidates of an entry."""
    prepared = [candidate.prepare() for candidate in entry.candidates]
    try:
        looks, found = _draw(entry, prepared, setup)
    finally:
        for one in prepared:
            one.close()
    rows = [
        Row(candidate.group, candidate.variant, seconds, **look)
        for candidate, seconds, look in zip(entry.candidates, found, looks, strict=False)
    ]
    return Measured(
        name=entry.name,
        what=entry.what,
        baseline=entry.baseline,
        tests=list(entry.tests),
        rows=rows,
        map_bytes=entry.map_bytes,
        floor_bytes=entry.floor_bytes,
        copy_seconds=found[len(rows)] if entry.map_bytes is not None else [],
        images=entry.images,
        point=None if entry.point is None else list(entry.point),
    )
