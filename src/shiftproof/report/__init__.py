"""From results to figures and tables; nothing here computes with a network."""

from shiftproof.report.figures import plot_history

__all__ = ["plot_history"]
