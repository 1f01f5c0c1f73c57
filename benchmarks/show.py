"""Numbers as text, for the terminal and for the page."""

from benchmarks.bars import Verdict
from benchmarks.measured import Measured, Report, Row, Spread

VERDICT_COLUMNS = ("what", "measured", "quartiles", "bar", "")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.{0 if seconds >= 1 else 1 if seconds >= 0.01 else 3}f}"


def factor(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def size(count: int) -> str:
    return f"{count / 2**20:,.1f}"


def columns(entry: Measured) -> list[str]:
    """Headings of the table of an entry: only what was measured."""
    shown = ["candidate", "layout", "time / baseline", "ms"]
    if entry.floor_bytes is not None:
        shown.append("time / floor")
    if entry.images is not None:
        shown.append("images/s")
    if any(row.peak_bytes is not None for row in entry.rows):
        shown.append("peak MiB")
    if any(row.error is not None for row in entry.rows):
        shown.append("error")
    if has_compiled(entry):
        shown.append("compile s")
    return shown


def title(entry: Measured) -> str:
    return f"{entry.what[0].upper()}{entry.what[1:]}. Baseline: {entry.baseline}."


def has_compiled(entry: Measured) -> bool:
    return any("compiled" in row.group for row in entry.rows)


def cells(entry: Measured, row: Row) -> list[str]:
    """One line of the table; the best layout of each formulation is marked."""
    mark = " *" if row.variant and row is entry.best(row.group) else ""
    shown = [row.group, row.variant + mark, factor(row.over(entry.best(entry.baseline)))]
    shown.append(milliseconds(row.median))
    floor = entry.floor_ratio(row)
    optional = {
        "time / floor": "" if floor is None else f"{floor.median:.2f}",
        "images/s": "" if entry.images is None else f"{entry.images / row.median:,.0f}",
        "peak MiB": "" if row.peak_bytes is None else size(row.peak_bytes),
        "error": "" if row.error is None else f"{row.error:.2g}",
        "compile s": f"{row.compile_seconds:.0f}" if "compiled" in row.group else "",
    }
    headings = columns(entry)
    return shown + [text for heading, text in optional.items() if heading in headings]


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def verdict_cells(verdict: Verdict) -> list[str]:
    spread, bar = verdict.spread, verdict.bar
    return [
        bar.what,
        _ratio(spread.median),
        f"{_ratio(spread.low)} to {_ratio(spread.high)}",
        bar.demand,
        "met" if verdict.met else "missed",
    ]


def machine(report: Report) -> str:
    """One paragraph: what produced the numbers."""
    environment = report.environment
    versions = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    return (
        f"{report.date}, {environment.device} ({report.cpu}), {environment.num_threads} threads, "
        f"Python {environment.python}, {versions}; allocator: {report.allocator}"
    )
