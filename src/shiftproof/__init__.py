"""Convolutional networks that are exactly shift invariant."""

from shiftproof import metrics, models, nn, ops
from shiftproof.certification import Certificate, assert_invariant, certify
from shiftproof.conversion import (
    Conversion,
    ConversionError,
    ConversionPlan,
    apply_plan,
    convert,
    recalibrate,
)
from shiftproof.models import create_model, list_models, load_published, valid_sizes

__version__ = "0.1.0"

__all__ = [
    "Certificate",
    "Conversion",
    "ConversionError",
    "ConversionPlan",
    "apply_plan",
    "assert_invariant",
    "certify",
    "convert",
    "create_model",
    "list_models",
    "load_published",
    "metrics",
    "models",
    "nn",
    "ops",
    "recalibrate",
    "valid_sizes",
]
