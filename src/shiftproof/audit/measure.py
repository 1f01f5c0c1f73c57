"""Answers of one contender: over shifts, under a camera that moves, against distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftproof.audit.contenders import Contender, Scenes
from shiftproof.metrics import jitter, rate
from shiftproof.metrics.clusters import cluster_rate
from shiftproof.metrics.intervals import student_quantile
from shiftproof.results import MeanResult, RateResult
from shiftproof.results.audit import Distance, Motion, PanResult, ShiftMap, Strip

NUM_FRAMES = 9
"""Frames of the pans that all images are measured on."""

DISTANCES = (1, 2, 4, 8, 16)
"""Pixels by which images are shifted."""

_AT_ONCE = 64
"""Shifted copies that are in memory at a time."""


@dataclass(frozen=True)
class Answers:
    """What a network says of shifted photographs.

    Attributes:
        classes: The predicted classes, ``(shifts, N)``; -1 where there is none, for NaN.
        probabilities: Of every class, ``(shifts, N, num_outputs)``.
    """

    classes: Tensor
    probabilities: Tensor

    def of(self, references: Sequence[int | None]) -> Tensor:
        """Probability of one class for each photograph, ``(shifts, N)``; NaN for no answer."""
        index = torch.tensor([0 if r is None else r for r in references])
        index = index.expand(len(self.classes), -1)[..., None]
        found = self.probabilities.gather(2, index)[..., 0]
        unknown = torch.tensor([reference is None for reference in references])
        return found.masked_fill(unknown | (self.classes < 0), torch.nan)


def answers_at(
    contender: Contender, scenes: Scenes, shifts: Tensor, motion: Motion = "crop"
) -> Answers:
    """Answers to every photograph at every shift.

    Args:
        contender: The network.
        scenes: The photographs.
        shifts: Pixels down and to the right, ``(shifts, 2)``, the same for all photographs, or
            ``(shifts, N, 2)``.
        motion: What moves.

    Returns:
        The answers.
    """
    count = len(scenes)
    rows = shifts if shifts.ndim == 3 else shifts[:, None].expand(-1, count, -1)
    index = torch.arange(len(rows) * count)
    found = []
    pieces: tuple[Tensor, ...] = torch.split(index, _AT_ONCE)
    for part in pieces:
        seen = scenes.subset((part % count).tolist())
        found.append(contender.logits(seen, rows.reshape(-1, 2)[part], motion))
    logits = torch.cat(found).reshape(len(rows), count, -1)
    probabilities = logits.softmax(2)
    classes = logits.argmax(2).masked_fill(~probabilities.isfinite().all(2), -1)
    return Answers(classes, probabilities)


def _class(number: float) -> int | None:
    return None if number < 0 else int(number)


def _probability(value: float) -> float | None:
    return None if value != value else round(value, 4)


def map_shifts(count: int, step: int) -> tuple[int, ...]:
    """Shifts along one axis of a map: from minus half the count on, through 0.

    Args:
        count: Pixels that they cover, even.
        step: Pixels from one to the next.

    Returns:
        The shifts.

    Examples:
        >>> map_shifts(8, 3)
        (-3, 0, 3)
    """
    return tuple(shift for shift in range(-(count // 2), count - count // 2) if not shift % step)


def measure_maps(
    contender: Contender,
    scenes: Scenes,
    references: Sequence[int | None],
    shifts: Sequence[int],
    motion: Motion,
) -> tuple[ShiftMap, ...]:
    """The answers over a grid of shifts.

    Args:
        contender: The network.
        scenes: The photographs that are shown.
        references: The class of each whose probability is wanted.
        shifts: Pixels, along both axes.
        motion: What moves.

    Returns:
        One map for each photograph.
    """
    grid = torch.cartesian_prod(torch.tensor(shifts), torch.tensor(shifts))
    answers = answers_at(contender, scenes, grid, motion)
    probabilities = answers.of(references)
    side = len(shifts)
    maps = []
    for index in range(len(scenes)):
        classes = answers.classes[:, index].reshape(side, side).tolist()
        values = probabilities[:, index].reshape(side, side).tolist()
        maps.append(
            ShiftMap(
                index,
                motion,
                tuple(shifts),
                tuple(tuple(map(_class, row)) for row in classes),
                tuple(tuple(map(_probability, row)) for row in values),
            )
        )
    return tuple(maps)


def measure_strips(
    contender: Contender, scenes: Scenes, references: Sequence[int | None], reach: int
) -> tuple[Strip, ...]:
    """The answers while the window moves to the right, one pixel per frame.

    Args:
        contender: The network.
        scenes: The photographs that are shown.
        references: The class of each whose probability is wanted.
        reach: Pixels to either side of the middle.

    Returns:
        One strip for each photograph.
    """
    across = torch.arange(-reach, reach + 1)
    answers = answers_at(contender, scenes, torch.stack([torch.zeros_like(across), across], 1))
    probabilities = answers.of(references)
    return tuple(
        Strip(
            index,
            tuple(across.tolist()),
            tuple(map(_class, answers.classes[:, index].tolist())),
            tuple(map(_probability, probabilities[:, index].tolist())),
        )
        for index in range(len(scenes))
    )


def mean_of(protocol: str, values: Sequence[float]) -> MeanResult:
    """A mean with Student's interval.

    Args:
        protocol: What was measured.
        values: Independent numbers.

    Returns:
        The mean; without an interval for fewer than two numbers.
    """
    x = torch.tensor(values, dtype=torch.float64)
    value, count = float(x.mean()), len(values)
    if count < 2:
        return MeanResult(protocol, count, value, None, None)
    half = student_quantile(count - 1, 0.95) * float(x.std()) / count**0.5
    return MeanResult(protocol, count, value, value - half, value + half)


@dataclass(frozen=True)
class Pans:
    """All photographs under a camera that moves, and each of them.

    Attributes:
        result: What changes from frame to frame.
        changes: How often the answer to each photograph changes.
        jitters: The jitter of each photograph; 0 where there is none.
        answers: All answers to each photograph; -1 for none.
    """

    result: PanResult
    changes: tuple[int, ...]
    jitters: tuple[float, ...]
    answers: tuple[frozenset[int], ...]


def measure_pans(contender: Contender, scenes: Scenes) -> Pans:
    """All photographs under a camera that moves to the right by one pixel per frame.

    Args:
        contender: The network.
        scenes: All photographs.

    Returns:
        What changes from frame to frame.

    Raises:
        ValueError: If the network has no answer to any photograph.
    """
    half = min(NUM_FRAMES // 2, scenes.room // 2)
    across = torch.arange(-half, half + 1)
    answers = answers_at(contender, scenes, torch.stack([torch.zeros_like(across), across], 1))
    classes = answers.classes
    differ = (classes[1:] != classes[:-1]) | (classes[1:] < 0)  # no answer is not the same answer
    counts = differ.sum(0).tolist()
    steps = len(across) - 1
    each = jitter(answers.probabilities)
    known = [value for value in each.tolist() if value == value]
    if not bool((classes >= 0).any()):
        raise ValueError("no picture has an answer: the logits are not finite")
    protocol = f"{len(across)} frames, 1 pixel to the right per frame"
    found = PanResult(
        len(across),
        cluster_rate(f"changed steps of pans, {protocol}", counts, [steps] * len(counts)),
        rate(f"pictures that change in a pan, {protocol}", sum(map(bool, counts)), len(counts)),
        mean_of(f"jitter, {protocol}", known) if known else None,
    )
    jitters = tuple(0.0 if value != value else value for value in each.tolist())
    return Pans(found, tuple(counts), jitters, tuple(map(frozenset, classes.T.tolist())))


def random_shifts(distance: int, count: int, seed: int = 0) -> Tensor:
    """A shift by a distance for each photograph: the larger of its two numbers is the distance.

    Args:
        distance: Pixels.
        count: Number of photographs.
        seed: Of the directions.

    Returns:
        Pixels down and to the right, ``(N, 2)``.
    """
    generator = torch.Generator().manual_seed(1000 * seed + distance)
    other = torch.randint(-distance, distance + 1, (count,), generator=generator)
    sign = 2 * torch.randint(0, 2, (count,), generator=generator) - 1
    is_vertical = torch.randint(0, 2, (count, 1), generator=generator).bool()
    pairs = torch.stack([sign * distance, other], 1)
    return torch.where(is_vertical, pairs, pairs.flip(1))


def measure_distances(
    contender: Contender, scenes: Scenes, labels: Sequence[int] | None, motion: Motion
) -> tuple[tuple[Distance, ...], RateResult | None]:
    """Consistency and accuracy against the distance of a shift.

    Args:
        contender: The network.
        scenes: All photographs.
        labels: Their classes; None if unknown.
        motion: What moves.

    Returns:
        One entry per distance, and the accuracy without a shift.
    """
    count = len(scenes)
    reach = scenes.room // 2 if motion == "crop" else scenes.size // 2
    pixels = [0, *(d for d in DISTANCES if d <= reach)]
    shifts = torch.stack([random_shifts(d, count) for d in pixels])
    classes = answers_at(contender, scenes, shifts, motion).classes
    true = None if labels is None else torch.tensor(labels)
    found = []
    for index, distance in enumerate(pixels):
        same = (classes[index] == classes[0]) & (classes[index] >= 0)
        name = f"{motion} shift by {distance} pixels, one random direction per image"
        right = (
            None if true is None else rate(f"top-1, {name}", _num(classes[index] == true), count)
        )
        found.append(Distance(motion, distance, rate(name, _num(same), count), right))
    return tuple(found[1:]), found[0].accuracy


def _num(truths: Tensor) -> int:
    return int(truths.sum())
