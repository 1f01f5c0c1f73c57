"""Photographs at the scale of a network, which of them are shown, and what is said of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from torch import Tensor

from shiftproof.audit.contenders import Scenes
from shiftproof.audit.images import Photograph, central_square
from shiftproof.audit.labels import Labels
from shiftproof.audit.measure import Pans
from shiftproof.audit.subjects import Subject
from shiftproof.extras import require
from shiftproof.results.audit import NetworkAudit, Picture


def encode_jpeg(pixels: Tensor) -> str:
    """A picture as JPEG in base64.

    Args:
        pixels: RGB in [0, 1], ``(3, H, W)``.

    Returns:
        The text.
    """
    values = (255 * pixels).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    require("PIL.Image", extra="train").fromarray(values).save(buffer, "JPEG", quality=82)
    return base64.b64encode(buffer.getvalue()).decode()


def make_scenes(
    subject: Subject, photographs: Sequence[Photograph], stride: int | None, shifts: int | None
) -> Scenes:
    """Photographs at the scale at which window, margin and shifts just fit.

    Args:
        subject: The network.
        photographs: The images.
        stride: Its total stride in pixels, which is the margin; a seventh of the window if unknown.
        shifts: Pixels that the window moves; 32 if None, less for small networks.

    Returns:
        The scenes.
    """
    period = stride or -(-subject.size // 7)
    margin = period + period % 2
    if shifts is None:
        shifts = min(32, -(-subject.size // 7 // period) * period)
        shifts = max(2, shifts + shifts % 2)
    side = subject.size + margin + shifts
    squares = [central_square(photograph.pixels, side, side) for photograph in photographs]
    return Scenes(torch.stack(squares), subject.size, margin, shifts)


def choose_shown(
    pans: Pans | None, true: Sequence[int] | None, total: int, count: int
) -> list[int]:
    """Pictures to show: those that are answered right in some frame, the most changing first.

    Args:
        pans: What the network as it is did under a moving camera; None if it has no answers.
        true: The classes of the pictures; None if unknown.
        total: Number of pictures.
        count: How many to show.

    Returns:
        Their numbers.
    """
    if pans is None:
        return list(range(min(total, count)))

    def rank(index: int) -> tuple[bool, int, float]:
        is_wrong = true is not None and true[index] not in pans.answers[index]
        return is_wrong, -pans.changes[index], -pans.jitters[index]

    return sorted(range(total), key=rank)[:count]


def names_of_classes(
    networks: Sequence[NetworkAudit], pictures: Sequence[Picture], labels: Labels
) -> dict[int, str]:
    """Names of the classes that occur.

    Args:
        networks: What was found.
        pictures: What is shown.
        labels: The names of all classes.

    Returns:
        Names by number.
    """
    numbers = {number for p in pictures for number in (p.label, p.reference)}
    for network in networks:
        numbers.update(c for m in network.maps for row in m.classes for c in row)
        numbers.update(c for strip in network.strips for c in strip.classes)
    names = labels.names
    known = sorted(number for number in numbers if number is not None)
    return {n: f"class {n}" if names is None else names[n] for n in known}


def notes_of(photographs: Sequence[Photograph], scenes: Scenes) -> tuple[str, ...]:
    """What a reader must know of the images.

    Args:
        photographs: The images.
        scenes: The same at the scale of the network.

    Returns:
        Sentences.
    """
    side = scenes.pixels.shape[-1]
    small = sum(min(photograph.pixels.shape[1:]) < side for photograph in photographs)
    notes = []
    if small:
        notes.append(
            f"{small} of {len(photographs)} images are smaller than {side} pixels and were enlarged"
        )
    grey = sum(
        bool((p.pixels[0] == p.pixels[1]).all() and (p.pixels[0] == p.pixels[2]).all())
        for p in photographs
    )
    if grey:
        notes.append(f"{grey} of {len(photographs)} images are grey; they got three equal channels")
    return tuple(notes)
