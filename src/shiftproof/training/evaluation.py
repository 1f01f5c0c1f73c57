"""One pass over a data set: loss, accuracy and consistency, summed over processes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shiftproof.data.examples import ImageDataset
from shiftproof.data.loading import make_loader
from shiftproof.data.plan import EvalPlan
from shiftproof.extras import require
from shiftproof.metrics import Protocol
from shiftproof.results import RateResult, consistency_name
from shiftproof.training.distributed import Process, any_true
from shiftproof.training.journal import Journal
from shiftproof.training.modes import evaluating
from shiftproof.training.unreadable import Unreadable


@dataclass(frozen=True)
class Evaluation:
    """What a pass over a data set found.

    Attributes:
        loss: Mean cross-entropy per image.
        rates: Shares by name: ``"top-1"``, ``"top-5"``, and ``consistency_name(protocol)``.
    """

    loss: float
    rates: dict[str, RateResult]


def to_device(images: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """Move images to where the network is.

    Args:
        images: ``(N, C, H, W)``.
        device: Where to.
        channels_last: Whether to use that memory format.

    Returns:
        The images there.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(device, memory_format=memory_format, non_blocking=True)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: ImageDataset,
    *,
    process: Process,
    batch_size: int,
    seed: int,
    consistency: Protocol | None = None,
    workers: int = 0,
    pin_memory: bool = True,
    channels_last: bool = True,
    journal: Journal | None = None,
    description: str = "validate",
    unreadable: Unreadable | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Measure a network on a data set, in float32.

    Processes share the batches; each image counts once, and the numbers do not depend on how many
    processes there are, as long as ``batch_size`` does not.

    Args:
        model: The network, on the device of the process; each module's mode is put back afterwards.
        dataset: Images with labels.
        process: This process among those that evaluate.
        batch_size: Images per batch; a shift shared by a batch is drawn once for it.  Consistency
            depends on it, so it belongs to the measurement, as ``TrainConfig.eval_batch_size``.
        seed: Of the shifts.
        consistency: Protocol to measure as well; none if None.
        workers: Processes that load images.
        pin_memory: Whether batches for a GPU go through page-locked memory.
        channels_last: Whether images use that memory format.
        journal: Where progress is shown.
        description: What to call it there.
        unreadable: Counts files that cannot be read.
        should_stop: Asked before each batch.

    Returns:
        The measurements, the same on every process, or None if it was stopped.
    """
    accumulate = require("shiftproof.metrics.accumulate", extra="train")
    total = require("torchmetrics", extra="train").SumMetric
    device = process.device
    # In float64, where the order of the batches does not show; a NaN is a result, not an accident.
    loss = total(nan_strategy="disable").set_dtype(torch.float64).to(device)
    accuracies = [accumulate.Accuracy(k).to(device) for k in (1, 5)]
    agreement = None if consistency is None else accumulate.Consistency(consistency).to(device)
    plan = EvalPlan(
        len(dataset),
        batch_size,
        seed=seed,
        rank=process.rank,
        world_size=process.world_size,
    )
    loader = make_loader(dataset, plan, workers=workers, device=device, pin_memory=pin_memory)
    journal = journal or Journal("", enabled=False)
    stopped = False
    with evaluating(model), journal.progress(len(plan), description) as advance:
        for batch, examples in zip(plan, loader, strict=True):
            stopped = should_stop()
            if stopped:
                break
            if unreadable is not None:
                unreadable.note(examples.unreadable)
            if not len(examples):
                continue
            images = to_device(examples.images, device, channels_last)
            labels = examples.labels.to(device)
            logits = model(images)
            loss.update(F.cross_entropy(logits.float(), labels, reduction="sum"))
            for accuracy in accuracies:
                accuracy.update(logits, labels)
            if agreement is not None and consistency is not None:
                generator = torch.Generator().manual_seed(batch.seed)
                views = consistency.views(images, generator)
                # A protocol that compares with the images themselves has been half done already.
                agreement.update(*(logits if view is images else model(view) for view in views))
            advance()
    if any_true(stopped):
        return None
    with warnings.catch_warnings():
        # Where there are more processes than batches, some have nothing to add.
        warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
        rates = {f"top-{accuracy.k}": accuracy.compute() for accuracy in accuracies}
        if agreement is not None:
            rates[consistency_name(agreement.protocol.name)] = agreement.compute()
        total_loss = float(loss.compute())
    return Evaluation(total_loss / max(rates["top-1"].n, 1), rates)
