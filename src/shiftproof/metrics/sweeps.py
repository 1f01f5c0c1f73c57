"""Many shifted versions of a batch, made one at a time: the frames of a pan, and every shift."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from shiftproof.metrics.views import window_of
from shiftproof.ops.shift import circular_shift, crop_shift


class Lazily(Sequence[Tensor]):
    """Views that are made one at a time, when they are asked for, and not kept.

    Args:
        count: How many there are.
        make: Makes the one of a number.
    """

    def __init__(self, count: int, make: Callable[[int], Tensor]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._make, range(self._count))

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        chosen = range(self._count)[index]
        return [*map(self._make, chosen)] if isinstance(chosen, range) else self._make(chosen)


@dataclass(frozen=True)
class Pans:
    """Frames of a window that moves evenly over larger images, each in a direction of its own.

    The directions are the eight neighbours of a pixel (in 2-D), and the middle frame is the middle
    of the images.

    Attributes:
        name: Name under which a result is reported.
        num_frames: Number of frames, odd.
        step: Whole pixels per frame, along each axis that moves.

    Raises:
        ValueError: If there are fewer than three frames, an even number, or no motion.
    """

    name: str
    num_frames: int = 9
    step: int = 1
    per_image = True

    def __post_init__(self) -> None:
        if self.num_frames < 3 or self.num_frames % 2 == 0 or self.step < 1:
            raise ValueError(
                f"{self.name}: a pan must have an odd number of frames, at least 3, and move, got "
                f"num_frames={self.num_frames}, step={self.step}; pass for instance 9 and 1"
            )

    @property
    def margin(self) -> int:
        """Pixels by which the images exceed the window, per axis."""
        return (self.num_frames - 1) * self.step

    def views(self, images: Tensor, generator: torch.Generator) -> Sequence[Tensor]:
        """Cut the frames out of a batch.

        Args:
            images: Images, ``(N, C, *spatial)``, larger than the margin.
            generator: CPU generator from which the directions are drawn.

        Returns:
            The frames in their order, made one at a time.

        Raises:
            ValueError: If an image is not larger than the margin.
        """
        sizes = images.shape[2:]
        window = window_of(self.name, self.margin, sizes)
        neighbours = [d for d in itertools.product((-1, 0, 1), repeat=len(sizes)) if any(d)]
        chosen = torch.randint(len(neighbours), (images.shape[0],), generator=generator)
        motion = self.step * torch.tensor(neighbours)[chosen]
        middle = self.num_frames // 2

        def frame(number: int) -> Tensor:
            start = self.margin // 2 + (number - middle) * motion
            return crop_shift(images, start, window)

        return Lazily(self.num_frames, frame)


@dataclass(frozen=True)
class EveryShift:
    """The images and every circular shift by 1 to ``max_shift - 1`` pixels along all axes.

    Of these ``1 + (max_shift - 1)^2`` versions (in 2-D) an image must get its label in all: what
    remains against an adversary who may choose the shift.

    Attributes:
        name: Name under which a result is reported.
        max_shift: Shifts lie in ``[1, max_shift - 1]`` per axis.

    Raises:
        ValueError: If ``max_shift`` is below 2.

    References:
        H. Michaeli, T. Michaeli and D. Soudry, "Alias-free convnets: fractional shift invariance
        via polynomial activations", CVPR 2023, and its code.
    """

    name: str
    max_shift: int = 32
    per_image = True
    judged_by_label = True

    def __post_init__(self) -> None:
        if self.max_shift < 2:
            raise ValueError(
                f"{self.name}: max_shift must be at least 2, got {self.max_shift}; shifts lie in "
                "[1, max_shift - 1]"
            )

    def views(self, images: Tensor, generator: torch.Generator) -> Sequence[Tensor]:
        """Shift a batch in every way.

        Args:
            images: Images, ``(N, C, *spatial)``.
            generator: Not used: nothing is drawn.

        Returns:
            The images, then the shifted ones, made one at a time.
        """
        repeat = images.ndim - 2
        shifts = [*itertools.product(range(1, self.max_shift), repeat=repeat)]

        def shifted(number: int) -> Tensor:
            return circular_shift(images, shifts[number - 1]) if number else images

        return Lazily(1 + len(shifts), shifted)
