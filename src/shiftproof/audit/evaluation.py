"""One pass of a network over a data set: accuracy, and every protocol that was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from shiftproof.audit.subjects import Subject
from shiftproof.data.examples import ImageDataset
from shiftproof.data.loading import make_loader
from shiftproof.data.plan import EvalPlan
from shiftproof.extras import require
from shiftproof.metrics import Protocol, agreement, topk_correct
from shiftproof.metrics.protocols import judged_by_label
from shiftproof.metrics.sweeps import Pans
from shiftproof.results import MeanResult, RateResult, consistency_name
from shiftproof.training.distributed import Process, any_true, in_group
from shiftproof.training.journal import Journal
from shiftproof.training.unreadable import Unreadable


def worst_name(protocol: str) -> str:
    """What accuracy under all shifts of a protocol is called wherever it is shown.

    Args:
        protocol: Name of the protocol.

    Returns:
        The name.

    Examples:
        >>> worst_name("adversarial")
        'worst-shift accuracy (adversarial)'
    """
    return f"worst-shift accuracy ({protocol})"


@dataclass
class Found:
    """What passes over a data set found.

    Attributes:
        rates: Shares by name.
        means: Means by name.
        values: Other numbers by name.
        outcomes: For each share, whether the statement holds for each image, ``(N,)`` int8 in the
            order of the data set; -1 for images that could not be read.
    """

    rates: dict[str, RateResult] = field(default_factory=dict)
    means: dict[str, MeanResult] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, Tensor] = field(default_factory=dict)


class _StoppedError(Exception):
    """A signal came between two versions of a batch."""


class _Tally:
    """What is counted of one protocol."""

    def __init__(self, protocol: Protocol, labelled: bool, device: torch.device) -> None:
        accumulate = require("shiftproof.metrics.accumulate", extra="train")
        self.protocol, self.by_label = protocol, judged_by_label(protocol)
        name = protocol.name
        self.name = worst_name(name) if self.by_label else consistency_name(name)
        kind = accumulate.WorstShiftAccuracy if self.by_label else accumulate.Consistency
        self.rate = kind(protocol).to(device)
        self.change = accumulate.ProbabilityChange(protocol).to(device)
        self.pan = {}
        if isinstance(protocol, Pans):
            self.pan = {f"jitter ({name})": accumulate.Jitter().to(device)}
            self.pan[f"flip rate ({name})"] = accumulate.FlipRate().to(device)
        self.labelled = labelled

    def update(self, logits: Iterator[Tensor], labels: Tensor) -> Tensor:
        """Count a batch; says whether the statement holds for each image."""
        if self.by_label:  # too many to keep
            held: list[Tensor] = []

            def noted() -> Iterator[Tensor]:
                for version in logits:
                    right = topk_correct(version, labels, k=1)
                    held[:] = [held[0] & right if held else right]
                    yield version

            self.rate.update(noted(), labels)
            return held[0]
        versions = list(logits)
        self.rate.update(*versions)
        if self.labelled:
            self.change.update(versions, labels)
        if self.pan:
            frames = torch.stack(versions).double().softmax(-1)
            for metric in self.pan.values():
                metric.update(frames)
        return agreement(versions)

    def note(self, found: Found) -> None:
        """Write down what was counted, in all processes."""
        found.rates[self.name] = self.rate.compute()
        if self.labelled and not self.by_label:
            found.means[self.change.name] = self.change.compute()
        found.means |= {name: metric.compute() for name, metric in self.pan.items()}


def _checked(name: str, logits: Tensor) -> Tensor:
    if bool((logits.isnan() | (logits == torch.inf)).any()):
        raise ValueError(
            f"{name}: logits must be finite, got NaN or infinity; check the weights and the "
            "normalisation (--mean, --std)"
        )
    return logits


@torch.no_grad()
def evaluate_subject(
    subject: Subject,
    dataset: ImageDataset,
    protocols: Sequence[Protocol],
    *,
    found: Found,
    process: Process,
    outputs: Tensor | None,
    accuracy: bool,
    batch_size: int,
    seed: int,
    workers: int,
    journal: Journal,
    unreadable: Unreadable,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Measure a network on a data set, in one pass.

    Processes share the batches; each image counts once, and the numbers do not depend on how many
    processes there are.  Batches, shifts and arithmetic are those of ``training.evaluate``.

    Args:
        subject: The network, on the device of the process.
        dataset: Images in [0, 1] with the numbers of their class folders.
        protocols: What is measured beside accuracy; all take images of this size.
        found: Where the numbers go.
        process: This process.
        outputs: The output of the network that stands for each folder; None if unknown.
        accuracy: Whether accuracy and loss are measured; the network must take these images.
        batch_size: Images per batch; a shift shared by a batch is drawn once for it.
        seed: Of the shifts.
        workers: Processes that load images.
        journal: Where progress is shown.
        unreadable: Counts files that cannot be read.
        should_stop: Asked before each version of each batch.

    Returns:
        Whether it was finished; False if it was stopped.

    Raises:
        ValueError: If a logit is NaN or infinite, or the network returns no logits.
    """
    accumulate = require("shiftproof.metrics.accumulate", extra="train")
    total = require("torchmetrics", extra="train").SumMetric
    device = process.device
    labelled = outputs is not None
    tallies = [_Tally(protocol, labelled, device) for protocol in protocols]
    names = [*(["top-1"] if accuracy and labelled else []), *(tally.name for tally in tallies)]
    outcomes = {name: torch.full((len(dataset),), -1, dtype=torch.int8) for name in names}
    loss = total().set_dtype(torch.float64).to(device)
    tops = [accumulate.Accuracy(k).to(device) for k in (1, 5)]
    plan = EvalPlan(
        len(dataset), batch_size, seed=seed, rank=process.rank, world_size=process.world_size
    )
    loader = make_loader(dataset, plan, workers=workers, device=device)

    def answer(x: Tensor) -> Tensor:
        if should_stop():
            raise _StoppedError
        return _checked(subject.name, subject.logits(x).to(device))

    stopped = False
    try:
        with journal.progress(len(plan), subject.name) as advance:
            for batch, examples in zip(plan, loader, strict=True):
                unreadable.note(examples.unreadable)
                if not len(examples):
                    continue
                images = subject.normalised(examples.images)
                labels = examples.labels if outputs is None else outputs[examples.labels]
                labels = labels.to(device)
                still = answer(images) if accuracy else None
                if still is not None and labelled:
                    loss.update(F.cross_entropy(still, labels, reduction="sum"))
                    for top in tops:
                        top.update(still, labels)
                    right = topk_correct(still, labels, k=1)
                    outcomes["top-1"][examples.indices] = right.cpu().to(torch.int8)
                for tally in tallies:
                    generator = torch.Generator().manual_seed(batch.seed)
                    views = tally.protocol.views(images, generator)
                    # What compares with the images themselves has been half done already.
                    logits = (
                        still if view is images and still is not None else answer(view)
                        for view in views
                    )
                    held = tally.update(logits, labels)
                    outcomes[tally.name][examples.indices] = held.cpu().to(torch.int8)
                advance()
    except _StoppedError:
        stopped = True
    if any_true(stopped):
        return False
    with warnings.catch_warnings():
        # Where there are more processes than batches, some have nothing to add.
        warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
        if accuracy and labelled:
            found.rates |= {f"top-{top.k}": top.compute() for top in tops}
            found.values["loss"] = float(loss.compute()) / max(found.rates["top-1"].n, 1)
        for tally in tallies:
            tally.note(found)
    found.outcomes |= {name: _everywhere(values, device) for name, values in outcomes.items()}
    return True


def _everywhere(values: Tensor, device: torch.device) -> Tensor:
    """What any process has found of each image."""
    if not in_group():
        return values
    shared = values.to(device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return shared.cpu()
