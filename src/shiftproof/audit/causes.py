"""Why a network changes, how far a lock holds, and what a remedy costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from shiftproof.audit.contenders import Contender, Scenes
from shiftproof.certification import Certificate, certified_radius, certify
from shiftproof.nn import CornerStrength, GridLock2d
from shiftproof.results import MeanResult
from shiftproof.results.audit import Cause

RADIUS_MARGIN = 17
"""Pixels at each border of the frame without weight, so that a radius can be proved."""


def certificate_of(contender: Contender, scenes: Scenes) -> Certificate:
    """What ``certify`` says of circular shifts by one pixel.

    Args:
        contender: The network, not a locked one.
        scenes: Photographs, of which the first is used.

    Returns:
        The certificate.
    """
    module = contender.subject.module
    assert module is not None
    window = scenes.subset([0]).frames(torch.zeros(1, 2, dtype=torch.int64), margin=False)
    return certify(module, contender.subject.normalised(window), shifts=[(0, 1), (1, 0)])


def causes_of(certificate: Certificate) -> tuple[Cause, ...]:
    """Modules that do not pass on a shift.

    Args:
        certificate: What ``certify`` said.

    Returns:
        The first that is to blame, then the others, in the order of execution.
    """
    blames = [certificate.blame, *certificate.suspects]
    found = dict.fromkeys(blame for blame in blames if blame is not None)
    return tuple(Cause(blame.module, blame.type, blame.reason) for blame in found)


def measure_radii(contender: Contender, scenes: Scenes) -> tuple[int, ...]:
    """How far the scene of each photograph may move, whatever enters, before a lock lets go.

    The lock is like the contender's, but for a border that its selector gives no weight: without
    one nothing can be proved.

    Args:
        contender: A locked network.
        scenes: The photographs that are shown.

    Returns:
        Pixels for each photograph.
    """
    lock = contender.lock
    assert lock is not None
    provable = GridLock2d(lock.stride, CornerStrength(margin=RADIUS_MARGIN), margin=lock.margin)
    frames = scenes.frames(torch.zeros(len(scenes), 2, dtype=torch.int64), margin=True)
    found: list[int] = certified_radius(provable, frames).tolist()
    return tuple(found)


def measure_costs(
    contenders: Sequence[Contender], scenes: Scenes, *, rounds: int = 7, batch: int = 4
) -> list[MeanResult]:
    """Time of an answer over that of the first contender, interleaved.

    Args:
        contenders: Networks.
        scenes: Photographs.
        rounds: How often each answers.
        batch: Images per answer.

    Returns:
        For each the ratio of medians; its ends are the least and the largest ratio of a round.
    """
    seen = scenes.subset([index % len(scenes) for index in range(batch)])
    shifts = torch.zeros(batch, 2, dtype=torch.int64)
    seconds: list[list[float]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for index, contender in enumerate(contenders):
            start = time.perf_counter()
            contender.logits(seen, shifts)
            if number:  # the first warms up
                seconds[index].append(time.perf_counter() - start)
    base = seconds[0]
    protocol = f"time of {batch} images, ratio of the medians of {rounds} interleaved rounds"
    found = []
    for own in seconds:
        ratios = [a / b for a, b in zip(own, base, strict=True)]
        value = statistics.median(own) / statistics.median(base)
        found.append(MeanResult(protocol, rounds, value, min(ratios), max(ratios)))
    return found


def seconds_per_image(contender: Contender, scenes: Scenes) -> float:
    """Time of an answer in a batch, once it is warm.

    Args:
        contender: The network.
        scenes: Photographs.

    Returns:
        Seconds per image.
    """
    seen = scenes.subset([index % len(scenes) for index in range(8)])
    shifts = torch.zeros(len(seen), 2, dtype=torch.int64)
    contender.logits(seen, shifts)
    start = time.perf_counter()
    contender.logits(seen, shifts)
    return (time.perf_counter() - start) / len(seen)
