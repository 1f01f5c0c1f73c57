"""Pure tensor functions: polyphase components, their scores, shifts and low-pass filters."""

from shiftproof.ops.fractional import fractional_shift
from shiftproof.ops.lowpass import binomial_kernel, lowpass
from shiftproof.ops.padding import pad
from shiftproof.ops.phases import phase_index, phase_offsets, shift_phase
from shiftproof.ops.polyphase import (
    align_phase,
    place_phase,
    polyphase_merge,
    polyphase_split,
    take_phase,
)
from shiftproof.ops.pooling import global_mean
from shiftproof.ops.scores import first_phase, largest_values, phase_scores, select_phase
from shiftproof.ops.shift import circular_shift, crop_shift, zero_fill_shift

__all__ = [
    "align_phase",
    "binomial_kernel",
    "circular_shift",
    "crop_shift",
    "first_phase",
    "fractional_shift",
    "global_mean",
    "largest_values",
    "lowpass",
    "pad",
    "phase_index",
    "phase_offsets",
    "phase_scores",
    "place_phase",
    "polyphase_merge",
    "polyphase_split",
    "select_phase",
    "shift_phase",
    "take_phase",
    "zero_fill_shift",
]
