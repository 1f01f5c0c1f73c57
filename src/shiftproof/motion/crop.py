"""A central crop whose place the content fixes: in the place of Resize and CenterCrop."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shiftproof.extras import require
from shiftproof.nn.grid import GridView, locate_grid
from shiftproof.ops.phases import constants, per_axis
from shiftproof.ops.resample import KERNELS, Kernel, in_dtype, resample


class LockedCrop(nn.Module):
    """Resize and CenterCrop in one resampling, with the window where the content fixes the grid.

    The frame is scaled so that its shorter side has ``resize_size`` pixels, and a window of
    ``size`` is cut from it, at most half a stride from the middle, at a fraction of a pixel.  Frame
    and window meet in one antialiased resampling, so that nothing is softened that the plain
    transform keeps.  Where the frame leaves no room for the window its edge is reflected.

    Put it in the place of ``Resize(resize_size)`` and ``CenterCrop(size)`` of torchvision, see
    ``locked``.

    Args:
        size: Height and width of the result in pixels, one number for both.
        stride: Total stride of the network, in pixels of the result.
        resize_size: Shorter side of the scaled frame, or its height and width; the size and one
            stride if None.
        interpolation: ``"bicubic"`` or ``"bilinear"``, both antialiased, or torchvision's
            ``InterpolationMode`` of that name.
        selector: What the content is, see ``locate_grid``.

    Raises:
        ValueError: If a size or stride is below 1, or the interpolation is another.

    Equivariance:
        Approximate: measured in docs/guide/motion.md.  Checked by ``tests/motion/test_crop.py``.

    Examples:
        >>> crop = LockedCrop(224, stride=32)
        >>> crop(torch.rand(3, 300, 400)).shape
        torch.Size([3, 224, 224])
    """

    def __init__(
        self,
        size: int | Sequence[int],
        stride: int | Sequence[int],
        *,
        resize_size: int | Sequence[int] | None = None,
        interpolation: Any = "bicubic",
        selector: nn.Module | None = None,
    ) -> None:
        super().__init__()
        size = size[0] if not isinstance(size, int) and len(size) == 1 else size
        self.size = per_axis("LockedCrop", size, 2)
        self.stride = per_axis("LockedCrop", stride, 2)
        if any(period > count for period, count in zip(self.stride, self.size, strict=True)):
            raise ValueError(
                f"LockedCrop: the stride must not be larger than the window of {self.size}, got "
                f"{self.stride}; lock_grid(model, images).summary.stride finds it"
            )
        if resize_size is None:
            resize_size = min(self.size) + max(self.stride)
        elif not isinstance(resize_size, int) and len(resize_size) == 1:
            resize_size = resize_size[0]
        self.resize_size: int | tuple[int, ...] = (
            resize_size if isinstance(resize_size, int) else tuple(resize_size)
        )
        mode = getattr(interpolation, "value", interpolation)  # torchvision has an enumeration
        if mode not in KERNELS:
            raise ValueError(
                f"LockedCrop: interpolation must be one of {', '.join(KERNELS)}, got "
                f"{mode!r}; both are antialiased"
            )
        self.interpolation: Kernel = mode
        self.selector = selector

    def look(self, frame: Any) -> GridView:
        """What the offset is found on.

        Args:
            frame: A PIL image, or tensor ``(..., C, H, W)``.

        Returns:
            The grey window and a stride around it, as far as there is a frame: images of shape
            ``(N, 1, *spatial)``.

        Raises:
            TypeError: If the frame is neither.
        """
        return self._view(self._part(frame, 0.5))

    def offset(self, frame: Any) -> Tensor:
        """By how much the window is moved from the middle, in pixels of the result.

        Args:
            frame: A PIL image, or tensor ``(..., C, H, W)``.

        Returns:
            ``(N, 2)`` pixels in (-S/2, S/2]; one row for a frame without batch axis.
        """
        return self._offset(self._part(frame, 0.5))

    def _part(self, frame: Any, strides: float) -> _Part:
        """The pixels that a window reads which is moved by at most so many strides."""
        sizes = _sizes(frame)
        if isinstance(self.resize_size, int):
            step = [min(sizes) / self.resize_size] * 2
        else:
            step = [n / r for n, r in zip(sizes, self.resize_size, strict=True)]
        most = [n + 2 * strides * s for n, s in zip(self.size, self.stride, strict=True)]
        reach = [m * s / 2 + 3 * max(s, 1.0) for m, s in zip(most, step, strict=True)]
        low = [max(0, math.floor(n / 2 - r)) for n, r in zip(sizes, reach, strict=True)]
        high = [min(n, math.ceil(n / 2 + r)) for n, r in zip(sizes, reach, strict=True)]
        before = [n / 2 - first for n, first in zip(sizes, low, strict=True)]
        scaled = [n / s for n, s in zip(sizes, step, strict=True)]
        return _Part(_as_batch(frame, low, high), before, step, scaled)

    def _view(self, part: _Part) -> GridView:
        # What is looked at: the window and a stride around it, as far as there is a frame.
        most = [count + period for count, period in zip(self.size, self.stride, strict=True)]
        view = [min(m, int(n)) for m, n in zip(most, part.scaled, strict=True)]
        origin = tuple((v - n) / 2 for v, n in zip(view, self.size, strict=True))
        room = tuple((n - m) / 2 for n, m in zip(part.scaled, most, strict=True))
        x = part.batch.x
        scale, middle, seen = (constants(v, part.like) for v in (part.step, part.before, view))
        corner = (middle - seen * scale / 2).expand(len(x), 2)
        grey = x.mean(1, keepdim=True)
        return GridView(resample(grey, corner, part.step, view, "bilinear"), origin, room)

    def _offset(self, part: _Part) -> Tensor:
        view = self._view(part)
        offset = locate_grid(view.images, self.stride, self.selector, origin=view.origin).offset
        return offset.to(part.like)

    def forward(self, frame: Any, offset: Tensor | None = None) -> Any:
        """Cut the window.

        Args:
            frame: A PIL image, or tensor ``(..., C, H, W)`` of any dtype.
            offset: By how much the window is moved, ``(N, 2)`` pixels of the result, at most a
                stride; ``offset(frame)`` if None.

        Returns:
            The window: a PIL image of the mode of the frame, or a tensor ``(..., C, *size)`` of its
            dtype.

        Raises:
            TypeError: If the frame is neither.
        """
        part = self._part(frame, 0.5 if offset is None else 1.0)
        offset = self._offset(part) if offset is None else offset.to(part.like)
        scale, middle, taken = (
            constants(v, part.like) for v in (part.step, part.before, self.size)
        )
        corner = middle + (offset - taken / 2) * scale
        batch = part.batch
        return batch.restore(resample(batch.x, corner, part.step, self.size, self.interpolation))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"size={self.size}, stride={self.stride}, resize_size={self.resize_size}, "
            f"interpolation={self.interpolation!r}"
        )


class _Batch(NamedTuple):
    """A part of a frame, as floating-point images, and the way back."""

    x: Tensor
    restore: Callable[[Tensor], Any]


class _Part(NamedTuple):
    """The pixels of a frame that are read, and where they lie.

    Attributes:
        batch: The pixels.
        before: Pixels before the middle of the frame, per axis.
        step: Pixels of the frame per pixel of the result, per axis.
        scaled: Size of the frame in pixels of the result, per axis.
    """

    batch: _Batch
    before: list[float]
    step: list[float]
    scaled: list[float]

    @property
    def like(self) -> Tensor:
        """Gives dtype and device to what is computed of places."""
        return torch.empty(0, dtype=torch.float32, device=self.batch.x.device)


def _sizes(frame: Any) -> list[int]:
    """Height and width of what is a frame; nothing else passes."""
    if isinstance(frame, Tensor):
        if type(frame).__name__ in ("BoundingBoxes", "KeyPoints", "Mask"):
            raise TypeError(
                f"LockedCrop: a frame must be an image, got {type(frame).__name__}; give the image "
                "alone"
            )
        if frame.ndim < 3:
            raise ValueError(
                f"LockedCrop: frames must be (..., C, H, W), got shape {tuple(frame.shape)}; add "
                "the channel axis"
            )
        return list(frame.shape[-2:])
    if not isinstance(frame, require("PIL.Image", extra="train").Image):
        raise TypeError(
            f"LockedCrop: a frame must be a PIL image or a tensor, got {type(frame).__name__}; "
            "convert it"
        )
    if frame.mode not in ("L", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise ValueError(
            f"LockedCrop: a PIL image must have bytes in its channels, got mode {frame.mode}; call "
            "image.convert('RGB')"
        )
    return [frame.height, frame.width]


def _as_batch(frame: Any, low: Sequence[int], high: Sequence[int]) -> _Batch:
    """The pixels of a frame between two corners."""
    if isinstance(frame, Tensor):
        kind, batch, dtype = type(frame), frame.shape[:-3], frame.dtype
        x = frame.as_subclass(Tensor)[..., low[0] : high[0], low[1] : high[1]]
        x = x if x.is_floating_point() else x.to(torch.float32)

        def restore(x: Tensor) -> Tensor:
            return in_dtype(x, dtype).reshape(*batch, *x.shape[1:]).as_subclass(kind)

        return _Batch(x.reshape(-1, *x.shape[-3:]), restore)
    image, numpy = require("PIL.Image", extra="train"), require("numpy", extra="train")
    pixels = torch.from_numpy(numpy.array(frame.crop((low[1], low[0], high[1], high[0]))))
    channels_first = pixels.reshape(*pixels.shape[:2], -1).permute(2, 0, 1)[None]

    def to_image(x: Tensor) -> Any:
        found = in_dtype(x[0], torch.uint8).permute(1, 2, 0)
        found = found[..., 0] if found.shape[-1] == 1 else found
        return image.fromarray(found.contiguous().numpy(), mode=frame.mode)

    return _Batch(channels_first.contiguous().to(torch.float32), to_image)


def locked(transforms: Any, stride: int | Sequence[int], selector: nn.Module | None = None) -> Any:
    """The transforms of a network, with a lock in the place of Resize and CenterCrop.

    Args:
        transforms: What ``weights.transforms()`` of torchvision gives for classification, or
            ``timm.data.create_transform`` for evaluation, or any ``Compose`` in which a
            ``CenterCrop`` follows a ``Resize``.
        stride: Total stride of the network, in pixels.
        selector: What the content is, see ``locate_grid``.

    Returns:
        Transforms that take what the given ones take and give what they give.

    Raises:
        ValueError: If there is no Resize that a CenterCrop follows.
    """
    compose = require("torchvision.transforms.v2", extra="train").Compose
    if all(hasattr(transforms, name) for name in ("crop_size", "resize_size", "antialias")):
        rest = copy.copy(transforms)  # which finds the frame cut already, and leaves it so
        rest.resize_size = rest.crop_size
        return compose([_crop_of(transforms, transforms, stride, selector), rest])
    steps = list(getattr(transforms, "transforms", [transforms]))
    for index, (first, second) in enumerate(itertools.pairwise(steps)):
        if type(first).__name__ == "Resize" and type(second).__name__ == "CenterCrop":
            crop = _crop_of(first, second, stride, selector)
            return compose([*steps[:index], crop, *steps[index + 2 :]])
    raise ValueError(
        "locked: transforms must hold a Resize that a CenterCrop follows, got "
        f"{' '.join(type(step).__name__ for step in steps)}; put motion.LockedCrop where the image "
        "is cut"
    )


def _crop_of(resize: Any, crop: Any, stride: int | Sequence[int], selector: Any) -> LockedCrop:
    size = getattr(crop, "crop_size", None) or crop.size
    scaled = getattr(resize, "resize_size", None) or resize.size
    mode = resize.interpolation
    if getattr(resize, "antialias", True) is False:
        raise ValueError(
            "locked: the resizing must be antialiased, since what aliases does not move with the "
            "content, got antialias=False; pass antialias=True"
        )
    locked_crop = LockedCrop(
        size, stride, resize_size=scaled, interpolation=mode, selector=selector
    )
    if isinstance(locked_crop.resize_size, int):
        room = locked_crop.resize_size - min(locked_crop.size)
        if room < max(locked_crop.stride):
            warnings.warn(
                f"locked: frames leave {room} pixels of room around the window for moves of up to "
                f"{max(locked_crop.stride) // 2}; where there is none the edge is reflected, and "
                "the lock helps less",
                stacklevel=3,
            )
    return locked_crop
