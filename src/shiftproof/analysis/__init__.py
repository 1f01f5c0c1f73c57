"""What a network does to positions: its calls, where positions are, one rule per operation."""

from shiftproof.analysis.capture import capture
from shiftproof.analysis.errors import CaptureError, ConversionError, IndivisibleError
from shiftproof.analysis.findings import analyse

__all__ = ["CaptureError", "ConversionError", "IndivisibleError", "analyse", "capture"]
