"""Learning rates as pure functions of the epoch, so that resuming needs no state."""

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A rule that gives the learning rate of each epoch."""

    def lr(self, base: float, epoch: int) -> float:
        """Learning rate of an epoch.

        Args:
            base: Learning rate at the start.
            epoch: Number of the epoch, from 0.

        Returns:
            The learning rate.
        """
        ...


def _check_gamma(operation: str, gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"{operation}: gamma must be in (0, 1], got {gamma}; the default is 0.1")


@dataclass(frozen=True)
class Constant:
    """The same learning rate throughout."""

    def lr(self, base: float, epoch: int) -> float:
        """Learning rate of an epoch: ``base``."""
        return base


@dataclass(frozen=True)
class Step:
    """Multiply by ``gamma`` once every so many epochs.

    Attributes:
        every: Epochs between two changes.
        gamma: Factor, in (0, 1].

    Raises:
        ValueError: If ``every`` is less than 1 or ``gamma`` is outside (0, 1].

    Examples:
        >>> [Step(every=2, gamma=0.5).lr(8.0, epoch) for epoch in range(5)]
        [8.0, 8.0, 4.0, 4.0, 2.0]
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(
                f"Step: every must be at least 1 epoch, got {self.every}; "
                "use Constant for a learning rate that does not change"
            )
        _check_gamma("Step", self.gamma)

    def lr(self, base: float, epoch: int) -> float:
        """Learning rate of an epoch: ``base * gamma ** (epoch // every)``."""
        return base * self.gamma ** (epoch // self.every)


@dataclass(frozen=True)
class MultiStep:
    """Multiply by ``gamma`` at the start of each epoch in a list.

    Attributes:
        milestones: Numbers of the epochs, increasing.
        gamma: Factor, in (0, 1].

    Raises:
        ValueError: If the milestones do not increase from at least 0, or ``gamma`` is outside
            (0, 1].

    Examples:
        >>> [MultiStep((1, 3), gamma=0.5).lr(8.0, epoch) for epoch in range(5)]
        [8.0, 4.0, 4.0, 2.0, 2.0]
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        floor = -1
        for milestone in self.milestones:
            if milestone <= floor:
                raise ValueError(
                    "MultiStep: milestones must increase from at least 0, got "
                    f"{self.milestones}; sort them and drop repetitions"
                )
            floor = milestone
        _check_gamma("MultiStep", self.gamma)

    def lr(self, base: float, epoch: int) -> float:
        """Learning rate of an epoch: ``base * gamma ** (number of milestones reached)``."""
        return base * self.gamma ** sum(milestone <= epoch for milestone in self.milestones)


@dataclass(frozen=True)
class Cosine:
    """Fall to 0 along half a cosine.

    Attributes:
        epochs: Epoch at which 0 is reached; it stays 0 afterwards.

    Raises:
        ValueError: If ``epochs`` is less than 1.

    Examples:
        >>> [round(Cosine(epochs=4).lr(1.0, epoch), 3) for epoch in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    epochs: int

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(
                f"Cosine: epochs must be at least 1, got {self.epochs}; pass the epochs of the run"
            )

    def lr(self, base: float, epoch: int) -> float:
        """Learning rate of an epoch: ``base * (1 + cos(pi * epoch / epochs)) / 2``."""
        return base * (1 + math.cos(math.pi * min(epoch, self.epochs) / self.epochs)) / 2
