"""Whether a model is shift invariant, and if not, which layer breaks it."""

from shiftproof.certification.certificate import Blame, Certificate, Choice, Measurement
from shiftproof.certification.certify import assert_invariant, certify

__all__ = ["Blame", "Certificate", "Choice", "Measurement", "assert_invariant", "certify"]
