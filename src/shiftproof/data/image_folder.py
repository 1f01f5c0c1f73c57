"""Photographs in class folders, decoded when they are needed: ImageNet and its like."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftproof.data.examples import Examples, ImageDataset
from shiftproof.data.folders import list_classes, list_images, read_image
from shiftproof.data.plan import Batch, mix_seed
from shiftproof.data.transforms import BatchTransform
from shiftproof.extras import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageFiles(ImageDataset):
    """Image files in one folder per class; ``dataset[batch]`` decodes and transforms a batch.

    A file that cannot be read is left out of its batch and named in ``Examples.unreadable``.
    Hidden files and folders, ``.ipynb_checkpoints`` for instance, are no images and no classes; the
    attribute ``left_out`` names them.  Unlike torchvision's ``ImageFolder``, photographs are turned
    upright as their EXIF orientation says.

    Args:
        root: Folder of class folders.
        transform: Makes a tensor ``(3, H, W)`` of a Pillow image; what it draws from torch's global
            generator follows from the batch's seed, and that generator is left as it was.
        classes: Classes that labels count, by default those of ``root``; a data set to validate on
            is given those of training, and may lack some.
        batch_transform: Applied to the stacked images.

    Raises:
        RuntimeError: If the folder is missing, has no class folders, or a class has no image; of a
            batch, if the machine cannot read an image that is not broken.
        ValueError: If a class folder is not one of ``classes``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Callable[[Any], Tensor],
        classes: Sequence[str] | None = None,
        *,
        batch_transform: BatchTransform | None = None,
    ) -> None:
        found, samples, self.left_out = list_images("ImageFiles", root)
        self.classes = found if classes is None else tuple(classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        unknown = [name for name in found if name not in numbers]
        if unknown:
            raise ValueError(
                f"ImageFiles: each class must be one of the {len(self.classes)} of training, got "
                f"{', '.join(unknown[:5])}{', ...' if unknown[5:] else ''} in {root}; "
                "remove the folder or train with it"
            )
        self.paths = [path for path, _ in samples]
        self.labels = torch.tensor([numbers[found[number]] for _, number in samples])
        self.transform = transform
        self.batch_transform = batch_transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, batch: Batch) -> Examples:
        images: list[Tensor] = []
        indices: list[int] = []
        unreadable: list[str] = []
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the accelerators too, which are not put back.
            torch.default_generator.manual_seed(batch.seed)
            for index in batch.indices:
                image = read_image(self.paths[index], mode="RGB")
                if image is None:
                    unreadable.append(self.paths[index])
                else:
                    images.append(self.transform(image))
                    indices.append(index)
            stacked = torch.stack(images) if images else self._no_images()
        if self.batch_transform is not None and images:
            # Another seed, or the shift of the batch would go with the flip of its first image.
            generator = torch.Generator().manual_seed(mix_seed(batch.seed, 1))
            stacked = self.batch_transform(stacked, generator)
        index_tensor = torch.tensor(indices, dtype=torch.int64)
        return Examples(stacked, self.labels[index_tensor], index_tensor, tuple(unreadable))

    def _no_images(self) -> Tensor:
        """An empty batch of the right image size."""
        blank = require("PIL.Image", extra="train").new("RGB", (64, 64))
        return self.transform(blank)[None][:0]


def imagenet_transform(
    train: bool, *, resize: int = 256, crop: int = 224
) -> Callable[[Any], Tensor]:
    """The transform of the paper's ImageNet experiments: no random resizing, for training either.

    Args:
        train: Whether to mirror each image left to right with probability one half.
        resize: Length that the shorter side is brought to, in pixels.
        crop: Height and width of the central window, in pixels.

    Returns:
        A torchvision transform from Pillow images to normalised ``(3, crop, crop)`` tensors.

    Raises:
        ValueError: If the window does not fit.
    """
    if not 1 <= crop <= resize:
        raise ValueError(
            f"imagenet_transform: crop must be in [1, resize={resize}], got {crop}; "
            "pass a smaller crop or a larger resize"
        )
    transforms = require("torchvision.transforms", extra="train")
    composed: Callable[[Any], Tensor] = transforms.Compose(
        [
            transforms.Resize(resize),
            transforms.CenterCrop(crop),
            *([transforms.RandomHorizontalFlip()] if train else []),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return composed


def open_imagenet(
    root: str | os.PathLike[str],
    *,
    train: bool = True,
    resize: int = 256,
    crop: int = 224,
    batch_transform: BatchTransform | None = None,
) -> tuple[ImageFiles | None, ImageFiles]:
    """Open ``root/train`` and ``root/val``.

    Args:
        root: Folder that holds both.
        train: Whether the training images are wanted.  If not, ``root/train`` may be missing; where
            it exists, its folders still number the classes.
        resize: Length that the shorter side is brought to, in pixels.
        crop: Height and width of the central window, in pixels.
        batch_transform: Applied to batches of training images.

    Returns:
        The training images, or ``None`` if they are not wanted, and the validation images.

    Raises:
        RuntimeError: If a folder is missing, has no class folders, or a class has no image.
        ValueError: If a class to validate on is unknown to training, or the window does not fit.
    """
    root = Path(root).expanduser()
    wanted = ("train", "val") if train else ("val",)
    for split in wanted:
        if not (root / split).is_dir():
            raise RuntimeError(
                f"open_imagenet: the data set must have a folder {split}, got {root} without it; "
                "pass a folder with train/<class>/* and val/<class>/*"
            )
    images = None
    classes: tuple[str, ...] | None = None
    if train:
        images = ImageFiles(
            root / "train",
            imagenet_transform(True, resize=resize, crop=crop),
            batch_transform=batch_transform,
        )
        classes = images.classes
    elif (root / "train").is_dir():
        classes = list_classes("open_imagenet", root / "train")
    transform = imagenet_transform(False, resize=resize, crop=crop)
    return images, ImageFiles(root / "val", transform, classes)
