"""Measurements on any callable from images to logits.

Their torchmetrics twins, which sum over batches and processes, are in
``shiftproof.metrics.accumulate``; they need ``pip install 'shiftproof[train]'``.
"""

from shiftproof.metrics.accuracy import topk_correct
from shiftproof.metrics.changes import (
    correct_under_all,
    decibels,
    embedding_cosine,
    equivariance_error,
    probability_change,
)
from shiftproof.metrics.clusters import cluster_interval, cluster_rate
from shiftproof.metrics.consistency import (
    accuracy_over_shifts,
    agreement,
    consistency,
    worst_shift_accuracy,
)
from shiftproof.metrics.gaps import phase_gap, phase_gaps
from shiftproof.metrics.intervals import rate, wilson_interval
from shiftproof.metrics.jitter import flip_rate, jitter
from shiftproof.metrics.means import mean_result
from shiftproof.metrics.paired import (
    DifferenceResult,
    McNemarResult,
    mcnemar,
    paired_difference,
)
from shiftproof.metrics.protocols import PROTOCOLS, Protocol, protocol
from shiftproof.metrics.sweeps import EveryShift, Pans
from shiftproof.metrics.views import (
    CircularShifts,
    Crops,
    FractionalShifts,
    PaddedCrops,
    ZeroFillShifts,
)

__all__ = [
    "PROTOCOLS",
    "CircularShifts",
    "Crops",
    "DifferenceResult",
    "EveryShift",
    "FractionalShifts",
    "McNemarResult",
    "PaddedCrops",
    "Pans",
    "Protocol",
    "ZeroFillShifts",
    "accuracy_over_shifts",
    "agreement",
    "cluster_interval",
    "cluster_rate",
    "consistency",
    "correct_under_all",
    "decibels",
    "embedding_cosine",
    "equivariance_error",
    "flip_rate",
    "jitter",
    "mcnemar",
    "mean_result",
    "paired_difference",
    "phase_gap",
    "phase_gaps",
    "probability_change",
    "protocol",
    "rate",
    "topk_correct",
    "wilson_interval",
    "worst_shift_accuracy",
]
