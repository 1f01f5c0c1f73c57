"""The schema of every number this project writes: frozen dataclasses and their JSON form."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shiftproof.files import write_text

SCHEMA = 3
"""Version of the JSON layout; readers refuse a newer one.

Version 1 called consistency by its protocol alone and took the images of a batch for independent;
version 2 knew no means.
"""


def consistency_name(protocol: str) -> str:
    """What consistency under a protocol is called wherever it is shown.

    Args:
        protocol: Name of the protocol.

    Returns:
        The name.

    Examples:
        >>> consistency_name("aps-imagenet")
        'consistency (aps-imagenet)'
    """
    return f"consistency ({protocol})"


@dataclass(frozen=True)
class RateResult:
    """A share of images, with what is needed to judge it.

    Attributes:
        protocol: Name of the measurement, for instance ``"top-1"`` or ``"aps-imagenet"``.
        n: Number of images.
        successes: Number of images for which the statement held.
        low: Lower end of the 95 % interval, in [0, 1].
        high: Upper end of the 95 % interval, in [0, 1].
        batch_mean: Mean over batches of the share within each batch, the average that published
            code reports; ``None`` where batches play no role.
        num_clusters: Number of groups of dependent images, for instance batches that share a
            shift, which the interval allows for; with fewer than two it is (0, 1).  ``None`` for
            independent images.
    """

    protocol: str
    n: int
    successes: int
    low: float
    high: float
    batch_mean: float | None = None
    num_clusters: int | None = None

    @property
    def value(self) -> float:
        """The share itself, per image, in [0, 1]; 0 for no images."""
        return self.successes / self.n if self.n else 0.0

    @property
    def percent(self) -> float:
        """The share in percent."""
        return 100.0 * self.value


@dataclass(frozen=True)
class MeanResult:
    """The mean of numbers, with what is needed to judge it.

    Attributes:
        protocol: Name of the measurement, for instance ``"probability change (circular)"``.
        n: How many numbers, one per image unless the measurement says otherwise.
        value: Their mean; 0 for none.
        low: Lower end of the 95 % interval; ``None`` where nothing is known of it.
        high: Upper end of the 95 % interval; ``None`` where nothing is known of it.
        num_clusters: Number of groups of dependent images that the interval allows for; ``None``
            for independent images.
    """

    protocol: str
    n: int
    value: float
    low: float | None
    high: float | None
    num_clusters: int | None = None


def _read_rates(rates: dict[str, Any]) -> dict[str, RateResult]:
    """Rates from JSON, those of version 1 by the names that they have now."""
    read = {}
    for name, fields in rates.items():
        rate = RateResult(**fields)
        stage = name.removesuffix(rate.protocol)
        if rate.protocol == "worst-shift" and stage != name:
            name = f"{stage}worst-shift accuracy"
        elif not rate.protocol.startswith("top-") and stage != name:
            name = stage + consistency_name(rate.protocol)
        read[name] = rate
    return read


@dataclass(frozen=True)
class Environment:
    """The machine and the versions that produced a result."""

    python: str
    platform: str
    processor: str
    versions: dict[str, str]
    device: str
    num_threads: int

    @classmethod
    def collect(cls, device: str, num_threads: int) -> Environment:
        """Describe this process.

        Args:
            device: Name of the device that computed, for instance ``"cpu"`` or the GPU's name.
            num_threads: Threads used for computing.

        Returns:
            The description.
        """
        versions = {}
        for name in ("shiftproof", "torch", "torchvision", "torchmetrics", "numpy"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name] = importlib.metadata.version(name)
        return cls(
            python=platform.python_version(),
            platform=platform.platform(),
            processor=platform.machine(),
            versions=versions,
            device=device,
            num_threads=num_threads,
        )


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training found.

    Attributes:
        epoch: Number of the epoch, from 0.
        lr: Learning rate.
        seconds: Time spent training, validation excluded.
        images_per_second: Training images per second, over all processes.
        train_loss: Mean cross-entropy over the training images, as they were trained on.
        train_top1: Accuracy over the same, in [0, 1].
        val_loss: Mean cross-entropy over the validation images.
        val_rates: Shares measured on the validation images by name: ``"top-1"``, ``"top-5"``, and
            ``consistency_name(protocol)`` where it was asked for.
    """

    epoch: int
    lr: float
    seconds: float
    images_per_second: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_rates: dict[str, RateResult]

    @property
    def consistency(self) -> RateResult | None:
        """The consistency measured on the validation images, if one was."""
        others = [rate for name, rate in self.val_rates.items() if not name.startswith("top-")]
        return others[0] if others else None

    def row(self) -> dict[str, float]:
        """The numbers as one row of a table, shares in percent.

        Returns:
            Values by column name.
        """
        row = {
            "epoch": self.epoch,
            "lr": self.lr,
            "train_loss": self.train_loss,
            "train_top1": 100 * self.train_top1,
            "val_loss": self.val_loss,
            "val_top1": self.val_rates["top-1"].percent,
            "val_top5": self.val_rates["top-5"].percent,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }
        if self.consistency is not None:
            row["val_consistency"] = self.consistency.percent
        return row

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EpochResult:
        """Rebuild a result from what ``dataclasses.asdict`` made of it.

        Args:
            data: Its fields.

        Returns:
            The result.
        """
        return cls(**{**data, "val_rates": _read_rates(data["val_rates"])})


@dataclass(frozen=True)
class RunResult:
    """What one training or evaluation run found.

    Attributes:
        model: Registered model name.
        num_parameters: Learned numbers in the model.
        epochs: Epochs trained; 0 for an evaluation.
        config: The complete configuration, as plain JSON values.
        environment: Machine and versions.
        rates: Measured shares by name, for instance ``"test top-1"``.
        values: Other measured numbers by name, for instance ``"seconds per epoch"``.
        history: One entry per epoch trained.
        unreadable: Images that could not be read and were left out.
        means: Measured means by name, for instance ``"probability change (circular)"``.
        schema: Version of this layout.
    """

    model: str
    num_parameters: int
    epochs: int
    config: dict[str, Any]
    environment: Environment
    rates: dict[str, RateResult] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    history: tuple[EpochResult, ...] = ()
    unreadable: tuple[str, ...] = ()
    means: dict[str, MeanResult] = field(default_factory=dict)
    schema: int = SCHEMA


def save_result(result: RunResult, path: str | os.PathLike[str]) -> None:
    """Write a result as JSON.

    Args:
        result: What to write.
        path: File to write, replaced whole.
    """
    write_text(path, json.dumps(dataclasses.asdict(result), indent=2) + "\n")


def load_result(path: str | os.PathLike[str]) -> RunResult:
    """Read a result that ``save_result`` wrote.

    Args:
        path: The JSON file.

    Returns:
        The result.

    Raises:
        ValueError: If the file is not such a result, or a newer version of the layout wrote it.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise ValueError(
            f"load_result: the file must hold a result of this project, got {path}; "
            "pass a result.json"
        )
    if data["schema"] > SCHEMA:
        raise ValueError(
            f"load_result: schema must be at most {SCHEMA}, got {data['schema']} in {path}; "
            "update shiftproof"
        )
    try:
        data["environment"] = Environment(**data["environment"])
        data["rates"] = _read_rates(data["rates"])
        data["history"] = tuple(EpochResult.from_dict(epoch) for epoch in data["history"])
        data["unreadable"] = tuple(data["unreadable"])
        means = data.get("means", {}).items()
        data["means"] = {name: MeanResult(**fields) for name, fields in means}
        data["schema"] = SCHEMA
        return RunResult(**data)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"load_result: the file must hold a complete result, got {path} ({error}); "
            "pass a result.json"
        ) from error
