"""Figures of results."""

import os
from pathlib import Path
from typing import Any

from shiftproof.extras import require
from shiftproof.results import RunResult


def _pyplot() -> Any:
    # A figure is written to a file; no display is needed, nor asked for.
    require("matplotlib", extra="report").use("Agg")
    return require("matplotlib.pyplot", extra="report")


def plot_history(result: RunResult, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw loss, accuracy and, where it was measured, consistency over the epochs.

    Args:
        result: A run with at least one epoch.
        folder: Where the pictures go.

    Returns:
        The files written: ``loss.png``, ``accuracy.png``, ``consistency.png``.

    Raises:
        ValueError: If the run has no epochs.
        RuntimeError: If matplotlib is not installed.
    """
    if not result.history:
        raise ValueError(
            f"plot_history: the run must have at least one epoch, got none of {result.model}; "
            "pass the result of a training"
        )
    rows = [epoch.row() for epoch in result.history]
    epochs = [row["epoch"] + 1 for row in rows]
    figures = {
        "loss": ("cross-entropy", {"training": "train_loss", "validation": "val_loss"}),
        "accuracy": ("top-1 accuracy in %", {"training": "train_top1", "validation": "val_top1"}),
    }
    if "val_consistency" in rows[-1]:
        consistency = result.history[-1].consistency
        label = f"consistency in % ({consistency.protocol})" if consistency else "consistency in %"
        figures["consistency"] = (label, {"validation": "val_consistency"})
    pyplot = _pyplot()
    written = []
    for name, (label, curves) in figures.items():
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        for curve, column in curves.items():
            axes.plot(epochs, [row[column] for row in rows], marker=".", label=curve)
        axes.set(xlabel="epoch", ylabel=label, title=result.model)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
        path = Path(folder) / f"{name}.png"
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        written.append(path)
    return written
