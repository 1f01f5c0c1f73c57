"""Figures of results."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shiftproof.extras import require
from shiftproof.results import RunResult, consistency_name


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
        name = consistency_name(consistency.protocol) if consistency else "consistency"
        label = f"{name} in %"
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


def plot_accuracy_over_shifts(results: Sequence[RunResult], path: str | os.PathLike[str]) -> Path:
    """Draw the accuracy of several networks at each circular shift modulo their total stride.

    Args:
        results: Runs of the digits recipe.
        path: Picture to write.

    Returns:
        The file written.

    Raises:
        ValueError: If there are no results.
        RuntimeError: If matplotlib is not installed.
    """
    if not results:
        raise ValueError(
            "plot_accuracy_over_shifts: there must be at least one result, got none; "
            "train a network first"
        )
    tables = []
    for result in results:
        stride = int(result.values["total stride"])
        tables.append(
            [
                [result.rates[f"top-1 at shift ({dy}, {dx})"].percent for dx in range(stride)]
                for dy in range(stride)
            ]
        )
    lowest = min(value for table in tables for row in table for value in row)
    highest = max(value for table in tables for row in table for value in row)
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        1, len(results), figsize=(3 * len(results) + 1, 3.6), squeeze=False, layout="constrained"
    )
    image = None
    for axis, result, table in zip(axes[0], results, tables, strict=True):
        image = axis.imshow(table, vmin=lowest - 0.5, vmax=highest + 0.5, cmap="cividis")
        middle = (lowest + highest) / 2
        for dy, row in enumerate(table):
            for dx, value in enumerate(row):
                color = "white" if value < middle else "black"
                axis.text(dx, dy, f"{value:.1f}", ha="center", va="center", color=color)
        axis.set(title=result.model, xlabel="dx in pixels")
        axis.set(xticks=range(len(table)), yticks=range(len(table)))
    axes[0][0].set_ylabel("dy in pixels")
    figure.colorbar(image, ax=list(axes[0]), label="test top-1 accuracy in %", shrink=0.8)
    figure.suptitle("Top-1 accuracy of the same test images under every circular shift")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return Path(path)
