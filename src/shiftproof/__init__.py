"""Convolutional networks that are exactly shift invariant."""

from shiftproof import metrics, models, motion, nn, ops
from shiftproof.certification import Certificate, assert_invariant, certified_radius, certify
from shiftproof.conversion import (
    Conversion,
    ConversionError,
    ConversionPlan,
    apply_plan,
    call_with_offset,
    convert,
    recalibrate,
)
from shiftproof.models import create_model, list_models, load_published, valid_sizes
from shiftproof.motion import LockedModel, lock_grid

__version__ = "0.1.0"

__all__ = [
    "Certificate",
    "Conversion",
    "ConversionError",
    "ConversionPlan",
    "LockedModel",
    "apply_plan",
    "assert_invariant",
    "call_with_offset",
    "certified_radius",
    "certify",
    "convert",
    "create_model",
    "list_models",
    "load_published",
    "lock_grid",
    "metrics",
    "models",
    "motion",
    "nn",
    "ops",
    "recalibrate",
    "valid_sizes",
]
