"""A lock for frames in sequence: the grid stays with the scene by the motion between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shiftproof.motion.crop import LockedCrop
from shiftproof.motion.estimate import Folding
from shiftproof.nn.grid import GridLock2d, locate_grid
from shiftproof.ops.overrides import is_jit_tracing

_CUT = 0.35
"""Agreement with the frame before, below which a frame is of another scene."""

_STALE = 0.9
"""Share of the agreement at first, below which a frame is compared with the key no longer."""


class _Held(NamedTuple):
    """What is known after a frame.

    Attributes:
        folding: Folds the frames.
        key: Spectrum of the frame that the next ones are compared with.
        base: Offset that belongs to it, per axis.
        level: How well the frame after it agreed with it; None if there was none yet.
        last: Spectrum of the last frame.
        offset: Its offset, per axis.
    """

    folding: Folding
    key: Tensor
    base: tuple[float, ...]
    level: float | None
    last: Tensor
    offset: tuple[float, ...]


def _compared(folding: Folding, before: Tensor, after: Tensor) -> tuple[list[float], float]:
    """The motion between two frames and their agreement, on the host."""
    estimate = folding.compare(before.to(after), after)
    *motion, agreement = torch.cat([estimate.motion[0], estimate.agreement]).tolist()
    return motion, agreement


def _folded(place: float, period: int) -> float:
    return period / 2 - (period / 2 - place) % period


class VideoLock(nn.Module):
    """A lock that follows the scene of one stream of frames, in the place of a lock that does not.

    The first frame is placed by its content, as the lock itself does.  From then on the offset
    moves by what the content moved, modulo the stride (see ``estimate_motion``), so that the grid
    stays on the same content, whatever comes into sight, and rests while the camera stands still.
    Motion is measured from a key frame, so that errors hardly add up: the last frame becomes the
    key when a frame agrees with the key by less than .9 of what the first one after it did.  A
    frame that agrees with the last one by less than .35 is of another scene, and is placed by its
    content; where no two frames in a row agree, as in noise alone, the window stays.

    The window passes half a stride by one pixel before it takes the place a stride further back, or
    by up to a quarter of a stride where the frame has room, so that it does not go back and forth.

    It does what its lock does and takes its place: in a ``Compose``, in front of a network or of
    a file, and as ``lock`` of a ``LockedModel``: ``locked.lock = VideoLock(locked.lock)``.

    State is in the object alone, not in its ``state_dict``; every stream needs an object of its
    own.  Every frame waits for its device once or twice.

    Args:
        lock: A ``LockedCrop`` or ``GridLock2d``; its offset is not asked for while it is followed.

    Raises:
        TypeError: If the lock is another.

    Equivariance:
        Approximate: measured in docs/guide/motion.md.  Checked by ``tests/motion/test_video.py``.

    Examples:
        >>> video = VideoLock(LockedCrop(224, stride=32))
        >>> for frame in torch.rand(3, 3, 300, 400):
        ...     window = video(frame)
        >>> window.shape
        torch.Size([3, 224, 224])
        >>> video.reset()  # before another video
    """

    def __init__(self, lock: LockedCrop | GridLock2d) -> None:
        super().__init__()
        if not isinstance(lock, LockedCrop | GridLock2d):
            raise TypeError(
                f"VideoLock: lock must be a LockedCrop or a GridLock2d, got {type(lock).__name__}; "
                "a LockedModel has one in its attribute lock"
            )
        self.lock = lock
        self._held: _Held | None = None

    @property
    def stride(self) -> tuple[int, ...]:
        """Pixels modulo which the grid is held, per axis."""
        return self.lock.stride

    @property
    def interpolation(self) -> Any:
        """How windows are read: that of the lock."""
        return self.lock.interpolation

    def reset(self) -> None:
        """Forget the stream: the next frame is placed by its content."""
        self._held = None

    @torch.no_grad()
    def offset(self, frames: Any) -> Tensor:
        """Go on by one frame or several, and say where their windows lie.

        Args:
            frames: What the lock takes: one frame, or a tensor ``(T, C, H, W)`` of frames in order.

        Returns:
            By how much each window is moved from the middle, ``(T, 2)`` pixels of the network's
            scale, at most half a stride and a quarter.

        Raises:
            ValueError: If the frames have other axes, or another size than the frames before.
            RuntimeError: If the call is exported or traced, which would lose the state.
        """
        if torch.compiler.is_exporting() or is_jit_tracing():
            raise RuntimeError(
                "VideoLock: a lock with state must stay outside of exported programs, got a call "
                "that is exported; export the network, and put the lock in front of it"
            )
        if isinstance(frames, Tensor) and frames.ndim > 4:
            raise ValueError(
                "VideoLock: frames must be (C, H, W) or (T, C, H, W) in order, got shape "
                f"{tuple(frames.shape)}; make one VideoLock for each stream"
            )
        view = self.lock.look(frames)
        sizes = tuple(view.images.shape[2:])
        held, found = self._held, []
        if held is not None and held.folding.sizes != sizes:
            raise ValueError(
                "VideoLock: frames of a stream must have one size, got "
                f"{'x'.join(map(str, sizes))} after {'x'.join(map(str, held.folding.sizes))} "
                "pixels; call reset() before another stream"
            )
        folding = Folding(sizes, self.stride) if held is None else held.folding
        spectra = folding.spectra(view.images)
        for image, spectrum in zip(view.images[:, None], spectra[:, None], strict=True):
            after = None if held is None else self._followed(held, spectrum, view.room)
            if after is None:  # the first frame, or a cut
                at = locate_grid(image, self.stride, self.lock.selector, origin=view.origin).offset
                place = tuple(at[0].tolist())
                after = _Held(folding, spectrum, place, None, spectrum, place)
            held = after
            found.append(held.offset)
        self._held = held
        images = view.images
        dtype = torch.promote_types(images.dtype, torch.float32)
        return torch.tensor(found, dtype=dtype, device=images.device).reshape(-1, 2)

    def _followed(self, held: _Held, spectrum: Tensor, room: tuple[float, ...]) -> _Held | None:
        """What is known after a frame of the same scene; None if it is of another."""
        motion, agreement = _compared(held.folding, held.key, spectrum)
        if held.level is None:
            if agreement < _CUT:  # where nothing agrees, as in noise alone, nothing moves
                return held._replace(key=spectrum, base=held.offset, last=spectrum)
            held = held._replace(level=agreement)
        elif agreement < _STALE * held.level:
            motion, agreement = _compared(held.folding, held.last, spectrum)
            held = held._replace(key=held.last, base=held.offset, level=agreement)
        if agreement < _CUT:
            return None
        offset = []
        for axis, stride in enumerate(self.stride):
            before = held.offset[axis]
            place = before + _folded(held.base[axis] + motion[axis] - before, stride)
            most = stride // 2 + max(1.0, min(room[axis], stride / 4))
            offset.append(_folded(place, stride) if abs(place) > most else place)
        return held._replace(last=spectrum, offset=tuple(offset))

    def forward(self, frames: Any, offset: Tensor | None = None) -> Any:
        """Cut the window of the next frame, or of several.

        Args:
            frames: What the lock takes: one frame, or a tensor ``(T, C, H, W)`` of frames in order.
            offset: What ``offset(frames)`` gave; if None it is computed, and the stream goes on.

        Returns:
            What the lock gives.

        Raises:
            ValueError: If the frames have other axes, or another size than the frames before.
            RuntimeError: If the call is exported or traced, which would lose the state.
        """
        return self.lock(frames, self.offset(frames) if offset is None else offset)
