"""Data sets small enough to be kept in memory as bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftproof.data.examples import Examples, ImageDataset
from shiftproof.data.plan import Batch
from shiftproof.data.transforms import BatchTransform, Normalize

_TO_UNIT_INTERVAL = Normalize()


@dataclass(frozen=True, eq=False)
class ImageTensors(ImageDataset):
    """Images in one tensor; ``dataset[batch]`` transforms a whole batch at once.

    Attributes:
        images: ``(N, C, H, W)`` uint8.
        labels: Class of each image, ``(N,)`` int64.
        classes: Names of the classes.
        transform: Makes float32 images of a batch of bytes; drawn from the batch's seed.
        unreadable: Files that belong to the data set and could not be read.
        left_out: Hidden files and folders with images, which do not belong to it.

    Raises:
        TypeError: If the images are not uint8 or the labels not int64.
        ValueError: If the shapes do not fit, or a label has no class.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    transform: BatchTransform = _TO_UNIT_INTERVAL
    unreadable: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.labels.dtype != torch.int64:
            raise TypeError(
                "ImageTensors: images must be uint8 and labels int64, got "
                f"{self.images.dtype} and {self.labels.dtype}; convert them"
            )
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                "ImageTensors: images must be (N, C, H, W) with labels (N,), got "
                f"{tuple(self.images.shape)} and {tuple(self.labels.shape)}; reshape them"
            )
        known = (self.labels >= 0) & (self.labels < len(self.classes))
        if not bool(known.all()):
            raise ValueError(
                f"ImageTensors: labels must be in [0, {len(self.classes)}), got "
                f"{self.labels[~known][0].item()}; name all classes"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, batch: Batch) -> Examples:
        indices = torch.tensor(batch.indices, dtype=torch.int64)
        generator = torch.Generator().manual_seed(batch.seed)
        return Examples(
            images=self.transform(self.images[indices], generator),
            labels=self.labels[indices],
            indices=indices,
        )

    def subset(self, indices: Sequence[int] | Tensor) -> ImageTensors:
        """Keep some of the images.

        Args:
            indices: Images to keep, in their new order.

        Returns:
            A data set of copies; ``unreadable`` and ``left_out`` stay with the one
            that was read.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        return dataclasses.replace(
            self, images=self.images[index], labels=self.labels[index], unreadable=(), left_out=()
        )

    def with_transform(self, transform: BatchTransform) -> ImageTensors:
        """The same images under another transform.

        Args:
            transform: Makes float32 images of a batch of bytes.

        Returns:
            A data set that shares this one's memory.
        """
        return dataclasses.replace(self, transform=transform)
