"""From results to figures, tables and pages; nothing here computes with a network."""

from shiftproof.report.audit import audit_page
from shiftproof.report.figures import plot_accuracy_over_shifts, plot_history
from shiftproof.report.runs import runs_page
from shiftproof.report.tables import DEMO_COLUMNS, demo_rows, markdown_table, print_table

__all__ = [
    "DEMO_COLUMNS",
    "audit_page",
    "demo_rows",
    "markdown_table",
    "plot_accuracy_over_shifts",
    "plot_history",
    "print_table",
    "runs_page",
]
