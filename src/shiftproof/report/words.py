"""Numbers in plain words, always with what is needed to judge them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shiftproof.results import MeanResult, RateResult
from shiftproof.results.audit import AuditResult, NetworkAudit

TITLES = {"as it is": "As it is", "locked": "Locked", "converted": "Converted"}
"""What the networks are called in headings."""

_EXPLAINED = {
    "locked": "Locked, so that the content of the picture decides where it is cut",
    "converted": "Converted and not tuned, so that every stride follows the content",
}


@dataclass(frozen=True)
class Cell:
    """One number of a table, or the reason why there is none.

    Attributes:
        value: The number with its unit; a dash where it is missing.
        note: How many, and the interval; or the reason.
        kind: ``"hole"`` where it is missing, ``"none"`` where the network has none.
    """

    value: str
    note: str = ""
    kind: str = ""


def number(value: float, digits: int = 1) -> str:
    """A number without zeros that say nothing.

    Args:
        value: The number.
        digits: Digits behind the point.

    Returns:
        The text.

    Examples:
        >>> number(6.25), number(6.0), number(0.04)
        ('6.2', '6', '0.04')
    """
    text = f"{value:.{digits}f}"
    if value and float(text) == 0:
        text = f"{value:.1g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def missing(reason: str) -> Cell:
    """A cell without a number."""
    return Cell("missing", reason or "not measured", "hole")


def rate_cell(rate: RateResult | None, what: str, reason: str = "") -> Cell:
    """A share in percent.

    Args:
        rate: The share; None if it is missing.
        what: What was counted, in the plural.
        reason: Why it is missing.

    Returns:
        The cell.
    """
    if rate is None:
        return missing(reason)
    low, high = 100 * rate.low, 100 * rate.high
    groups = f" in {rate.num_clusters} pictures" if rate.num_clusters is not None else ""
    interval = f"95 % interval {number(low)} to {number(high)} %"
    if rate.num_clusters == 1:
        interval = "one picture gives no interval"
    return Cell(
        f"{number(rate.percent)} %", f"{rate.successes} of {rate.n} {what}{groups}; {interval}"
    )


def mean_cell(
    mean: MeanResult | None, what: str, reason: str = "", *, percent: bool = True
) -> Cell:
    """A mean with its interval.

    Args:
        mean: The mean; None if it is missing.
        what: What was counted, in the plural.
        reason: Why it is missing.
        percent: Whether it is a share.

    Returns:
        The cell.
    """
    if mean is None:
        return missing(reason)
    scale, unit = (100, " %") if percent else (1, "")
    note = f"{mean.n} {what}"
    if mean.low is not None and mean.high is not None:
        note += f"; 95 % interval {number(scale * mean.low)} to {number(scale * mean.high)}{unit}"
    return Cell(f"{number(scale * mean.value, 2 if percent else 1)}{unit}", note)


def cost_cell(mean: MeanResult | None, reason: str = "") -> Cell:
    """A ratio of times."""
    if mean is None:
        return missing(reason)
    note = f"{mean.n} interleaved rounds"
    if mean.low is not None and mean.high is not None and mean.low != mean.high:
        note += f", single rounds {mean.low:.2f} to {mean.high:.2f}"
    return Cell(f"{mean.value:.2f} x", note)


def circular_cell(network: NetworkAudit) -> Cell:
    """Whether circular shifts change the answer, at the largest distance that was measured."""
    found = [distance for distance in network.distances if distance.motion == "circular"]
    if not found:
        if "circular" in network.inapplicable:
            return Cell("none", network.inapplicable["circular"], "none")
        return missing(network.missing.get("circular distances", ""))
    total = sum(d.consistency.n for d in found)
    same = sum(d.consistency.successes for d in found)
    pixels = ", ".join(str(d.pixels) for d in found)
    text = f"{same} of {total} shifts by {pixels} pixels"
    if network.verdict == "exact":
        text += "; certified: not a bit changes"
    elif network.verdict == "to rounding":
        text += "; certified: nothing but rounding changes"
    return Cell(f"{number(100 * same / total)} %", text)


def _per_hundred(rate: RateResult) -> str:
    return number(rate.percent)


def headline(result: AuditResult) -> str:
    """What a shift does to the network, in one sentence.

    Args:
        result: The audit.

    Returns:
        The sentence.
    """
    plain = result.networks[0]
    if plain.pan is None:
        return f"{result.model} gave no answers that could be compared"
    changes, jitter = plain.pan.changes, plain.pan.jitter
    if changes.successes:
        return (
            f"Move the camera by one pixel, and {result.model} changes its answer "
            f"{_per_hundred(changes)} times in 100"
        )
    text = f"Moved by one pixel, {result.model} kept its answer {changes.n} times of {changes.n}"
    return text + (
        f", and {number(100 * jitter.value)} % of its probability moved" if jitter else ""
    )


def lead(result: AuditResult) -> list[str]:
    """What the remedies change, a sentence each.

    Args:
        result: The audit.

    Returns:
        The sentences.
    """
    plain, *remedies = result.networks
    found = []
    if plain.pan is None:
        return [plain.missing.get("pan", "")]
    for network in remedies:
        title = _EXPLAINED[network.kind]
        if network.pan is None:
            title = TITLES[network.kind]
            found.append(f"{title}: missing, {network.missing.get('pan', 'not measured')}.")
            continue
        text = f"{title}: {_per_hundred(network.pan.changes)} times in 100"
        if plain.pan.jitter and network.pan.jitter and plain.pan.jitter.value:
            share = network.pan.jitter.value / plain.pan.jitter.value
            text += f"; its probabilities move {share:.2f} times as much"
        if network.kind == "converted" and network.verdict in ("exact", "to rounding"):
            text += (
                ". What it promises is another thing: around the circle, where nothing new comes "
                "into view, its answer never changes"
            )
        found.append(text + ".")
    return found


@dataclass(frozen=True)
class Column:
    """A column of the summary.

    Attributes:
        title: Its heading.
        hint: What was done, in plain words.
        cells: One per network.
    """

    title: str
    hint: str
    cells: tuple[Cell, ...]


def _why(network: NetworkAudit, name: str) -> str:
    return network.missing.get(name, "")


def summary(result: AuditResult) -> list[Column]:
    """The table that comes first.

    Args:
        result: The audit.

    Returns:
        Its columns.
    """
    networks: Sequence[NetworkAudit] = result.networks

    def of_pan(network: NetworkAudit, name: str) -> RateResult | None:
        return None if network.pan is None else getattr(network.pan, name)

    frames = next((n.pan.num_frames for n in networks if n.pan is not None), 9)
    pan = f"the window moves right, 1 pixel per frame, {frames} frames"
    return [
        Column(
            "Answer changes per one-pixel move",
            pan,
            tuple(
                rate_cell(of_pan(n, "changes"), "moves", n.missing.get("pan", "")) for n in networks
            ),
        ),
        Column(
            "Pictures whose answer changes at all",
            pan,
            tuple(rate_cell(of_pan(n, "pictures"), "pictures", _why(n, "pan")) for n in networks),
        ),
        Column(
            "Probability that moves per pixel",
            f"jitter: mean total variation distance; {pan}",
            tuple(
                mean_cell(
                    None if n.pan is None else n.pan.jitter,
                    "pictures",
                    _why(n, "pan") or "no picture has an answer to every frame",
                )
                for n in networks
            ),
        ),
        Column(
            "Right answers",
            "top-1, the middle of each picture",
            tuple(
                rate_cell(n.accuracy, "pictures", n.missing.get("accuracy", "")) for n in networks
            ),
        ),
        Column(
            "Same answer around the circle",
            "what leaves the picture on one side comes back on the other",
            tuple(map(circular_cell, networks)),
        ),
        Column(
            "Time of an answer",
            "ratio of medians to the network as it is",
            tuple(cost_cell(n.cost, _why(n, "cost")) for n in networks),
        ),
    ]
