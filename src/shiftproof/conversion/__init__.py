"""Make networks shift invariant that somebody else has built and trained."""

import warnings

from shiftproof.analysis import ConversionError
from shiftproof.conversion.apply import apply_plan, call_with_offset
from shiftproof.conversion.convert import Conversion, convert
from shiftproof.conversion.plan import Alignment, ConversionPlan, PaddingChange
from shiftproof.conversion.recalibrate import recalibrate

__all__ = [
    "Alignment",
    "Conversion",
    "ConversionError",
    "ConversionPlan",
    "PaddingChange",
    "apply_plan",
    "call_with_offset",
    "convert",
    "recalibrate",
]


def __getattr__(name: str) -> object:
    if name != "ConversionSummary":
        raise AttributeError(name)
    warnings.warn("ConversionSummary is now ConversionPlan", DeprecationWarning, stacklevel=2)
    return ConversionPlan
