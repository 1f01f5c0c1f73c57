"""Class folders of image files: listing them, reading a file, and how many may be broken."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shiftproof.extras import require


def list_classes(operation: str, root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Names of the class folders.

    Args:
        operation: Name of the caller, for the error message.
        root: Folder of class folders.

    Returns:
        The names, sorted.

    Raises:
        RuntimeError: If there is no such folder, or no folder in it.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise RuntimeError(
            f"{operation}: the folder must exist, got {root}; "
            "pass a folder with one subfolder of images per class"
        )
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    if not classes:
        raise RuntimeError(
            f"{operation}: the folder must hold one subfolder of images per class, "
            f"got none in {root}; move each image into the folder of its class"
        )
    return classes


def list_images(
    operation: str, root: str | os.PathLike[str]
) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """List the image files of all classes, as torchvision's ``ImageFolder`` does.

    Args:
        operation: Name of the caller, for the error message.
        root: Folder of class folders.

    Returns:
        The class names, sorted, and (path, class number) of each image, sorted by both.

    Raises:
        RuntimeError: If the folder is missing, has no class folders, or a class has no image.
    """
    classes = list_classes(operation, root)
    datasets = require("torchvision.datasets", extra="train")
    samples = datasets.ImageFolder(Path(root).expanduser(), allow_empty=True).samples
    filled = {number for _, number in samples}
    empty = [name for number, name in enumerate(classes) if number not in filled]
    if empty:
        raise RuntimeError(
            f"{operation}: each class must have an image, got none for "
            f"{', '.join(empty[:5])}{', ...' if empty[5:] else ''} in {root}; "
            "add images or remove the folder"
        )
    return classes, samples


def read_image(path: str, *, mode: str | None = None) -> Any:
    """Decode an image file.

    Args:
        path: The file.
        mode: Pillow mode to convert to, for instance ``"RGB"``; the file's own by default.

    Returns:
        A Pillow image, or ``None`` if the file is missing, truncated or not an image.
    """
    pillow = require("PIL.Image", extra="train")
    try:
        with pillow.open(path) as image:
            image.load()
            return image.convert(mode) if mode else image.copy()
    except MemoryError:
        raise
    except Exception:  # Pillow's decoders raise what broken bytes happen to trip over.
        return None


def default_max_unreadable(num_images: int) -> int:
    """How many broken files are tolerated: one in a hundred, rounded up.

    Args:
        num_images: Images in the data set.

    Returns:
        The largest number that is not an error.
    """
    return math.ceil(num_images / 100)


def check_unreadable(operation: str, unreadable: Sequence[str], max_unreadable: int) -> None:
    """Stop when too many files are broken.

    Args:
        operation: Name of the caller, for the error message.
        unreadable: Files that could not be read.
        max_unreadable: Largest number that is not an error.

    Raises:
        RuntimeError: If there are more.
    """
    if len(unreadable) > max_unreadable:
        raise RuntimeError(
            f"{operation}: at most {max_unreadable} images may be unreadable, got "
            f"{len(unreadable)}: {', '.join(unreadable[:3])}{', ...' if unreadable[3:] else ''}; "
            "replace or delete these files"
        )
