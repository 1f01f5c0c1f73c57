"""Real motion: what helps a network that people already have while a camera moves."""

from shiftproof.motion.crop import LockedCrop, locked
from shiftproof.motion.lock import LockedModel, LockSummary, lock_grid
from shiftproof.nn.grid import grid_offset, locate_grid

__all__ = [
    "LockSummary",
    "LockedCrop",
    "LockedModel",
    "grid_offset",
    "locate_grid",
    "lock_grid",
    "locked",
]
