"""Handwritten digits that come with scikit-learn: real images without a download."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from shiftproof.data.in_memory import ImageTensors
from shiftproof.extras import require

_NUM_TEST = 400
_LARGEST_VALUE = 16


def load_digits(*, train: bool, size: int = 32) -> ImageTensors:
    """Read the training or the test digits.

    The 1,797 images of 8 x 8 are enlarged bilinearly and split once for all, 1,397 to train on and
    400 to test on, with the same share of each digit in both.

    Args:
        train: The training images instead of the test images.
        size: Height and width to bring them to, in pixels.

    Returns:
        Images of one channel.

    Raises:
        ValueError: If the size is below 1.
    """
    if size < 1:
        raise ValueError(f"load_digits: size must be at least 1, got {size}; pass a larger one")
    datasets = require("sklearn.datasets", extra="train")
    selection = require("sklearn.model_selection", extra="train")
    digits = datasets.load_digits()
    parts = selection.train_test_split(
        range(len(digits.target)), test_size=_NUM_TEST, random_state=0, stratify=digits.target
    )
    indices = torch.tensor(sorted(parts[0] if train else parts[1]))
    values = torch.from_numpy(digits.images).to(torch.float32)[indices, None] / _LARGEST_VALUE
    enlarged = F.interpolate(values, size=(size, size), mode="bilinear", align_corners=False)
    return ImageTensors(
        images=(255 * enlarged).round().to(torch.uint8),
        labels=torch.from_numpy(digits.target).to(torch.int64)[indices],
        classes=tuple(str(name) for name in digits.target_names),
    )
