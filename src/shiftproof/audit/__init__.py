"""What a shift does to one network, or to several side by side, measured for a report."""

from shiftproof.audit.labels import Labels, match_labels
from shiftproof.audit.subjects import Subject, load_subject

__all__ = ["Labels", "Subject", "load_subject", "match_labels"]
