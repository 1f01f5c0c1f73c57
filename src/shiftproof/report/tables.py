"""Tables of results, for a terminal and for a page."""

from collections.abc import Sequence

from shiftproof.extras import require
from shiftproof.results import RateResult, RunResult, consistency_name

DEMO_COLUMNS = (
    "network",
    "parameters",
    "top-1",
    "consistency (circular)",
    "worst-shift accuracy",
    "seconds / epoch",
)


def _share(rate: RateResult) -> str:
    return f"{rate.percent:.2f} %"


def demo_rows(results: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """The demonstration's comparison as text.

    Args:
        results: What its networks achieved.

    Returns:
        One row per network, in the order of ``DEMO_COLUMNS``.
    """
    return [
        (
            result.model,
            f"{result.num_parameters:,}",
            _share(result.rates["test top-1"]),
            _share(result.rates[f"test {consistency_name('circular')}"]),
            _share(result.rates["test worst-shift accuracy"]),
            f"{result.values['seconds per epoch']:.1f}",
        )
        for result in results
    ]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right.

    Args:
        columns: Headings.
        rows: Cells.

    Returns:
        The text, with a line break at the end.
    """
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (columns, rule, *rows))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table.

    Args:
        columns: Headings.
        rows: Cells.

    Raises:
        RuntimeError: If rich is not installed.
    """
    table = require("rich.table", extra="train").Table(
        box=require("rich.box", extra="train").SIMPLE
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = require("rich.console", extra="train").Console
    # A pipe has no width; a table that is cut there would lose numbers.
    wide = console(width=10_000)
    width = None if wide.is_terminal else max(140, wide.measure(table).maximum)
    console(width=width).print(table)
