"""Pans of a camera over photographs, by whole pixels or fractions, to measure flicker with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftproof.ops.phases import constants
from shiftproof.ops.resample import resample


@dataclass(frozen=True)
class Pan:
    """A camera that moves evenly over a photograph.

    Every frame, at whole pixels too, is one antialiased resampling of the photograph, so that no
    position is sharper than another.

    Attributes:
        step: Motion per frame, in pixels at the network's scale, ``(dy, dx)``.
        num_frames: Number of frames.
        size: Shorter side of a frame at the network's scale, in pixels.
        scale: Pixels of the camera per pixel at the network's scale.
        room: Pixels at the network's scale by which the photograph is larger than a frame.
        noise: Standard deviation of the sensor's noise, of 255.
    """

    step: tuple[float, float]
    num_frames: int = 9
    size: int = 256
    scale: float = 1.4
    room: int = 36
    noise: float = 0.0

    def __post_init__(self) -> None:
        if max(map(abs, self.step)) * (self.num_frames - 1) > self.room:
            raise ValueError(
                f"Pan: the frames must fit into the photograph, with {self.room} pixels of room, "
                f"got {self.num_frames} frames of {self.step} pixels each; take fewer, or more room"
            )

    def frames(self, photograph: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What the camera sees.

        Args:
            photograph: ``(C, H, W)`` in [0, 1], whose shorter side has ``size + room`` pixels at
                the network's scale, whatever its own.
            generator: Of the noise.

        Returns:
            Frames, ``(T, C, S, S)`` with ``S = size * scale``, of whole numbers over 255 as a
            camera gives them.
        """
        times = torch.arange(self.num_frames, device=photograph.device) - (self.num_frames - 1) / 2
        return self.at(photograph, times[:, None] * constants(self.step, times), generator)

    def at(
        self, photograph: Tensor, places: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """What the camera sees at other places than those of an even motion.

        Args:
            photograph: See ``frames``.
            places: Pixels at the network's scale from the middle, ``(T, 2)`` or ``(T, 1)``.
            generator: Of the noise.

        Returns:
            Frames, ``(T, C, S, S)``, see ``frames``.
        """
        height, width = photograph.shape[1:]
        unit = min(height, width) / (self.size + self.room)  # of the photograph, per pixel
        middle = constants((height / 2, width / 2), places)
        corners = (middle + unit * (places - self.size / 2)).expand(-1, 2)
        count = round(self.size * self.scale)
        step = self.size * unit / count
        x = photograph.expand(len(places), -1, -1, -1)
        frames = resample(x, corners, (step, step), (count, count), "bicubic")
        if self.noise:
            noise = torch.randn(frames.shape, generator=generator).to(frames.device)
            frames = frames + self.noise / 255 * noise
        return (255 * frames).round().clamp(0, 255) / 255


STEPS: tuple[tuple[float, float], ...] = (
    *((0.0, 0.25), (0.0, 0.5), (0.0, 0.75), (0.0, 1.0), (0.0, 1.37), (0.0, 4.0), (0.0, 8.0)),
    *((0.3, 0.37), (1.0, 1.0), (4.0, 4.0)),
)
"""Motions per frame of the tables, in pixels at the network's scale."""


def frames_that_fit(step: Sequence[float], room: int, most: int) -> int:
    """How many frames of a motion fit into the room, at most so many."""
    largest = max(map(abs, step))
    return most if largest == 0 else min(most, math.floor(room / largest) + 1)
