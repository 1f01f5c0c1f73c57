"""Make networks shift invariant that somebody else has built and trained."""

from shiftproof.conversion.convert import Conversion, convert
from shiftproof.conversion.recalibrate import recalibrate
from shiftproof.conversion.refusal import ConversionError
from shiftproof.conversion.summary import Alignment, ConversionSummary, PaddingChange

__all__ = [
    "Alignment",
    "Conversion",
    "ConversionError",
    "ConversionSummary",
    "PaddingChange",
    "convert",
    "recalibrate",
]
