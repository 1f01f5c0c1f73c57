"""Real motion: what helps a network that people already have while a camera moves."""

from shiftproof.motion.crop import LockedCrop, locked
from shiftproof.motion.files import FileLock, lock_file
from shiftproof.motion.lock import LockedModel, LockSummary, lock_grid
from shiftproof.nn.grid import grid_offset, locate_grid

__all__ = [
    "FileLock",
    "LockSummary",
    "LockedCrop",
    "LockedModel",
    "grid_offset",
    "locate_grid",
    "lock_file",
    "lock_grid",
    "locked",
]
