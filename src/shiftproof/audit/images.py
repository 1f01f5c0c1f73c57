"""Photographs of a folder, brought to the scale of a network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftproof.data.folders import list_images, read_image
from shiftproof.extras import require

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files that are taken for images."""


@dataclass(frozen=True)
class Pictures:
    """Image files, and the folder of each.

    Attributes:
        paths: The files.
        folders: Names of the class folders, sorted; empty for images without classes.
        numbers: Which of the folders each image is in; empty for images without classes.
    """

    paths: tuple[str, ...]
    folders: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def spread(self, count: int | None) -> Pictures:
        """Some of the images, evenly spread over their order and so over their classes.

        Args:
            count: How many; all if None, or if there are fewer.

        Returns:
            The images.
        """
        if count is None or count >= len(self):
            return self
        chosen = [index * len(self) // count for index in range(count)]
        numbers = tuple(self.numbers[i] for i in chosen) if self.numbers else ()
        return Pictures(tuple(self.paths[i] for i in chosen), self.folders, numbers)


def list_pictures(operation: str, root: str | os.PathLike[str]) -> Pictures:
    """List the images of a folder: in class folders, or flat.

    Hidden files and those that are no images are left out.

    Args:
        operation: Name of the caller, for error messages.
        root: Folder of class folders, or of images.

    Returns:
        The images, sorted by class and name.

    Raises:
        RuntimeError: If there is no such folder, or no image in it.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise RuntimeError(
            f"{operation}: the folder of images must exist, got {root}; check --data"
        )
    flat = sorted(
        str(path)
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if flat:
        return Pictures(tuple(flat))
    try:
        classes, samples, _ = list_images(operation, folder)
    except RuntimeError as error:
        if "must hold one subfolder" not in str(error):
            raise
        raise RuntimeError(
            f"{operation}: the folder must hold images, or class folders of images, got none in "
            f"{root}; pass another folder to --data"
        ) from error
    return Pictures(
        tuple(path for path, _ in samples), classes, tuple(number for _, number in samples)
    )


@dataclass(frozen=True)
class Photograph:
    """A photograph that could be read.

    Attributes:
        path: Its file.
        pixels: RGB in [0, 1], ``(3, H, W)``, at the resolution of the file.
        number: Which of the class folders it is in; None without classes.
    """

    path: str
    pixels: Tensor
    number: int | None


def read_photographs(
    operation: str, pictures: Pictures
) -> tuple[list[Photograph], tuple[str, ...]]:
    """Read photographs, upright and in RGB; grey ones get three equal channels.

    Args:
        operation: Name of the caller, for error messages.
        pictures: The files.

    Returns:
        Those that can be read, and the files that cannot.

    Raises:
        RuntimeError: If none can be read, or the machine is at fault.
    """
    found, broken = [], []
    for index, path in enumerate(pictures.paths):
        image = read_image(path, mode="RGB")
        if image is None:
            broken.append(path)
            continue
        number = pictures.numbers[index] if pictures.numbers else None
        found.append(Photograph(path, _pixels(image), number))
    if not found:
        raise RuntimeError(
            f"{operation}: at least one image must be readable, got {len(broken)} that are not, "
            f"{broken[0]} first; pass another folder to --data"
        )
    return found, tuple(broken)


def _pixels(image: Any) -> Tensor:
    values = torch.from_numpy(require("numpy", extra="train").array(image))
    return values.permute(2, 0, 1).float() / 255


def central_square(pixels: Tensor, resize_size: int, size: int) -> Tensor:
    """A square from the middle, of whole numbers over 255, after one antialiased resampling.

    Args:
        pixels: RGB in [0, 1], ``(3, H, W)``.
        resize_size: Length that the shorter side is brought to, in pixels.
        size: Height and width of the square, at most ``resize_size``.

    Returns:
        The square, ``(3, size, size)``.
    """
    shorter = min(pixels.shape[1:])
    sizes = [max(size, round(n * resize_size / shorter)) for n in pixels.shape[1:]]
    resized = torch.nn.functional.interpolate(
        pixels[None], sizes, mode="bicubic", antialias=True, align_corners=False
    )[0]
    top, left = ((n - size) // 2 for n in resized.shape[1:])
    window = resized[:, top : top + size, left : left + size]
    return (255 * window).round().clamp(0, 255) / 255
