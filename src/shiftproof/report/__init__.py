"""From results to figures and tables; nothing here computes with a network."""

from shiftproof.report.figures import plot_accuracy_over_shifts, plot_history
from shiftproof.report.tables import DEMO_COLUMNS, demo_rows, markdown_table, print_table

__all__ = [
    "DEMO_COLUMNS",
    "demo_rows",
    "markdown_table",
    "plot_accuracy_over_shifts",
    "plot_history",
    "print_table",
]
