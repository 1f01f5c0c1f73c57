"""Which images make up which batch, as a pure function of seed, epoch and batch number.

A plan is a sampler for ``DataLoader(dataset, sampler=plan, batch_size=None)``: it yields whole
batches, and the data set answers each with whole tensors.  Nothing is drawn from a stream that runs
on from batch to batch, so that epoch and step are all the state there is, and a run goes on after
any step with the same numbers, on any number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

# First argument of mix_seed after the seed, so that no two uses share their numbers.
_ORDER, _AUGMENT, _EVALUATE = range(3)


def mix_seed(*values: int) -> int:
    """Mix integers into one seed.

    The values are written in decimal, joined by commas, and hashed by 8-byte BLAKE2b; the first 63
    bits count.  So the seed is the same on every platform and version, and neighbouring values give
    unrelated seeds.

    Args:
        values: Integers of any sign and size; their order matters.

    Returns:
        The seed, in [0, 2^63).

    Examples:
        >>> mix_seed(0, 1) == mix_seed(0, 1), mix_seed(0, 1) == mix_seed(1, 0)
        (True, False)
    """
    text = ",".join(str(int(value)) for value in values)
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class Batch:
    """What a plan asks of a data set.

    Attributes:
        indices: Images of the data set, in order.
        seed: Seed of everything random that is done to them.
        step_size: Images in the whole optimiser step, over all processes and accumulated batches; a
            mean loss weighted by ``len(indices) / step_size`` adds up to the mean over the step.
    """

    indices: tuple[int, ...]
    seed: int
    step_size: int


def _check_counts(
    plan: str, num_samples: int, batch_size: int, rank: int, world_size: int, accumulate: int
) -> None:
    for name, value in (
        ("num_samples", num_samples),
        ("batch_size", batch_size),
        ("world_size", world_size),
        ("accumulate", accumulate),
    ):
        if value < 1:
            raise ValueError(f"{plan}: {name} must be at least 1, got {value}; pass a larger one")
    if not 0 <= rank < world_size:
        raise ValueError(
            f"{plan}: rank must be in [0, world_size={world_size}), got {rank}; "
            "number the processes from 0"
        )


class TrainPlan(Sampler[Batch]):
    """Shuffled batches for training.

    Each epoch is one permutation.  An optimiser step takes ``world_size * accumulate`` consecutive
    batches of it, and batch ``k`` of a step goes to rank ``k % world_size``: two processes, and one
    process that accumulates two batches, see the same batches with the same seeds.  The last step
    of an epoch, if it is incomplete, is split evenly over as many batches; if there are not enough
    images to give each batch two, they are dropped for this epoch: batch norm cannot learn from a
    single image where the map is one pixel.  Batches of one image come from ``batch_size=1`` alone,
    and from data sets too small for a whole step.

    Args:
        num_samples: Images in the data set.
        batch_size: Images per batch: one process, one forward pass.
        seed: Seed of the run.
        rank: Number of this process.
        world_size: Processes that train together.
        accumulate: Batches that each process accumulates per optimiser step.

    Raises:
        ValueError: If a count is below 1, the rank is not one of the processes, or there are fewer
            images than batches in one step.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        _check_counts("TrainPlan", num_samples, batch_size, rank, world_size, accumulate)
        if num_samples < world_size * accumulate:
            raise ValueError(
                "TrainPlan: num_samples must be at least world_size * accumulate = "
                f"{world_size * accumulate}, got {num_samples}; "
                "use fewer processes or accumulate fewer batches"
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batches_per_step = world_size * accumulate
        self.epoch = 0
        self.start_step = 0

    @property
    def num_dropped(self) -> int:
        """Images left out of each epoch, other ones each time."""
        whole_steps, rest = divmod(self.num_samples, self.batches_per_step * self.batch_size)
        least = min(2, self.batch_size) if whole_steps else 1
        return rest if rest < least * self.batches_per_step else 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in a whole epoch."""
        return -(
            -(self.num_samples - self.num_dropped) // (self.batches_per_step * self.batch_size)
        )

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose what the next iteration yields.

        Args:
            epoch: Number of the epoch, from 0.
            start_step: First optimiser step to yield; ``steps_per_epoch`` yields nothing.

        Raises:
            ValueError: If the epoch is negative, or the epoch does not have that step.
        """
        if epoch < 0:
            raise ValueError(f"set_epoch: epoch must be at least 0, got {epoch}; count from 0")
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(
                f"set_epoch: start_step must be in [0, {self.steps_per_epoch}], got {start_step}; "
                "resume with the data set and batch size that the run was started with"
            )
        self.epoch = epoch
        self.start_step = start_step

    def __len__(self) -> int:
        """Batches that the next iteration yields on this rank."""
        per_rank = self.batches_per_step // self.world_size
        return (self.steps_per_epoch - self.start_step) * per_rank

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(mix_seed(self.seed, _ORDER, epoch))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        num_batches = self.batches_per_step
        images_per_step = num_batches * self.batch_size
        for step in range(self.start_step, self.steps_per_epoch):
            images = order[step * images_per_step : (step + 1) * images_per_step]
            size, larger = divmod(len(images), num_batches)
            for k in range(self.rank, num_batches, self.world_size):
                first = k * size + min(k, larger)
                yield Batch(
                    indices=tuple(images[first : first + size + (k < larger)]),
                    seed=mix_seed(self.seed, _AUGMENT, epoch, step * num_batches + k),
                    step_size=len(images),
                )


class EvalPlan(Sampler[Batch]):
    """Batches in the order of the data set, each image exactly once over all processes.

    Rank ``r`` takes batches ``r, r + world_size, ...``.  A batch's seed depends on its number in
    the data set alone, so that what is measured does not depend on the number of processes.  The
    last batch may be smaller, and a rank may have none.

    Args:
        num_samples: Images in the data set.
        batch_size: Images per batch.
        seed: Seed of the measurement.
        rank: Number of this process.
        world_size: Processes that evaluate together.

    Raises:
        ValueError: If a count is below 1, or the rank is not one of the processes.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check_counts("EvalPlan", num_samples, batch_size, rank, world_size, 1)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    @property
    def _numbers(self) -> range:
        return range(self.rank, -(-self.num_samples // self.batch_size), self.world_size)

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Batch]:
        for number in self._numbers:
            first = number * self.batch_size
            last = min(first + self.batch_size, self.num_samples)
            yield Batch(
                indices=tuple(range(first, last)),
                seed=mix_seed(self.seed, _EVALUATE, number),
                step_size=last - first,
            )
