"""One rule per operation: importing this package registers all of them."""

# ruff: noqa: F401
from shiftproof.analysis.rules import (
    alignment,
    contractions,
    elementwise,
    indexing,
    pads,
    reductions,
    reshaping,
    resizing,
    windows,
)
