"""Measurements on any callable from images to logits.

Their torchmetrics twins, which sum over batches and processes, are in
``shiftproof.metrics.accumulate``; they need ``pip install 'shiftproof[train]'``.
"""

from shiftproof.metrics.accuracy import topk_correct
from shiftproof.metrics.clusters import cluster_interval, cluster_rate
from shiftproof.metrics.consistency import (
    accuracy_over_shifts,
    agreement,
    consistency,
    worst_shift_accuracy,
)
from shiftproof.metrics.intervals import rate, wilson_interval
from shiftproof.metrics.jitter import flip_rate, jitter
from shiftproof.metrics.paired import (
    DifferenceResult,
    McNemarResult,
    mcnemar,
    paired_difference,
)
from shiftproof.metrics.protocols import (
    PROTOCOLS,
    CircularShifts,
    Crops,
    PaddedCrops,
    Protocol,
    protocol,
)

__all__ = [
    "PROTOCOLS",
    "CircularShifts",
    "Crops",
    "DifferenceResult",
    "McNemarResult",
    "PaddedCrops",
    "Protocol",
    "accuracy_over_shifts",
    "agreement",
    "cluster_interval",
    "cluster_rate",
    "consistency",
    "flip_rate",
    "jitter",
    "mcnemar",
    "paired_difference",
    "protocol",
    "rate",
    "topk_correct",
    "wilson_interval",
    "worst_shift_accuracy",
]
