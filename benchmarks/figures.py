"""Figures of the page, drawn from a report alone."""

from pathlib import Path
from typing import Any

from benchmarks.entries_training import LADDER
from benchmarks.entries_training import NAME as TRAINING
from benchmarks.measured import Measured, Report
from shiftproof.extras import require

COLORS = {
    "ours": "tab:blue",
    "published": "tab:red",
    "plain stride": "tab:gray",
    "max_pool2d": "tab:green",
    "BlurPool": "tab:orange",
}
"""The same formulation has the same colour everywhere."""


def _pyplot() -> Any:
    # A figure is written to a file; no display is needed, nor asked for.
    require("matplotlib", extra="report").use("Agg")
    return require("matplotlib.pyplot", extra="report")


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)
    return path


def draw_growth(report: Report, path: Path) -> Path | None:
    """Time of select and take over the size of the map and over the batch, both axes doubling."""
    points = [entry for entry in report.entries if entry.point is not None and entry.rows]
    axes_names = list(dict.fromkeys(entry.point[0] for entry in points if entry.point))
    if not points:
        return None
    figure, axes = _pyplot().subplots(
        1,
        len(axes_names),
        figsize=(5 * len(axes_names), 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes[0], axes_names, strict=True):
        found = [entry for entry in points if entry.point and entry.point[0] == name]
        values = [entry.point[1] for entry in found if entry.point]
        for group in found[0].groups:
            times = [entry.best(group).median * 1e3 for entry in found]
            axis.loglog(values, times, marker="o", label=group, color=COLORS.get(group))
        floors = [_floor_milliseconds(entry) for entry in found]
        axis.loglog(values, floors, color="black", linestyle=":", label="floor")
        unit = " in pixels" if name == "map size" else " in images"
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
        axis.set(xlabel=name + unit, title=_shape(found[0], name))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms per call, best layout of each")
    axes[0][0].legend()
    figure.suptitle("Select and take, forward")
    return _save(figure, path)


def _shape(entry: Measured, axis: str) -> str:
    """Shape of the maps, with a letter for what grows."""
    batch, channels, height, width = entry.what.split(", ")[-1].split(" ")[0].split("x")
    if axis == "batch":
        return f"N x {channels} x {height} x {width}"
    return f"{batch} x {channels} x S x S"


def _floor_milliseconds(entry: Measured) -> float:
    row = entry.best(entry.baseline)
    floor = entry.floor_ratio(row)
    assert floor is not None
    return row.median / floor.median * 1e3


def draw_models(report: Report, path: Path) -> Path | None:
    """Time of every network over that of the plain one, forward and training, eager."""
    entries = [
        entry
        for entry in report.entries
        if entry.name.startswith("models/") and entry.rows and "compiled" not in entry.name
    ]
    if not entries:
        return None
    columns = min(2, len(entries))
    lines = -(-len(entries) // columns)
    figure, axes = _pyplot().subplots(
        lines, columns, figsize=(6 * columns, 2.8 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(entries) :]:
        axis.remove()
    for axis, entry in zip(axes.flat, entries, strict=False):
        baseline, groups = entry.best(entry.baseline), entry.groups[::-1]
        spreads = [entry.best(group).over(baseline) for group in groups]
        medians = [spread.median for spread in spreads]
        below = [spread.median - spread.low for spread in spreads]
        above = [spread.high - spread.median for spread in spreads]
        colors = [COLORS["published"] if "published" in group else "tab:blue" for group in groups]
        axis.barh(groups, medians, xerr=[below, above], color=colors)
        axis.axvline(1, color="black", linewidth=1)
        axis.bar_label(axis.containers[1], [f" {value:.2f}" for value in medians])
        axis.set(title=entry.name.removeprefix("models/"), xlim=(0, 1.15 * max(medians)))
    figure.supxlabel("time / plain circularly padded network, best layout of each")
    return _save(figure, path)


def draw_ladder(report: Report, path: Path) -> Path | None:
    """Images per second after each change of the training settings."""
    entry = report.entry(TRAINING)
    steps = [] if entry is None else [name for name in LADDER if name in entry.groups]
    if entry is None or entry.images is None or not steps:
        return None
    speeds = [entry.images / entry.best(name).median for name in steps]
    figure, axis = _pyplot().subplots(figsize=(8, 0.6 * len(steps) + 1.2), layout="constrained")
    axis.barh(steps[::-1], speeds[::-1], color="tab:blue")
    axis.bar_label(axis.containers[0], [f" {value:,.0f}" for value in speeds[::-1]])
    axis.set(xlabel="images per second", title="Training cifar_resnet20_aps1")
    axis.margins(x=0.12)
    return _save(figure, path)
