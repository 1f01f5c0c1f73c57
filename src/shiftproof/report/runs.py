"""The page of finished training runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shiftproof.report.drawing import Series, draw_curves, draw_grid, draw_marker
from shiftproof.report.page import environment_rows, render, safe
from shiftproof.report.words import Cell, missing, number, rate_cell
from shiftproof.results import RateResult, RunResult, consistency_name

_SHIFTED = "top-1 at shift ({}, {})"


@dataclass(frozen=True)
class _Grid:
    """Accuracy at each shift modulo the stride, of one run."""

    title: str
    svg: Any
    text: str
    rows: tuple[tuple[str, ...], ...]
    reason: str = ""


def _names(results: Sequence[RunResult]) -> list[str]:
    """The models, numbered where one name stands for several runs."""
    counts = {name: [r.model for r in results].count(name) for name in {r.model for r in results}}
    seen: dict[str, int] = {}
    names = []
    for result in results:
        seen[result.model] = seen.get(result.model, 0) + 1
        several = counts[result.model] > 1
        names.append(f"{result.model} ({seen[result.model]})" if several else result.model)
    return names


def _consistency(result: RunResult) -> RateResult | None:
    return result.rates.get(f"test {consistency_name('circular')}")


def _headline(results: Sequence[RunResult], names: Sequence[str]) -> str:
    found = [
        (rate.percent, name)
        for rate, name in zip(map(_consistency, results), names, strict=True)
        if rate is not None
    ]
    if not found:
        return f"{len(results)} finished run{'s' * (len(results) > 1)}"
    (worst, first), (best, last) = min(found), max(found)
    changed = f"{first} changes its answer {number(100 - worst)} times in 100"
    text = f"Shift a picture around the circle, and {changed}"
    if last != first and best > worst:
        text += f"; {last}, {number(100 - best)} times"
    return text


def _columns(results: Sequence[RunResult]) -> list[str]:
    """Rates that stand in the table: of the test, but not one per shift."""
    names = dict.fromkeys(name for result in results for name in result.rates)
    return [name for name in names if not name.startswith("top-1 at shift")]


def _table(results: Sequence[RunResult]) -> list[tuple[str, list[Cell]]]:
    rows = []
    for name in _columns(results):
        cells = [
            rate_cell(r.rates.get(name), "images", "this run did not measure it") for r in results
        ]
        rows.append((name, cells))
    rows.append(("parameters", [Cell(f"{r.num_parameters:,}") for r in results]))
    rows.append(("epochs", [Cell(str(r.epochs)) for r in results]))
    for name in dict.fromkeys(name for result in results for name in result.values):
        cells = [
            Cell(number(r.values[name], 2)) if name in r.values else missing("not measured")
            for r in results
        ]
        rows.append((name, cells))
    return rows


def _accuracies(result: RunResult) -> list[list[RateResult]] | None:
    stride = int(result.values.get("total stride", 0))
    names = [[_SHIFTED.format(dy, dx) for dx in range(stride)] for dy in range(stride)]
    if not names or any(name not in result.rates for row in names for name in row):
        return None
    return [[result.rates[name] for name in row] for row in names]


def _grids(results: Sequence[RunResult], names: Sequence[str]) -> list[_Grid]:
    tables = [_accuracies(result) for result in results]
    if not any(tables):
        return []
    values = [rate.percent for table in tables if table for row in table for rate in row]
    ends = min(values), max(values)
    grids = []
    for table, name in zip(tables, names, strict=True):
        if table is None:
            grids.append(_Grid(name, "", "", (), "this run did not measure single shifts"))
            continue
        percents = [[rate.percent for rate in row] for row in table]
        flat = [value for row in percents for value in row]
        text = (
            f"{name}: top-1 of {table[0][0].n} images at {len(flat)} circular shifts, from "
            f"{number(min(flat), 2)} to {number(max(flat), 2)} %"
        )
        rows = [("down / right", *map(str, range(len(table))))]
        rows += [(str(dy), *(f"{value:.2f} %" for value in row)) for dy, row in enumerate(percents)]
        grids.append(_Grid(name, safe(draw_grid(percents, *ends)), text, tuple(rows)))
    return grids


def _histories(results: Sequence[RunResult], names: Sequence[str]) -> list[_Grid]:
    """Curves over the epochs, of all runs that have any."""
    last = max((len(result.history) for result in results), default=0)
    if last == 0:
        return []
    figures = {
        "val_top1": ("Top-1 on validation images", "%"),
        "val_consistency": ("Consistency on validation images", "%"),
        "train_loss": ("Cross-entropy on training images", ""),
        "val_loss": ("Cross-entropy on validation images", ""),
    }
    found = []
    for column, (title, unit) in figures.items():
        tables = [[epoch.row() for epoch in result.history] for result in results]
        series = [
            Series(
                name,
                tuple(
                    (place / max(1, last - 1), row[column], None, None)
                    for place, row in enumerate(table)
                    if column in row
                ),
            )
            for table, name in zip(tables, names, strict=True)
        ]
        if not any(curve.points for curve in series):
            continue
        shown = sorted({0, last // 2, last - 1})
        ticks = [(place / max(1, last - 1), str(place + 1)) for place in shown]
        ends = [
            f"{s.name} {number(s.points[0][1], 2)} to {number(s.points[-1][1], 2)}"
            for s in series
            if s.points
        ]
        rows = [("epoch", *names)]
        rows += [
            (
                str(place + 1),
                *(
                    number(table[place][column], 3)
                    if place < len(table) and column in table[place]
                    else "-"
                    for table in tables
                ),
            )
            for place in range(last)
        ]
        svg = safe(draw_curves(series, ticks, "epoch", unit))
        text = f"{title}, first to last epoch: {'; '.join(ends)}"
        found.append(_Grid(title, svg, text, tuple(rows)))
    return found


def runs_page(results: Sequence[RunResult]) -> str:
    """The page of finished runs, one self-contained HTML file.

    Args:
        results: The runs.

    Returns:
        The page.

    Raises:
        ValueError: If there are none.
        RuntimeError: If jinja2 is not installed.
    """
    if not results:
        raise ValueError("report: there must be at least one finished run, got none; train first")
    names = _names(results)
    return render(
        "runs.html",
        headline=_headline(results, names),
        results=results,
        names=names,
        table=_table(results),
        grids=_grids(results, names),
        histories=_histories(results, names),
        markers=[safe(draw_marker(index)) for index in range(len(names))],
        configs=[
            (name, json.dumps(result.config, indent=2, default=str))
            for name, result in zip(names, results, strict=True)
        ],
        unreadable=[
            (name, result.unreadable)
            for name, result in zip(names, results, strict=True)
            if result.unreadable
        ],
        config=[],
        environment=_environments(results, names),
    )


def _environments(results: Sequence[RunResult], names: Sequence[str]) -> list[tuple[str, str]]:
    """Machine and versions, once where all runs had the same."""
    first = results[0].environment
    if all(dataclasses.astuple(r.environment) == dataclasses.astuple(first) for r in results):
        return environment_rows(first)
    return [
        (f"{name}: {key}", value)
        for result, name in zip(results, names, strict=True)
        for key, value in environment_rows(result.environment)
    ]
