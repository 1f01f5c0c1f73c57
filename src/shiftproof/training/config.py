"""What a run depends on, as data: the same configuration gives the same numbers."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from shiftproof.metrics import Protocol
from shiftproof.models import create_model
from shiftproof.training.schedule import Constant, Schedule


@dataclass(frozen=True)
class ModelConfig:
    """Which network is built.

    Attributes:
        name: Registered name, see ``shiftproof.list_models``.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        options: Further arguments of ``shiftproof.create_model``.
    """

    name: str
    num_classes: int
    in_channels: int = 3
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Build the network, with random weights.

        Returns:
            The network, in training mode.

        Raises:
            ValueError: If the name or an option is unknown.
        """
        return create_model(
            self.name,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            **self.options,
        )


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained: SGD on the cross-entropy.

    Attributes:
        model: The network.
        epochs: Passes over the training images.
        batch_size: Images per node and forward pass, divided over the node's processes.
        seed: Of the initial weights, the order of the images, augmentation and measurements.
        lr: Learning rate at the start.
        momentum: Of SGD.
        weight_decay: Of SGD, on all parameters.
        schedule: Learning rate of each epoch.
        accumulate: Batches per optimiser step.
        eval_batch_size: Images per batch when measuring, on each process; however many processes
            there are, the same images share a shift.  The published scripts' batch by default.
        consistency: Protocol measured on the validation images after each epoch; none if None.
        amp: ``"auto"``, ``"bfloat16"`` or ``"off"``: precision of the forward pass in training.
            Evaluation always runs in float32, where a shift changes no rounding that matters.
        channels_last: Whether images and weights use that memory format.
        compile: Whether the network is compiled.

    Raises:
        ValueError: If a number is out of range.
    """

    model: ModelConfig
    epochs: int
    batch_size: int
    seed: int
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = field(default_factory=Constant)
    accumulate: int = 1
    eval_batch_size: int = 256
    consistency: Protocol | None = None
    amp: str = "auto"
    channels_last: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        at_least_one = dict.fromkeys(("batch_size", "eval_batch_size", "accumulate"), 1)
        for name, smallest in {"epochs": 0, **at_least_one}.items():
            if getattr(self, name) < smallest:
                raise ValueError(
                    f"train: {name} must be at least {smallest}, got {getattr(self, name)}; "
                    "pass a larger number"
                )
        if not self.lr > 0:
            raise ValueError(f"train: lr must be positive, got {self.lr}; the paper uses 0.1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"train: seed must be in [0, 2^63), got {self.seed}; choose another")

    def per_process(self, processes_per_node: int) -> int:
        """Images per process and forward pass.

        Args:
            processes_per_node: Processes that share ``batch_size``.

        Returns:
            The number of images.

        Raises:
            ValueError: If the processes do not divide the batch.
        """
        if self.batch_size % processes_per_node:
            raise ValueError(
                "train: batch_size must be a positive multiple of the "
                f"{processes_per_node} processes per node, got {self.batch_size}; "
                "choose another batch size"
            )
        return self.batch_size // processes_per_node


@dataclass(frozen=True)
class RunFiles:
    """Where a run writes its checkpoints.

    Attributes:
        folder: Everything the run writes is in it.
        last: Name of the checkpoint to resume from.
        best: Name of the checkpoint of the best validation accuracy.
        numbered: Name, with ``{epoch}``, of the copies that are kept; none if None.
        numbered_every: Epochs between two such copies.
    """

    folder: Path
    last: str = "checkpoint.pt"
    best: str = "best.pt"
    numbered: str | None = None
    numbered_every: int = 10

    def path(self, name: str) -> Path:
        """Place of a file of this run.

        Args:
            name: Its name.

        Returns:
            Its path.
        """
        return self.folder / name

    def resumable(self) -> Path | None:
        """The checkpoint that the run would go on from.

        Returns:
            Its path, or ``None`` if nothing has been saved.
        """
        path = self.path(self.last)
        return path if path.is_file() else None


def describe(value: Any) -> Any:
    """Turn a configuration into plain JSON values.

    Args:
        value: Dataclasses, containers, paths and plain values, nested.

    Returns:
        The same as dictionaries, lists, strings and numbers; a dataclass becomes a dictionary of
        its fields with its class name under ``"type"``.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return {"type": type(value).__name__, **{k: describe(v) for k, v in fields.items()}}
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return repr(value)
