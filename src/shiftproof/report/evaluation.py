"""Several networks side by side, as a table, lines and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from shiftproof.results import MeanResult, RateResult, RunResult


def _rate(rate: RateResult | None) -> str:
    if rate is None or not rate.n:
        return "-"
    if rate.num_clusters == 1:
        return f"{rate.percent:.2f}\n(one batch)"
    return f"{rate.percent:.2f}\n({100 * rate.low:.2f} to {100 * rate.high:.2f})"


def _mean(mean: MeanResult | None) -> str:
    if mean is None or not mean.n:
        return "-"
    if None in (mean.low, mean.high) or mean.num_clusters == 1:
        return f"{mean.value:.4g}"
    return f"{mean.value:.4g}\n({mean.low:.4g} to {mean.high:.4g})"


def evaluation_table(results: Sequence[RunResult]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table of an evaluation: a column per network, each number with its 95 % interval.

    Args:
        results: What was found of each network.

    Returns:
        The headings and the rows.
    """
    rates = dict.fromkeys(name for result in results for name in result.rates)
    means = dict.fromkeys(name for result in results for name in result.means)
    counts = [max((rate.n for rate in result.rates.values()), default=0) for result in results]
    rows = [("images", *(f"{count:,}" for count in counts))]
    rows += [(f"{name}, %", *(_rate(r.rates.get(name)) for r in results)) for name in rates]
    rows += [(name, *(_mean(r.means.get(name)) for r in results)) for name in means]
    return ("", *(result.model for result in results)), rows


def difference_lines(differences: Sequence[Any]) -> list[str]:
    """How the further networks differ from the first, a line for each share.

    Args:
        differences: Each with ``model``, ``other``, ``rate`` and ``difference``.

    Returns:
        The lines.
    """
    lines = []
    for entry in differences:
        found = entry.difference
        value, low, high = (100 * x for x in (found.value, found.low, found.high))
        lines.append(
            f"{entry.model} - {entry.other}: {entry.rate} {value:+.2f} "
            f"({low:+.2f} to {high:+.2f}; n={found.n}, paired)"
        )
    return lines


def evaluation_json(results: Sequence[RunResult], differences: Sequence[Any]) -> str:
    """An evaluation as JSON: the results in their schema, and the differences.

    Args:
        results: What was found of each network.
        differences: How the further ones differ from the first.

    Returns:
        The text.
    """
    found = {
        "results": [dataclasses.asdict(result) for result in results],
        "differences": [dataclasses.asdict(entry) for entry in differences],
    }
    return json.dumps(found, indent=2)
