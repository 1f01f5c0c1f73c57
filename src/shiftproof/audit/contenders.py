"""What is compared: a network as it is, behind a lock, and converted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftproof import ops
from shiftproof.audit.subjects import Subject
from shiftproof.conversion import convert
from shiftproof.motion import lock_grid
from shiftproof.motion.strides import measure_stride
from shiftproof.nn.grid import GridLock2d
from shiftproof.results.audit import Kind, Motion


@dataclass(frozen=True)
class Scenes:
    """Photographs at the scale of a network, over which its window moves.

    Attributes:
        pixels: RGB in [0, 1], ``(N, 3, side, side)``.
        size: Height and width of the window.
        margin: Pixels around the window that a lock sees, both sides together.
        room: Pixels by which window and margin can move, both sides together.
    """

    pixels: Tensor
    size: int
    margin: int
    room: int

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, indices: Sequence[int]) -> Scenes:
        """Some of the photographs."""
        return dataclasses.replace(self, pixels=self.pixels[list(indices)])

    def frames(self, shifts: Tensor, *, margin: bool) -> Tensor:
        """What a camera sees that has moved from the middle.

        Args:
            shifts: Pixels down and to the right, ``(N, 2)``.
            margin: Whether to keep the margin around the window.

        Returns:
            The frames, ``(N, 3, size, size)``, or larger by the margin.
        """
        cut = 0 if margin else self.margin // 2
        size = self.size + (self.margin if margin else 0)
        return ops.crop_shift(self.pixels, shifts + self.room // 2 + cut, (size, size))


@dataclass(frozen=True)
class Contender:
    """A network as it is, or behind a remedy.

    Attributes:
        kind: Which.
        description: What was done, in a line.
        subject: The network itself.
        lock: What moves the window, for a locked one.
        reason: Why it could not be built; empty if it was.
    """

    kind: Kind
    description: str
    subject: Subject
    lock: GridLock2d | None = None
    reason: str = ""

    def logits(self, scenes: Scenes, shifts: Tensor, motion: Motion = "crop") -> Tensor:
        """Answers to shifted photographs.

        Args:
            scenes: The photographs.
            shifts: Pixels down and to the right, ``(N, 2)``.
            motion: Whether the window moves over the photograph, or its content around the circle.

        Returns:
            Logits, ``(N, num_outputs)``.

        Raises:
            ValueError: If content is to move around the circle behind a lock.
        """
        if motion == "circular":
            if self.lock is not None:
                raise ValueError(
                    "audit: a lock cuts its window out of a larger picture, which a circle has not"
                )
            windows = scenes.frames(torch.zeros_like(shifts), margin=False)
            # A camera that moves to the right moves the content to the left.
            return self.subject.predict(ops.circular_shift(windows, -shifts))
        return self.subject.predict(self.windows(scenes, shifts))

    def windows(self, scenes: Scenes, shifts: Tensor) -> Tensor:
        """What the network gets of the frames of a camera.

        Args:
            scenes: The photographs.
            shifts: Pixels down and to the right, ``(N, 2)``.

        Returns:
            Windows, ``(N, 3, size, size)``.
        """
        if self.lock is None:
            return scenes.frames(shifts, margin=False)
        with torch.inference_mode():
            moved: Tensor = self.lock(scenes.frames(shifts, margin=True))
        return moved


def find_stride(subject: Subject) -> tuple[int | None, str]:
    """The total stride of a network.

    Args:
        subject: The network.

    Returns:
        Pixels, and how they were found; None and the reason if they were not.
    """
    if subject.stride is not None:
        return subject.stride, "as the network says"
    example = torch.zeros(1, 3, subject.size, subject.size)
    if subject.module is not None:
        try:
            summary = lock_grid(subject.module, subject.normalised(example)).summary
            return max(summary.stride), "found by analysis"
        except Exception as error:  # whatever a stranger's network raises
            reason = " ".join(str(error).split())
    else:
        reason = "a file cannot be analysed"

    def answers(images: Tensor) -> list[Tensor]:
        return [subject.predict(images.expand(-1, 3, -1, -1))]

    try:
        measured = measure_stride(answers, 1, (subject.size, subject.size))
    except Exception as error:  # likewise
        return None, f"{reason}; and {' '.join(str(error).split())}"
    if measured is None:
        return None, f"{reason}; and its answers do not tell; pass --stride"
    return max(measured), "measured"


def _locked(subject: Subject, stride: int | None, reason: str) -> Contender:
    if stride is None or stride < 2:
        why = reason if stride is None else "the network samples by no stride"
        return Contender("locked", "", subject, reason=f"the total stride is not known: {why}")
    lock = GridLock2d(stride, margin=stride + stride % 2)
    text = f"the content fixes where the window lies, modulo {stride} pixels; no weight changes"
    return Contender("locked", text, subject, lock.eval())


def _converted(subject: Subject) -> Contender:
    if subject.module is None:
        why = "conversion changes the layers of a network, and a file has none that can be changed"
        return Contender("converted", "", subject, reason=why)
    example = subject.normalised(torch.rand(2, 3, subject.size, subject.size))
    try:
        conversion = convert(subject.module, example)
    except Exception as error:  # whatever a stranger's network raises
        return Contender("converted", "", subject, reason=" ".join(str(error).split())[:300])
    model = conversion.model.eval().to(memory_format=torch.channels_last)
    text = "every stride follows the content and borders wrap around; same weights, not tuned"
    changed = dataclasses.replace(subject, network=model, module=model)
    return Contender("converted", text, changed)


def build_contenders(
    subject: Subject,
    against: Sequence[Kind],
    stride: int | None,
    reason: str,
    report: Callable[[str], None] = lambda text: None,
) -> list[Contender]:
    """The network as it is, and its remedies.

    Args:
        subject: The network.
        against: Which remedies.
        stride: Its total stride, None if unknown.
        reason: Why it is unknown.
        report: Is told what is being done.

    Returns:
        One for each; one that could not be built says why.
    """
    found = [Contender("as it is", "the network as it was given", subject)]
    for kind in against:
        report(f"building the {kind} network")
        found.append(_locked(subject, stride, reason) if kind == "locked" else _converted(subject))
    return found
