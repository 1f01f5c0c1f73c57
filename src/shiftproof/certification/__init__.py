"""Whether a model is shift invariant, and if not, which layer breaks it."""

from shiftproof.certification.certificate import Blame, Certificate, Choice, Measurement
from shiftproof.certification.certify import assert_invariant, certify
from shiftproof.certification.radius import certified_radius

__all__ = [
    "Blame",
    "Certificate",
    "Choice",
    "Measurement",
    "assert_invariant",
    "certified_radius",
    "certify",
]
