"""How far a run has come."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shiftproof.results import EpochResult


@dataclass
class Progress:
    """How far a run has come: everything but weights and momentum that it takes to go on.

    Attributes:
        epoch: Epoch in progress, from 0.
        step: Optimiser steps done in it; all of them if only its validation is missing.
        sums: Over the images of this epoch so far: loss, correct ones and number; ``(3,)`` float64.
        seconds: Spent training in this epoch so far.
        history: Results of the finished epochs.
    """

    epoch: int
    step: int
    sums: Tensor
    seconds: float
    history: list[EpochResult]

    @classmethod
    def start(cls, epoch: int = 0) -> "Progress":
        """Stand at the start of an epoch.

        Args:
            epoch: The epoch.

        Returns:
            Progress with nothing done.
        """
        return cls(epoch, 0, torch.zeros(3, dtype=torch.float64), 0.0, [])

    @property
    def best(self) -> float:
        """Best validation accuracy so far."""
        return max((result.val_rates["top-1"].value for result in self.history), default=-1.0)

    def to_state(self, sums: Tensor) -> dict[str, Any]:
        """What a checkpoint holds of it.

        Args:
            sums: The sums of this epoch over all processes.

        Returns:
            Plain values and tensors.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": sums,
            "seconds": self.seconds,
            "history": [dataclasses.asdict(result) for result in self.history],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], *, takes_sums: bool) -> "Progress":
        """Stand where a checkpoint was written.

        Args:
            state: The checkpoint.
            takes_sums: Whether this process takes over the sums, which are those of all processes;
                one of them must.

        Returns:
            The progress.
        """
        sums = state["sums"] if takes_sums else torch.zeros_like(state["sums"])
        history = [EpochResult.from_dict(result) for result in state["history"]]
        return cls(state["epoch"], state["step"], sums, state["seconds"], history)
