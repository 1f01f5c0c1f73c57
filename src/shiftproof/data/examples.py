"""What a data set returns for a batch of a plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset

from shiftproof.data.plan import Batch


@dataclass(frozen=True, eq=False)
class Examples:
    """Images with their labels.

    Attributes:
        images: ``(n, C, H, W)`` float32.
        labels: Class of each image, ``(n,)`` int64.
        indices: Place of each image in the data set, ``(n,)`` int64.
        unreadable: Files of the batch that could not be read; they have no row in the tensors, so
            that ``n`` may be smaller than the batch that was asked for, even 0.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> Examples:
        """Copy the tensors to page-locked memory; ``DataLoader`` calls this.

        Returns:
            The same examples, ready for asynchronous copies to the accelerator.
        """
        return dataclasses.replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            indices=self.indices.pin_memory(),
        )


class ImageDataset(Dataset[Examples]):
    """A data set that answers a whole batch at once: ``dataset[batch]`` gives ``Examples``.

    Attributes:
        left_out: Hidden files and folders with images, which are not part of it.
    """

    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, batch: Batch) -> Examples:
        raise NotImplementedError
