"""The one way from a data set and a plan to a loader."""

from __future__ import annotations

import os

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from shiftproof.data.examples import Examples
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.plan import Batch


def make_loader(
    dataset: Dataset[Examples],
    plan: Sampler[Batch],
    *,
    workers: int,
    device: torch.device,
    pin_memory: bool = True,
) -> DataLoader[Examples]:
    """Load the batches of a plan; what they hold does not depend on the workers.

    Args:
        dataset: Answers a ``Batch`` with ``Examples``.
        plan: Yields the batches.
        workers: Processes that load ahead, at most one per processor; none for data in memory.
        device: Where the images will go.
        pin_memory: Whether to use page-locked memory if that is a CUDA device.

    Returns:
        A loader that yields ``Examples`` and leaves torch's global generator alone.

    Raises:
        ValueError: If the number of workers is negative.
    """
    if workers < 0:
        raise ValueError(f"make_loader: workers must be at least 0, got {workers}; pass 0 for none")
    workers = 0 if isinstance(dataset, ImageTensors) else min(workers, _num_processors())
    return DataLoader(
        dataset,
        sampler=plan,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory and device.type == "cuda",
        worker_init_fn=_leave_process_group,
        # The loader draws a seed for its workers; from the global generator, a resumed run would
        # draw once more often than an uninterrupted one.
        generator=torch.Generator(),
    )


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave_process_group(worker: int) -> None:
    """Keep Ctrl-C from the workers: the step in progress still needs their batches."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
