"""The images that networks are evaluated on: CIFAR-10, ImageNet, or any class folders."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from shiftproof.audit.labels import match_labels
from shiftproof.data.cifar10 import load_cifar10
from shiftproof.data.folders import list_classes
from shiftproof.data.image_folder import ImageFiles
from shiftproof.data.in_memory import ImageTensors
from shiftproof.data.transforms import CenterCrop, Compose, Normalize
from shiftproof.extras import require

_BATCHES = "cifar-10-batches-py"


def is_cifar10(root: Path) -> bool:
    """Whether a folder is laid out as CIFAR-10: torchvision's files, or a folder ``test``.

    Args:
        root: The folder.

    Returns:
        Whether ``open_source`` reads the test images of CIFAR-10 from it.
    """
    return root.name == _BATCHES or (root / _BATCHES).is_dir() or (root / "test").is_dir()


def open_source(root: Path, *, frame: int, resize: int) -> ImageFiles | ImageTensors:
    """Open the images of a folder, at the size that a protocol takes.

    The test images of CIFAR-10, in memory, as they are; the images of ``root/val``, whose classes
    are those of ``root/train`` where that exists; or the class folders in ``root``.  Photographs
    are brought to ``resize`` pixels on their shorter side and cut from the middle, as the paper's
    ImageNet experiments do it.

    Args:
        root: The folder.
        frame: Height and width of the images, in pixels.
        resize: Shorter side of photographs before the window is cut; at least ``frame``.

    Returns:
        Images in [0, 1].

    Raises:
        RuntimeError: If there is no such folder, or it holds no images.
        ValueError: If the images of CIFAR-10 are smaller than the frame.
    """
    if not root.is_dir():
        raise RuntimeError(f"eval: the folder of images must exist, got {root}; check --data")
    if is_cifar10(root):
        return _of_size(_test_images(root), frame)
    classes = None
    if (root / "val").is_dir():
        if (root / "train").is_dir():
            classes = list_classes("eval", root / "train")
        root = root / "val"
    transforms = require("torchvision.transforms", extra="train")
    transform = transforms.Compose(
        [
            transforms.Resize(max(resize, frame)),
            transforms.CenterCrop(frame),
            transforms.ToTensor(),
        ]
    )
    return ImageFiles(root, transform, classes)


@functools.lru_cache(1)
def _test_images(root: Path) -> ImageTensors:
    """The same images for all networks, read once."""
    return load_cifar10(root, train=False, download=False)


def _of_size(images: ImageTensors, frame: int) -> ImageTensors:
    size = images.images.shape[-1]
    if frame > size:
        raise ValueError(
            f"eval: the network and its protocol must take images of CIFAR-10, got {frame} pixels "
            f"for images of {size}; pass --size, or a protocol without larger images"
        )
    steps = [CenterCrop(frame)] if frame < size else []
    return images.with_transform(Compose((*steps, Normalize())))


def outputs_of(classes: tuple[str, ...], num_outputs: int, order: str) -> tuple[Tensor | None, str]:
    """The output of a network that stands for each class folder.

    Args:
        classes: Names of the folders, sorted.
        num_outputs: Number of outputs of the network.
        order: ``"auto"`` for WordNet ids where there are 1,000 outputs, and otherwise sorted order
            where there are as many outputs as folders; ``"sorted"`` for sorted order.

    Returns:
        The outputs, ``(num_folders,)`` int64, or None and the reason why they are unknown.

    Raises:
        ValueError: If there are more folders than outputs, in sorted order.
    """
    if order == "sorted":
        if len(classes) > num_outputs:
            raise ValueError(
                f"--classes sorted: the network must have an output for each class, got "
                f"{num_outputs} for {len(classes)} folders; remove folders"
            )
        return torch.arange(len(classes)), ""
    labels = match_labels(classes, num_outputs)
    if labels.indices is None:
        return None, labels.reason
    return torch.tensor(labels.indices, dtype=torch.int64), ""
