"""CIFAR-10 from torchvision's files or from class folders."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftproof.data.folders import (
    check_unreadable,
    default_max_unreadable,
    list_classes,
    list_images,
    read_image,
)
from shiftproof.data.in_memory import ImageTensors
from shiftproof.extras import require

CIFAR10_MEAN = (0.49141738, 0.48219556, 0.44662726)
CIFAR10_STD = (0.24703224, 0.24348514, 0.26158786)
"""Statistics of the published experiments."""

_BATCHES = "cifar-10-batches-py"
_LAYOUTS = f"a folder with {_BATCHES}, or with train/<class>/* and test/<class>/*"
_NUM_THREADS = 4  # decoding small files waits for the disk as much as for the processor
_SIZE = 32


def load_cifar10(
    root: str | os.PathLike[str],
    *,
    train: bool,
    download: bool = True,
    max_unreadable: int | None = None,
) -> ImageTensors:
    """Read the training or the test images into memory.

    Args:
        root: Folder that holds ``cifar-10-batches-py``, that folder itself, or a folder that holds
            ``train/<class>/*`` and ``test/<class>/*``, images of 32 x 32.
        train: The training images instead of the test images.
        download: Whether to fetch ``cifar-10-batches-py`` into ``root`` if neither layout is there.
        max_unreadable: Files of the class folders that may be broken; by default one in a hundred,
            rounded up.

    Returns:
        The images, in the order of the files; broken ones are named in ``unreadable``,
        hidden ones, which do not count, in ``left_out``.

    Raises:
        RuntimeError: If neither layout is there and cannot be fetched, torchvision's files are
            damaged, a folder is missing, a class is empty, or too many files are broken.
        ValueError: If training and test have different classes, or an image is not 32 x 32 RGB.
    """
    root = Path(root).expanduser()
    if root.name == _BATCHES and root.is_dir():
        return _read_batches(root.parent, train)
    if (root / _BATCHES).is_dir():
        return _read_batches(root, train)
    if (root / "train").is_dir() or (root / "test").is_dir():
        return _read_class_folders(root, train, max_unreadable)
    if not download:
        raise RuntimeError(
            f"load_cifar10: the data set must be there, got {root} without it; pass {_LAYOUTS}"
        )
    _download(root)
    return _read_batches(root, train)


def paper_split(num_samples: int = 50_000, num_train: int = 45_000) -> tuple[Tensor, Tensor]:
    """Split the training images as the published experiments do.

    The order is NumPy's legacy ``seed(0)`` and ``shuffle(arange(num_samples))``, drawn without
    touching NumPy's global state.  It numbers images as ``cifar-10-batches-py`` does; class folders
    number them by class, so the same numbers are other images there.

    Args:
        num_samples: Images to split.
        num_train: Images to train on.

    Returns:
        Numbers of the images to train on and to validate on, int64.

    Raises:
        ValueError: If either part would be empty.
    """
    if not 0 < num_train < num_samples:
        raise ValueError(
            f"paper_split: num_train must be in [1, {num_samples - 1}], got {num_train}; "
            "leave images for training and for validation"
        )
    numpy = require("numpy", extra="train")
    order = numpy.arange(num_samples)
    numpy.random.RandomState(0).shuffle(order)
    indices = torch.from_numpy(order).to(torch.int64)
    return indices[:num_train], indices[num_train:]


def _download(root: Path) -> None:
    datasets = require("torchvision.datasets", extra="train")
    existed = root.exists()
    try:
        datasets.CIFAR10(root, download=True)
    except (OSError, RuntimeError) as error:
        if not existed:
            shutil.rmtree(root, ignore_errors=True)
        raise RuntimeError(
            f"load_cifar10: the data set must be there or be downloaded, got {root} without it "
            f"and no download ({error}); pass {_LAYOUTS}"
        ) from error


def _read_batches(root: Path, train: bool) -> ImageTensors:
    datasets = require("torchvision.datasets", extra="train")
    try:
        data = datasets.CIFAR10(root, train=train)
    except RuntimeError as error:
        raise RuntimeError(
            f"load_cifar10: all files must have their published MD5 sums, got others in "
            f"{root / _BATCHES}; delete the folder to have it downloaded again"
        ) from error
    return ImageTensors(
        images=torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(data.targets),
        classes=tuple(data.classes),
    )


def _read_class_folders(root: Path, train: bool, max_unreadable: int | None) -> ImageTensors:
    split, other = ("train", "test") if train else ("test", "train")
    classes, samples, left_out = list_images("load_cifar10", root / split)
    different = sorted(set(classes) ^ set(list_classes("load_cifar10", root / other)))
    if different:
        raise ValueError(
            "load_cifar10: train and test must have the same classes, got "
            f"{', '.join(different[:5])} in one of them only, under {root}; "
            "add or remove the folder"
        )
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        decoded = list(pool.map(_decode, [path for path, _ in samples]))
    readable = [number for number, image in enumerate(decoded) if image is not None]
    unreadable = tuple(
        path for (path, _), image in zip(samples, decoded, strict=True) if image is None
    )
    limit = default_max_unreadable(len(samples)) if max_unreadable is None else max_unreadable
    check_unreadable("load_cifar10", unreadable, limit)
    images = [image for image in decoded if image is not None]
    return ImageTensors(
        images=torch.stack(images)
        if images
        else torch.empty(0, 3, _SIZE, _SIZE, dtype=torch.uint8),
        labels=torch.tensor([samples[number][1] for number in readable], dtype=torch.int64),
        classes=classes,
        unreadable=unreadable,
        left_out=left_out,
    )


def _decode(path: str) -> Tensor | None:
    image: Any = read_image(path)
    if image is None:
        return None
    if image.mode != "RGB" or image.size != (_SIZE, _SIZE):
        raise ValueError(
            f"load_cifar10: images must be {_SIZE}x{_SIZE} RGB, got "
            f"{image.height}x{image.width} {image.mode} in {path}; resize or remove the file"
        )
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(_SIZE, _SIZE, 3).permute(2, 0, 1)
