"""Real motion: what helps a network that people already have while a camera moves."""

from shiftproof.motion.crop import LockedCrop, locked
from shiftproof.motion.estimate import MotionEstimate, estimate_motion
from shiftproof.motion.files import FileLock, lock_file
from shiftproof.motion.lock import LockedModel, LockSummary, lock_grid
from shiftproof.motion.video import VideoLock
from shiftproof.nn.grid import grid_offset, locate_grid

__all__ = [
    "FileLock",
    "LockSummary",
    "LockedCrop",
    "LockedModel",
    "MotionEstimate",
    "VideoLock",
    "estimate_motion",
    "grid_offset",
    "locate_grid",
    "lock_file",
    "lock_grid",
    "locked",
]
